//! What most chats are, seen at a glance: text by system, user and assistant, and the plainest wishes. It is what whoever passes a request on has
//! to know of it, and keeps nothing else.
//!
//! **Contract:** what is seen here, [`crate::parse_chat`] takes and reads alike. What is not may be anything, good or bad.

use crate::{chat::MESSAGES_MAX, fields::BODY_BYTES_MAX};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};
use std::{borrow::Cow, fmt, marker::PhantomData, num::NonZeroU32};

/// What routing needs of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance<'a> {
    /// The model asked for.
    pub model: Cow<'a, str>,
    /// The answer is wanted as server-sent events.
    pub stream: bool,
    /// It makes sampling reproducible itself.
    pub has_seed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chat<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    // Each field is checked by being read.
    #[serde(rename = "messages")]
    _messages: Messages,
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    seed: Option<i64>,
    #[serde(rename = "max_tokens")]
    _max_tokens: Option<NonZeroU32>,
    #[serde(rename = "max_completion_tokens")]
    _max_completion_tokens: Option<NonZeroU32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    #[serde(rename = "user")]
    _user: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(rename = "include_usage")]
    _include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    #[serde(rename = "role")]
    _role: Role,
    #[serde(rename = "content")]
    _content: Text,
}

/// Who may say something that is text and nothing else.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// One of [`ROLES`].
struct Role;

/// An object, and no list of its fields' values, which stands for one elsewhere.
struct Object<T>(T);

/// A string that is not kept.
struct Text;

/// As many messages as there may be, none of which is kept.
struct Messages;

/// A chat that is one of the plainest; `None` for every other body.
pub fn glance_chat(body: &[u8]) -> Option<Glance<'_>> {
    if body.len() > BODY_BYTES_MAX {
        return None;
    }
    // Once for all of it, rather than for each of its strings.
    let body = str::from_utf8(body).ok()?;
    let Object(chat) = serde_json::from_str::<Object<Chat>>(body).ok()?;
    let within = |value: Option<f64>, most: f64| value.is_none_or(|value| (0.0..=most).contains(&value));
    let stream = chat.stream.unwrap_or(false);
    let fits = !chat.model.is_empty()
        && within(chat.temperature, 2.0)
        && within(chat.top_p, 1.0)
        && (stream || chat.stream_options.is_none());
    fits.then_some(Glance { model: chat.model, stream, has_seed: chat.seed.is_some() })
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Read(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Role;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {ROLES:?}")
            }

            fn visit_str<E: de::Error>(self, role: &str) -> Result<Role, E> {
                if ROLES.contains(&role) { Ok(Role) } else { Err(E::invalid_value(Unexpected::Str(role), &self)) }
            }
        }
        deserializer.deserialize_str(Read)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(Read)
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "1 to {MESSAGES_MAX} messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut messages: A) -> Result<Messages, A::Error> {
                let mut count = 0;
                while messages.next_element::<Object<Message>>()?.is_some() {
                    count += 1;
                }
                if (1..=MESSAGES_MAX).contains(&count) {
                    Ok(Messages)
                } else {
                    Err(de::Error::invalid_length(count, &self))
                }
            }
        }
        deserializer.deserialize_seq(Read)
    }
}
