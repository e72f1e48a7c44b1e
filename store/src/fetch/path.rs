//! From a path: a `.gguf`, a Hugging Face folder, or a snapshot. Copied, because its owner may edit or move it.

use super::{Fetched, choose};
use crate::{
    Error,
    copy::{How, Sink, place},
    folder::Incoming,
    name,
};
use snapshot::Snapshot;
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

pub(crate) fn model(path: &Path, incoming: &Incoming, sink: &mut Sink<'_>) -> Result<Fetched, Error> {
    let metadata = fs::metadata(path).map_err(Error::io("opening", path))?;
    if metadata.is_dir() {
        return folder(path, incoming, sink);
    }
    if !metadata.is_file() {
        return Err(Error::bad(path.display().to_string(), "is neither a file nor a folder"));
    }
    let mut magic = Vec::new();
    let file = File::open(path).map_err(Error::io("opening", path))?;
    file.take(4).read_to_end(&mut magic).map_err(Error::io("reading", path))?;
    match magic.as_slice() {
        b"GGUF" => gguf(path, incoming, sink),
        b"\x89PLT" => sealed(path, incoming, sink),
        _ => Err(Error::bad(path.display().to_string(), "is neither a GGUF file nor a snapshot")),
    }
}

fn gguf(path: &Path, incoming: &Incoming, sink: &mut Sink<'_>) -> Result<Fetched, Error> {
    let name = name::harmless(&path.file_name().unwrap_or_default().to_string_lossy());
    let file = place(path, &incoming.files().join(&name), &name, How::Copy, sink)?;
    Ok(Fetched { revision: None, import: PathBuf::from("files").join(name), files: vec![file] })
}

fn folder(path: &Path, incoming: &Incoming, sink: &mut Sink<'_>) -> Result<Fetched, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("listing", path))? {
        let entry = entry.map_err(Error::io("listing", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    let chosen = choose(&path.display().to_string(), names.iter().map(String::as_str))?;
    let place = |name: &String| place(&path.join(name), &incoming.files().join(name), name, How::Copy, sink);
    let files = chosen.iter().map(place).collect::<Result<_, _>>()?;
    Ok(Fetched { revision: None, import: "files".into(), files })
}

/// A snapshot lies where one sealed here would, and is verified as a whole.
fn sealed(path: &Path, incoming: &Incoming, sink: &mut Sink<'_>) -> Result<Fetched, Error> {
    let bad = |source| Error::Snapshot { path: path.to_owned(), source };
    let word = Snapshot::open(path).map_err(bad)?.weights().to_owned();
    let name = format!("{}.snapshot", name::harmless(&word));
    let target = incoming.path().join(&name);
    let file = place(path, &target, &name, How::Copy, sink)?;
    let copied = Snapshot::open(&target).map_err(bad)?;
    copied.verify_all(&mut |done, total| sink.say("verifying", done, Some(total))).map_err(bad)?;
    Ok(Fetched { revision: None, import: name.into(), files: vec![file] })
}
