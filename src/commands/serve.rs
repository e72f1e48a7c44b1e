//! `serve`: the activator over the models that were named.

use crate::{
    allocator,
    cli::{Serve, values::ModelArg},
    environment::Environment,
    exit::{self, Error, Result},
    logging,
};
use activator::{Config, ModelEntry};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use snapshot::{Header, Snapshot};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
};
use store::Store;

/// Hands over to the activator.
pub fn start(args: &Serve, environment: &Environment) -> ExitCode {
    allocator::keep_small();
    logging::start(environment);
    match tie_to_parent(args.exit_with).and_then(|()| resolve(args, environment)) {
        Ok(config) => activator::serve(config),
        Err(error) => exit::report(Err(error)),
    }
}

/// SIGTERM when the parent is gone, so that nothing is left of a command that was killed while it served.
fn tie_to_parent(parent: Option<i32>) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| Error::file("asking for a signal when the parent ends", error.into()))?;
    // It may have ended before the kernel was asked.
    if getppid().map(Pid::as_raw_pid) == Some(parent) {
        Ok(())
    } else {
        Err(Error::Unavailable(format!("process {parent}, to end with, is not the parent of this one")))
    }
}

fn resolve(args: &Serve, environment: &Environment) -> Result<Config> {
    // What a runtime could not open is said here and not at the first request.
    args.engine.options()?;
    Ok(Config {
        listen: args.listen.map_or_else(|| environment.listen(), Ok)?,
        admin: args.admin,
        models: models(&args.models, environment)?,
        idle: args.idle,
        standby: args.standby,
        hold_max: args.hold_max,
        early_headers_after: args.early_headers_after,
        start_timeout: args.start_timeout,
        drain_timeout: args.drain_timeout,
        timeout: args.timeout,
        body_bytes_max: body_bytes_max(args.body_max)?,
        runtime_command: runtime_command(args)?,
        knative: environment.knative(),
    })
}

/// No more than what the parser of requests reads.
fn body_bytes_max(asked: u64) -> Result<usize> {
    let bytes = usize::try_from(asked).ok().filter(|bytes| *bytes <= protocol::BODY_BYTES_MAX);
    bytes.ok_or_else(|| Error::Usage(format!("--body-max is at most {} bytes", protocol::BODY_BYTES_MAX)))
}

fn runtime_command(args: &Serve) -> Result<Vec<OsString>> {
    let program = std::env::current_exe().map_err(|error| Error::file("finding this program's own file", error))?;
    let open = args.no_confine.then(|| "--no-confine".into());
    Ok([program.into_os_string(), "runtime".into()].into_iter().chain(args.engine.words()).chain(open).collect())
}

fn models(args: &[ModelArg], environment: &Environment) -> Result<Vec<ModelEntry>> {
    let entries = match args {
        [] => all_of_the_store(environment)?,
        args => args.iter().map(|arg| entry(arg, environment)).collect::<Result<_>>()?,
    };
    let mut names = BTreeSet::new();
    match entries.iter().find(|entry| !names.insert(entry.name.as_str())) {
        Some(twice) => Err(Error::Usage(format!(
            "two models are named {:?}; give one another name: --model NAME=FILE",
            twice.name
        ))),
        None => Ok(entries),
    }
}

fn entry(arg: &ModelArg, environment: &Environment) -> Result<ModelEntry> {
    match arg {
        ModelArg::Named(name, file) => {
            check(file)?;
            Ok(ModelEntry { name: name.clone(), snapshot: file.clone() })
        }
        ModelArg::Bare(file) if is_path(file) => {
            let name = check(file)?;
            Ok(ModelEntry { name, snapshot: file.clone() })
        }
        ModelArg::Bare(name) => of_the_store(&name.to_string_lossy(), environment),
    }
}

/// A word with a slash, or one that ends as snapshots do, is a file.
fn is_path(word: &Path) -> bool {
    word.components().count() > 1 || word.extension().is_some_and(|extension| extension == "snapshot")
}

fn of_the_store(name: &str, environment: &Environment) -> Result<ModelEntry> {
    let store = Store::open(&environment.store()?)?;
    let entry = store.get(name)?.ok_or_else(|| {
        Error::NoModel(format!(
            "the store has no model {name:?}; fetch and seal it: pilotlight pull {name} && pilotlight seal {name}"
        ))
    })?;
    let snapshot = preferred(&store, &entry)
        .ok_or_else(|| Error::NoModel(format!("the store has no snapshot of {name:?}; run: pilotlight seal {name}")))?;
    check(&snapshot)?;
    Ok(ModelEntry { name: name.into(), snapshot })
}

/// The snapshot with the makers' own weights, else any.
pub fn preferred(store: &Store, entry: &store::Entry) -> Option<PathBuf> {
    let native = store.snapshot_path(&entry.name, "native");
    entry.snapshots.iter().find(|path| **path == native).or(entry.snapshots.first()).cloned()
}

fn all_of_the_store(environment: &Environment) -> Result<Vec<ModelEntry>> {
    let store = Store::open(&environment.store()?)?;
    let entries: Vec<ModelEntry> = store
        .list()?
        .into_iter()
        .filter_map(|entry| Some(ModelEntry { snapshot: preferred(&store, &entry)?, name: entry.name }))
        .collect();
    if entries.is_empty() {
        return Err(Error::Usage(
            "nothing to serve: name a snapshot (--model NAME=FILE), or fill the store (pilotlight pull smollm2 && pilotlight seal smollm2)".into(),
        ));
    }
    entries.iter().try_for_each(|entry| check(&entry.snapshot).map(drop))?;
    Ok(entries)
}

/// Header and table are those of a snapshot; its own name for the model. Its weights are verified at each restore.
pub fn check(file: &Path) -> Result<String> {
    if !file.exists() {
        return Err(Error::NoFile(file.into()));
    }
    let named = |source| Error::SnapshotFile { path: file.into(), source };
    match Snapshot::open(file) {
        Ok(snapshot) => Ok(snapshot.model().to_owned()),
        // Without a key the header alone can be read.
        Err(snapshot::Error::Encrypted) => {
            let open = File::open(file).map_err(|error| Error::file(format!("opening {}", file.display()), error))?;
            Ok(Header::read(&open).map_err(named)?.model)
        }
        Err(source) => Err(named(source)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::Command;

    #[test]
    fn files_and_names_are_told_apart() {
        for (word, file) in
            [("smollm2", false), ("a.snapshot", true), ("./smollm2", true), ("/m/x", true), ("v1.5", false)]
        {
            assert_eq!(is_path(Path::new(word)), file, "{word}");
        }
    }

    #[test]
    fn what_is_not_said_is_the_activators_default() {
        let words = ["pilotlight", "serve"].map(OsString::from);
        let Ok(Command::Serve(args)) = crate::cli::parse(words) else { panic!("serve needs no more words") };
        let default = Config::default();
        assert_eq!((args.admin, args.idle, args.standby), (default.admin, default.idle, default.standby));
        assert_eq!((args.hold_max, args.early_headers_after), (default.hold_max, default.early_headers_after));
        assert_eq!((args.start_timeout, args.drain_timeout), (default.start_timeout, default.drain_timeout));
        assert_eq!((args.timeout, args.body_max), (default.timeout, default.body_bytes_max as u64));
    }

    #[test]
    fn a_file_that_is_not_there_is_66() {
        let arg = ModelArg::Named("a".into(), "/nowhere/a.snapshot".into());
        assert_eq!(models(&[arg], &Environment::default()).unwrap_err().code(), 66);
    }
}
