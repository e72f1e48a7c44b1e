//! `config`, `key` and `audit`: for who operates `serve`.

use super::serve;
use crate::{
    cli::{Audit, Config, Key},
    configuration::File,
    environment::Environment,
    exit::{Error, Result},
    output,
};
use activator::{audit, tenants::key::KeyHash};
use serde_json::json;

/// `config …`
pub fn config(command: &Config, environment: &Environment) -> Result<()> {
    match command {
        Config::Example => output::piece(include_str!("../configuration/example.toml")),
        Config::Schema => output::json(schemars::schema_for!(File).as_value()),
        Config::Check(args) => {
            let config = serve::of_file(&args.file, environment)?;
            config.check().map_err(|error| Error::Usage(format!("{}: {error}", args.file.display())))?;
            let (models, tenants) = (config.models.len(), config.tenants.len());
            output::line(format_args!("{}: right; models {models}, tenants {tenants}", args.file.display()))
        }
    }
}

/// `key …`
pub fn key(command: &Key) -> Result<()> {
    let Key::New(args) = command;
    let (key, hash) = KeyHash::new().map_err(|_| Error::Unavailable("the system gives no random numbers".into()))?;
    if args.json {
        return output::json(&json!({ "key": key, "id": hash.id, "hash": hash.to_string() }));
    }
    output::line(key)?;
    output::note("The key is shown this once. In the configuration of serve, under [tenants.NAME] or [operators]:");
    output::note(format_args!("keys = [\"{hash}\"]"));
    Ok(())
}

/// `audit …`
pub fn audit(command: &Audit) -> Result<()> {
    let Audit::Verify(args) = command;
    let verified = audit::verify(&args.file).map_err(|broken| match broken {
        audit::Broken::Io(error) if error.kind() == std::io::ErrorKind::NotFound => Error::NoFile(args.file.clone()),
        audit::Broken::Io(error) => Error::file(format!("reading {}", args.file.display()), error),
        broken @ audit::Broken::Line { .. } => Error::Data(format!("{}: {broken}", args.file.display())),
    })?;
    if args.hash.as_ref().is_some_and(|hash| *hash != verified.hash) {
        let message = format!(
            "{}: its last line's hash is {}, another than the one that was kept: lines were added since, or cut off",
            args.file.display(),
            verified.hash
        );
        return Err(Error::Data(message));
    }
    if args.json {
        return output::json(&json!({ "lines": verified.lines, "hash": verified.hash }));
    }
    output::line(format_args!(
        "{} lines, each as it was written; the last one's hash is {}",
        verified.lines, verified.hash
    ))
}
