//! `guest new`: a folder with a guest to begin with, and the SDK that it is built from beside it, so that nothing else is needed.

use crate::{
    cli::GuestNew,
    exit::{Error, Result},
    output,
};
use std::{fs, path::Path};

/// The SDK's sources, as they are built into this command: path and content.
const SDK: [(&str, &str); 13] = [
    ("Cargo.toml", include_str!("../../../guest-sdk/template/sdk.toml.in")),
    ("src/lib.rs", include_str!("../../../guest-sdk/src/lib.rs")),
    ("src/edit.rs", include_str!("../../../guest-sdk/src/edit.rs")),
    ("src/export.rs", include_str!("../../../guest-sdk/src/export.rs")),
    ("src/hooks.rs", include_str!("../../../guest-sdk/src/hooks.rs")),
    ("src/bindings/mod.rs", include_str!("../../../guest-sdk/src/bindings/mod.rs")),
    ("src/bindings/request_hook.rs", include_str!("../../../guest-sdk/src/bindings/request_hook.rs")),
    ("src/bindings/response_hook.rs", include_str!("../../../guest-sdk/src/bindings/response_hook.rs")),
    ("src/bindings/services.rs", include_str!("../../../guest-sdk/src/bindings/services.rs")),
    ("src/bindings/text_hook.rs", include_str!("../../../guest-sdk/src/bindings/text_hook.rs")),
    ("src/bindings/token_hook.rs", include_str!("../../../guest-sdk/src/bindings/token_hook.rs")),
    ("wit/world.wit", include_str!("../../../guest-sdk/wit/world.wit")),
    ("wit/hooks.wit", include_str!("../../../guest-sdk/wit/hooks.wit")),
];

/// The guest itself; `NAME` is its name.
const GUEST: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("../../../guest-sdk/template/Cargo.toml.in")),
    ("guest.toml", include_str!("../../../guest-sdk/template/guest.toml.in")),
    ("src/lib.rs", include_str!("../../../guest-sdk/template/src/lib.rs")),
    ("cases/loud.json", include_str!("../../../guest-sdk/template/cases/loud.json")),
    ("cases/unchanged.json", include_str!("../../../guest-sdk/template/cases/unchanged.json")),
];

/// Writes it, and prints its path.
pub fn new(args: &GuestNew) -> Result<()> {
    check(&args.name)?;
    let folder = Path::new(&args.name);
    if folder.exists() {
        return Err(Error::Usage(format!("{} is there already; choose another name", folder.display())));
    }
    for (path, content) in GUEST {
        write(&folder.join(path), &content.replace("NAME", &args.name))?;
    }
    for (path, content) in SDK {
        write(&folder.join("guest-sdk").join(path), content)?;
    }
    write(&folder.join(".gitignore"), "target/\n*.wasm\n")?;
    output::line(folder.display())?;
    output::note(format_args!("next: cd {name} && pilotlight guest build && pilotlight guest test", name = args.name));
    Ok(())
}

/// A name that is one of Cargo's, too.
fn check(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if begins && name.len() <= 64 && name.chars().all(fits) && name != "guest-sdk" {
        return Ok(());
    }
    let rule = "begins with a lower-case letter and has letters, digits and dashes, 64 at most";
    Err(Error::Usage(format!("{name:?} cannot be a guest's name: one {rule}")))
}

fn write(path: &Path, content: &str) -> Result<()> {
    let failed = |error| Error::file(format!("writing {}", path.display()), error);
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    fs::write(path, content).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_cargos() {
        assert!(check("redact-2").is_ok());
        for name in ["", "2x", "Redact", "a b", "../x", "guest-sdk", &"x".repeat(65)] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
