//! `seal`: a model's files → one snapshot.

use crate::{
    cli::{Seal, Weights},
    commands::guests,
    environment::Environment,
    exit::{Error, Result},
    output,
    progress::Progress,
};
use models::{Ahead, ComputeDevice, SealOptions, Source, Target};
use snapshot::OperatorKey;
use std::path::{Path, PathBuf};
use store::{Entry, Store};

/// Seals, and prints the snapshot's path.
pub fn seal(args: &Seal, environment: &Environment) -> Result<()> {
    let job = resolve(args, environment)?;
    job.run()?;
    output::line(job.out.display())
}

/// What to seal, into what.
pub struct Job {
    model: String,
    source: PathBuf,
    /// The snapshot's path.
    pub out: PathBuf,
    weights: Weights,
    target: Target,
    /// What many prompts begin with.
    prefix: Option<PathBuf>,
    /// Whose kernels are compiled ahead.
    kernels: Option<ComputeDevice>,
    encrypt: Option<OperatorKey>,
    /// What requests and answers go through.
    guests: Option<Vec<u8>>,
}

impl Job {
    /// Into the store's own place for it.
    pub fn of_entry(store: &Store, entry: &Entry, weights: Weights) -> Self {
        Self {
            model: entry.name.clone(),
            source: entry.path.clone(),
            out: store.snapshot_path(&entry.name, weights.word()),
            weights,
            target: Target::here(),
            prefix: None,
            kernels: None,
            encrypt: None,
            guests: None,
        }
    }

    /// Seals with a progress bar.
    pub fn run(&self) -> Result<()> {
        if let Some(folder) = self.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|error| Error::file(format!("creating {}", folder.display()), error))?;
        }
        let source = Source::open(&self.source)?;
        let options = SealOptions {
            model: self.model.clone(),
            weights: self.weights.into(),
            target: self.target,
            encrypt: self.encrypt.clone(),
            guests: self.guests.clone(),
        };
        let step = format!("sealing {}", self.model);
        let mut progress = Progress::new();
        let mut show = |done, total| progress.at(&step, done, Some(total));
        let prefix = self.prefix.as_deref().map(read_prefix).transpose()?;
        let ahead = Ahead { prefix, kernels: self.kernels };
        let sealed = models::seal_ahead(&source, &self.out, &options, &ahead, &mut show)?;
        progress.done(&format!(
            "sealed {} ({}), sha256 {}",
            self.out.display(),
            output::bytes(sealed.bytes),
            sealed.digest
        ));
        Ok(())
    }
}

fn resolve(args: &Seal, environment: &Environment) -> Result<Job> {
    let source = Path::new(&args.model);
    if source.exists() {
        let model = name_of(source)?;
        let out = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{model}.snapshot")));
        let (prefix, encrypt) = (args.prefix.clone(), operator_key(args.encrypt_key.as_deref())?);
        return Ok(Job {
            model,
            source: source.into(),
            out,
            weights: args.weights,
            target: args.target()?,
            prefix,
            kernels: args.kernels,
            encrypt,
            guests: guests::section(&args.guests, environment)?,
        });
    }
    let store = Store::open(&environment.store()?)?;
    let entry = store.get(&args.model)?.ok_or_else(|| unknown(&args.model))?;
    let mut job = Job::of_entry(&store, &entry, args.weights);
    job.out = args.output.clone().unwrap_or(job.out);
    job.target = args.target()?;
    job.prefix = args.prefix.clone();
    job.kernels = args.kernels;
    job.encrypt = operator_key(args.encrypt_key.as_deref())?;
    job.guests = guests::section(&args.guests, environment)?;
    Ok(job)
}

/// The operator's key in a file, or behind `command:PROGRAM`.
///
/// # Errors
/// The file cannot be read, or holds no key; there is no such program.
pub fn operator_key(file: Option<&Path>) -> Result<Option<OperatorKey>> {
    let Some(file) = file else { return Ok(None) };
    if let Some(program) = file.to_str().and_then(|file| file.strip_prefix("command:")) {
        let program = Path::new(program);
        // Looked for in no other place than the one that is named: what is run is given keys.
        return match program.is_file() {
            true => {
                Ok(Some(OperatorKey::from_command(&std::path::absolute(program).unwrap_or_else(|_| program.into()))))
            }
            false => Err(Error::NoFile(program.into())),
        };
    }
    if !file.exists() {
        return Err(Error::NoFile(file.into()));
    }
    let bytes = std::fs::read(file).map_err(|error| Error::file(format!("reading {}", file.display()), error))?;
    let wrong = || {
        let file = file.display();
        Error::Usage(format!(
            "{file}: a key is 32 bytes, or 64 hexadecimal digits; make one: openssl rand -hex 32 > {file}"
        ))
    };
    OperatorKey::from_bytes(&bytes).map(Some).ok_or_else(wrong)
}

fn read_prefix(file: &Path) -> Result<String> {
    if !file.exists() {
        return Err(Error::NoFile(file.into()));
    }
    std::fs::read_to_string(file).map_err(|error| Error::file(format!("reading {}", file.display()), error))
}

fn unknown(model: &str) -> Error {
    if model.contains('/') || model.ends_with(".gguf") {
        return Error::NoFile(model.into());
    }
    Error::NoModel(format!(
        "{model:?} is neither a model of the store nor a file; fetch it first: pilotlight pull {model}"
    ))
}

/// The name of a model that comes from a path: the folder's, or the file's without its ending.
fn name_of(source: &Path) -> Result<String> {
    let full = source.canonicalize().map_err(|error| Error::file(format!("opening {}", source.display()), error))?;
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.map(|name| name.to_string_lossy().into_owned())
        .ok_or_else(|| Error::Usage(format!("{}: no name can be taken from this path", source.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_path_names_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("My-Model.Q4_1.gguf");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(name_of(&file).unwrap(), "My-Model.Q4_1");
        let sub = folder.path().join("tiny");
        std::fs::create_dir(&sub).unwrap();
        assert_eq!(name_of(&sub.join(".")).unwrap(), "tiny");
    }

    #[test]
    fn what_is_not_there_says_what_to_do() {
        assert_eq!(unknown("x.gguf").code(), 66);
        assert!(unknown("smollm2").to_string().contains("pilotlight pull smollm2"));
    }
}
