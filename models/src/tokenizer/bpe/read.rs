//! The `model` of a `tokenizer.json` → [`Bpe`], with no string made on the way.

use super::{Bpe, PairMap, Rules, Tables, vocabulary::Vocabulary};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

impl<'de> Deserialize<'de> for Bpe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BpeVisitor)
    }
}

struct BpeVisitor;

impl<'de> Visitor<'de> for BpeVisitor {
    type Value = Bpe;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a BPE model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bpe, A::Error> {
        let mut vocabulary: Option<Vocabulary> = None;
        let mut merges: Option<PairMap> = None;
        // Merges that come before the vocabulary wait for it.
        let mut early: Option<serde_json::Value> = None;
        let mut unknown = None;
        let (mut fuse_unknown, mut byte_fallback, mut ignore_merges) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => match map.next_value::<Option<String>>()?.as_deref() {
                    None | Some("BPE") => {}
                    Some(other) => return Err(A::Error::custom(format_args!("a {other} model, read are BPE models"))),
                },
                "unk_token" => unknown = map.next_value()?,
                "fuse_unk" => fuse_unknown = map.next_value::<Option<bool>>()?,
                "byte_fallback" => byte_fallback = map.next_value::<Option<bool>>()?,
                "ignore_merges" => ignore_merges = map.next_value::<Option<bool>>()?,
                "dropout" => refuse(&key, map.next_value::<Option<f32>>()?.is_some_and(|share| share > 0.0))?,
                "continuing_subword_prefix" | "end_of_word_suffix" => {
                    refuse(&key, map.next_value::<Option<String>>()?.is_some_and(|text| !text.is_empty()))?;
                }
                "vocab" => vocabulary = Some(map.next_value_seed(VocabularySeed)?),
                "merges" => match &vocabulary {
                    Some(vocabulary) => merges = Some(map.next_value_seed(MergesSeed(vocabulary))?),
                    None => early = Some(map.next_value()?),
                },
                _ => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        let vocabulary = vocabulary.ok_or_else(|| A::Error::missing_field("vocab"))?;
        if let Some(early) = early {
            merges = Some(MergesSeed(&vocabulary).deserialize(early).map_err(A::Error::custom)?);
        }
        let merges = merges.ok_or_else(|| A::Error::missing_field("merges"))?;
        let tables = Tables::of(&vocabulary, &merges).map_err(A::Error::custom)?;
        let rules = Rules {
            unknown,
            fuse_unknown: fuse_unknown.unwrap_or(false),
            byte_fallback: byte_fallback.unwrap_or(false),
            ignore_merges: ignore_merges.unwrap_or(false),
        };
        Ok(Bpe::new(tables, rules))
    }
}

fn refuse<E: Error>(key: &str, used: bool) -> Result<(), E> {
    if used { Err(E::custom(format_args!("`{key}` is not supported"))) } else { Ok(()) }
}

struct VocabularySeed;

impl<'de> DeserializeSeed<'de> for VocabularySeed {
    type Value = Vocabulary;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vocabulary, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for VocabularySeed {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tokens to ids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
        let mut vocabulary = Vocabulary::default();
        let mut token = String::new();
        while map.next_key_seed(TextSeed(&mut token))?.is_some() {
            let id = map.next_value()?;
            vocabulary.insert(&token, id).map_err(A::Error::custom)?;
            token.clear();
        }
        Ok(vocabulary)
    }
}

/// Appends a string to one that is already there.
struct TextSeed<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for TextSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

struct MergesSeed<'a>(&'a Vocabulary);

impl<'de> DeserializeSeed<'de> for MergesSeed<'_> {
    type Value = PairMap;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PairMap, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed<'_> {
    type Value = PairMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PairMap, A::Error> {
        let mut merges = PairMap::with_capacity(self.0.len());
        let mut text = String::new();
        let (mut rank, mut guess) = (0u32, 0u32);
        while let Some(split) = seq.next_element_seed(MergeSeed(&mut text))? {
            let known = |token: &str| {
                let missing = || A::Error::custom(format_args!("merge {rank}: {token:?} is not in the vocabulary"));
                self.0.id(token).ok_or_else(missing)
            };
            let (left, right) = text.split_at(split);
            // Merges mostly come in the order of the tokens they make: a look at the next one spares most searches.
            let next = self.0.token(guess).filter(|token| *token == text).map(|_| guess);
            let made = next.map_or_else(|| known(&text), Ok)?;
            guess = made.saturating_add(1);
            merges.insert((known(left)?, known(right)?), (rank, made));
            text.clear();
            rank += 1;
        }
        Ok(merges)
    }
}

/// Reads one merge, `["a", "b"]` or `"a b"`, as `ab`, and where it was split.
struct MergeSeed<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for MergeSeed<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeSeed<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a pair of tokens")
    }

    fn visit_str<E: Error>(self, pair: &str) -> Result<usize, E> {
        let halves = pair.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = halves.ok_or_else(|| E::custom(format_args!("merge {pair:?} is no pair")))?;
        self.0.push_str(left);
        self.0.push_str(right);
        Ok(left.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let missing = || A::Error::custom("a merge of fewer than two tokens");
        seq.next_element_seed(TextSeed(self.0))?.ok_or_else(missing)?;
        let split = self.0.len();
        seq.next_element_seed(TextSeed(self.0))?.ok_or_else(missing)?;
        match seq.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(split),
            Some(_) => Err(A::Error::custom("a merge of more than two tokens")),
        }
    }
}
