//! Keys: a file's own, and the operator's, which wraps it: 32 bytes, or a command that asks a key service.

mod command;
mod own;

use crate::Error;
use command::KeyCommand;
use own::OwnKey;
use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use std::{io, path::Path};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Most bytes of a wrapped key, as it lies beside its file.
pub const WRAPPED_KEY_BYTES_MAX: usize = 4 << 10;
pub(crate) const NONCE_BYTES: usize = 12;

/// The operator's key.
#[derive(Clone)]
pub struct OperatorKey(Kind);

#[derive(Clone)]
enum Kind {
    Own(OwnKey),
    Command(KeyCommand),
}

/// A file's own key.
#[derive(Clone)]
pub struct DataKey([u8; KEY_BYTES]);

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorKey(…)")
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl OperatorKey {
    /// 32 bytes as they are, or as 64 hexadecimal digits and a line's end; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        OwnKey::from_bytes(bytes).map(Kind::Own).map(Self)
    }

    /// One that nobody has and that is lost with the process: for files that only this process is to read.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn random() -> Result<Self, Error> {
        Ok(Self(Kind::Own(OwnKey::random()?)))
    }

    /// A program that wraps and unwraps, for keys that no file may hold. It is run as `PROGRAM wrap DIGEST` or `PROGRAM unwrap DIGEST`, is
    /// given a key in 64 hexadecimal digits, or what it made of one, on standard input, and prints the other; the digest (hexadecimal) says
    /// for which model, e.g. to bind it as context. What it prints lies beside the snapshot.
    pub fn from_command(program: &Path) -> Self {
        Self(Kind::Command(KeyCommand::new(program)))
    }

    /// Unwrapping runs a program.
    pub fn is_program(&self) -> bool {
        matches!(self.0, Kind::Command(_))
    }

    /// A file's key as it lies beside the file with this digest.
    pub(crate) fn wrap(&self, key: &DataKey, digest: &[u8; 32]) -> Result<String, Error> {
        match &self.0 {
            Kind::Own(own) => own.wrap(key, digest),
            Kind::Command(command) => command.wrap(key, digest),
        }
    }

    /// The reverse; with a command that waits for it.
    ///
    /// # Errors
    /// [`Error::Key`]: no wrapped key, another operator's, or another file's; what the command says.
    pub fn unwrap(&self, wrapped: &[u8], digest: &[u8; 32]) -> Result<DataKey, Error> {
        match &self.0 {
            Kind::Own(own) => own.unwrap(wrapped, digest),
            Kind::Command(command) => command.unwrap(wrapped, digest),
        }
    }
}

impl DataKey {
    /// A new one.
    pub(crate) fn random() -> Result<Self, Error> {
        let mut key = [0; KEY_BYTES];
        random(&mut key)?;
        Ok(Self(key))
    }

    pub(crate) fn cipher(&self) -> LessSafeKey {
        cipher(&self.0)
    }
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    let none = |_| Error::io("asking for random bytes")(io::Error::other("the system has none"));
    SystemRandom::new().fill(bytes).map_err(none)
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length"))
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}
