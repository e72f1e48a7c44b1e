//! `serve`: the activator over the models that were named.

use crate::{
    allocator,
    cli::{self, Command, Serve, values::ModelArg},
    commands::guests,
    configuration::{
        self, File,
        file::{Model, Time},
    },
    environment::Environment,
    exit::{self, Error, Result},
    logging,
};
use activator::{Config, ModelEntry, Source};
use models::ComputeDevice;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use snapshot::{Header, Snapshot};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use store::Store;

/// Hands over to the activator.
pub fn start(args: &Serve, environment: &Environment) -> ExitCode {
    allocator::keep_small();
    logging::start(environment);
    // Before it is read, so that no change of it is missed.
    let source = source(args, environment);
    match tie_to_parent(args.exit_with).and_then(|()| resolve(args, environment)) {
        Ok(config) => activator::serve(config, source),
        Err(error) => exit::report(Err(error)),
    }
}

/// How the configuration is read again, where there is a file of it.
fn source(args: &Serve, environment: &Environment) -> Option<Source> {
    let file = args.config.clone()?;
    let (args, environment) = (args.clone(), environment.clone());
    let read = move || resolve(&args, &environment).map_err(|error| error.to_string());
    let named = file.clone();
    Some(Source::new(file, Arc::new(read)).beside(move || guests::named(&named)))
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

/// What `serve --config FILE` would do.
pub fn of_file(file: &Path, environment: &Environment) -> Result<Config> {
    let words = ["pilotlight".into(), "serve".into(), "--config".into(), file.as_os_str().to_owned()];
    match cli::parse(words) {
        // Where things are kept is said to `serve`, and not here.
        Ok(Command::Serve(args)) => resolve_with(&args, true, environment),
        _ => Err(Error::Usage(format!("{}: no name of a file", file.display()))),
    }
}

/// Flags before the file before the defaults.
fn resolve(args: &Serve, environment: &Environment) -> Result<Config> {
    resolve_with(args, args.engine.kv_dir.is_some(), environment)
}

/// `keeps`: there is a place for what durable guests keep.
fn resolve_with(args: &Serve, keeps: bool, environment: &Environment) -> Result<Config> {
    // What a runtime could not open is said here and not at the first request.
    args.engine.options()?;
    let file = args.config.as_deref().map(configuration::read).transpose()?.unwrap_or_default();
    let folder = args.config.as_deref().map(configuration::folder).unwrap_or_default();
    let default = Config::default();
    let listen = args.listen.or(file.listen.map(|address| address.0));
    let tenants = file.tenants.iter().map(|(name, tenant)| tenant.entry(name)).collect::<Result<Vec<_>>>()?;
    let issuers: Vec<_> = file.issuers.iter().map(|issuer| issuer.entry(&folder)).collect();
    let known = !tenants.is_empty() || !issuers.is_empty();
    let mut models = models(&args.models, &file, &folder, keeps, environment)?;
    if known {
        // Who comes next is decided where tenants are known, not in the engine's own queue.
        let places = args.engine.max_sequences.unwrap_or(runtime::SEQUENCES_DEFAULT);
        models.iter_mut().for_each(|model| model.concurrency = model.concurrency.or(Some(places)));
    }
    let time =
        |flag: Option<Duration>, file: Option<Time>, default| flag.or(file.map(|time| time.0)).unwrap_or(default);
    Ok(Config {
        listen: listen.map_or_else(|| environment.listen(), Ok)?,
        admin: args.admin.or(file.admin.map(|address| address.0)).unwrap_or(default.admin),
        models,
        tenants,
        issuers,
        anonymous: args.anonymous || file.anonymous.unwrap_or_default(),
        platform: listen.is_none() && environment.has_platform(),
        admin_keys: configuration::keys("operators.keys", &file.operators.keys)?,
        traces: file.traces.entry(&environment.telemetry)?,
        tls: file.tls.as_ref().map(|tls| tls.entry(&folder)),
        slices: file.slices.iter().map(configuration::file::Slice::entry).collect(),
        devices: environment.devices.clone(),
        nvml_library: environment.nvml_library.clone(),
        wants_gpu: wants_gpu(args.engine.device.unwrap_or_default())?,
        groups: file.groups.iter().map(|(name, group)| group.entry(name)).collect(),
        residence: file.placement.residence.map_or(default.residence, |time| time.0),
        swaps_per_minute: file.placement.swaps_per_minute.unwrap_or(default.swaps_per_minute),
        audit: args.audit.clone().or(file.audit.map(|path| folder.join(path))),
        idle: time(args.idle, file.idle, default.idle),
        standby: args.standby.or(file.standby).unwrap_or(default.standby),
        standby_memory_bytes: args
            .standby_memory
            .or(file.standby_memory.map(|size| size.0))
            .unwrap_or(default.standby_memory_bytes),
        hold_max: args.hold_max.or(file.hold_max).unwrap_or(default.hold_max),
        early_headers_after: time(args.early_headers_after, file.early_headers_after, default.early_headers_after),
        start_timeout: time(args.start_timeout, file.start_timeout, default.start_timeout),
        drain_timeout: time(args.drain_timeout, file.drain_timeout, default.drain_timeout),
        timeout: time(args.timeout, file.timeout, default.timeout),
        body_bytes_max: match args.body_max.or(file.body_max.map(|size| size.0)) {
            Some(asked) => body_bytes_max(asked)?,
            None => default.body_bytes_max,
        },
        inherited: environment.inherited(),
        successor: environment.command().to_vec(),
        runtime_command: runtime_command(args)?,
        knative: environment.knative(),
    })
}

/// Whether runtimes compute on GPUs. Each is given one, so it is always its first.
fn wants_gpu(device: ComputeDevice) -> Result<bool> {
    match device {
        ComputeDevice::Cpu | ComputeDevice::Vulkan => Ok(false),
        ComputeDevice::Cuda(0) => Ok(true),
        ComputeDevice::Cuda(number) => Err(Error::Usage(format!(
            "serve gives each runtime a slice of its own, which is its device 0: say --device cuda, and which GPUs there are for it in the \
             configuration ([[slices]] with device = \"{number}\") or in CUDA_VISIBLE_DEVICES"
        ))),
    }
}

/// No more than what the parser of requests reads.
fn body_bytes_max(asked: u64) -> Result<usize> {
    let bytes = usize::try_from(asked).ok().filter(|bytes| *bytes <= protocol::BODY_BYTES_MAX);
    bytes.ok_or_else(|| Error::Usage(format!("body_max is at most {} bytes", protocol::BODY_BYTES_MAX)))
}

fn runtime_command(args: &Serve) -> Result<Vec<OsString>> {
    let program = std::env::current_exe().map_err(|error| Error::file("finding this program's own file", error))?;
    let open = args.no_confine.then(|| "--no-confine".into());
    Ok([program.into_os_string(), "runtime".into()].into_iter().chain(args.engine.words()).chain(open).collect())
}

/// `keeps`: there is a place for what durable guests keep.
fn models(
    args: &[ModelArg],
    file: &File,
    folder: &Path,
    keeps: bool,
    environment: &Environment,
) -> Result<Vec<ModelEntry>> {
    let entries = match (args, file.models.is_empty()) {
        ([], true) => all_of_the_store(environment)?,
        ([], false) => of_the_file(file, folder, keeps, environment)?,
        (args, _) => args.iter().map(|arg| entry(arg, environment)).collect::<Result<_>>()?,
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

/// The models of a configuration: each its file, or a model of the store.
fn of_the_file(file: &File, folder: &Path, keeps: bool, environment: &Environment) -> Result<Vec<ModelEntry>> {
    let one = |(name, model): (&String, &Model)| {
        let snapshot = match &model.snapshot {
            Some(path) if is_path(path) => {
                let path = folder.join(path);
                check(&path)?;
                path
            }
            Some(name) => of_the_store(&name.to_string_lossy(), environment)?.snapshot,
            None => of_the_store(name, environment)?.snapshot,
        };
        let mut entry = model.entry(name, snapshot)?;
        if let Some(files) = &model.guests {
            let files: Vec<PathBuf> = files.iter().map(|file| guests::from(folder, file)).collect();
            entry.guests = Some(guests::deploy(&format!("models.{name}.guests"), &files, keeps, environment)?);
        }
        Ok(entry)
    };
    file.models.iter().map(one).collect()
}

fn entry(arg: &ModelArg, environment: &Environment) -> Result<ModelEntry> {
    match arg {
        ModelArg::Named(name, file) => {
            check(file)?;
            Ok(ModelEntry::new(name, file))
        }
        ModelArg::Bare(file) if is_path(file) => {
            let name = check(file)?;
            Ok(ModelEntry::new(name, file))
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
    Ok(ModelEntry::new(name, snapshot))
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
        .filter_map(|entry| Some(ModelEntry::new(&entry.name, preferred(&store, &entry)?)))
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
            let open =
                fs::File::open(file).map_err(|error| Error::file(format!("opening {}", file.display()), error))?;
            Ok(Header::read(&open).map_err(named)?.model)
        }
        Err(source) => Err(named(source)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_and_names_are_told_apart() {
        for (word, file) in
            [("smollm2", false), ("a.snapshot", true), ("./smollm2", true), ("/m/x", true), ("v1.5", false)]
        {
            assert_eq!(is_path(Path::new(word)), file, "{word}");
        }
    }

    #[test]
    fn flags_count_more_than_the_file_and_the_file_more_than_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pilotlight.toml");
        let resolved = |text: &str, flags: &[&str], environment: &Environment| {
            fs::write(&path, text).unwrap();
            let words =
                ["pilotlight", "serve", "--config", path.to_str().unwrap()].into_iter().chain(flags.iter().copied());
            let Ok(Command::Serve(args)) = cli::parse(words.map(OsString::from)) else { panic!("{flags:?}") };
            resolve(&args, environment)
        };
        let golden = concat!("--model=m=", env!("CARGO_MANIFEST_DIR"), "/tests/golden/none.snapshot");
        assert_eq!(resolved("", &[golden], &Environment::default()).unwrap_err().code(), 66);
        assert_eq!(
            resolved("[models.m]\nsnapshot = \"./m.snapshot\"", &[], &Environment::default()).unwrap_err().code(),
            66
        );
        assert_eq!(resolved("body_max = \"1TiB\"", &[], &Environment::default()).unwrap_err().code(), 64);
    }

    #[test]
    fn a_file_that_is_not_there_is_66() {
        let arg = ModelArg::Named("a".into(), "/nowhere/a.snapshot".into());
        assert_eq!(
            models(&[arg], &File::default(), Path::new(""), false, &Environment::default()).unwrap_err().code(),
            66
        );
    }
}
