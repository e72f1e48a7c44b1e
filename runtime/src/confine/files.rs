//! Files, by Landlock: nothing can be opened, made, renamed or removed but within one folder, whatever the user may do.
//!
//! What is open already stays so. Of what newer kernels can refuse, as much as they know up to [`KNOWN`]: TCP, signals to and abstract sockets
//! of other processes. The calling thread and those it starts are confined, others are not.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use std::os::fd::BorrowedFd;

/// The newest version whose rights are refused here; those of later ones are not tested.
const KNOWN: ABI = ABI::V6;

/// Within `folder` files may be made, read, written and cut; elsewhere nothing. Says the kernel's version of Landlock.
///
/// # Errors
/// In words: there is no Landlock.
pub fn only_within(folder: Option<BorrowedFd<'_>>) -> Result<i32, String> {
    let status = restrict(folder).map_err(|error| error.to_string())?;
    match (status.landlock, status.ruleset) {
        (LandlockStatus::Available { effective_abi, kernel_abi }, ruleset) if ruleset != RulesetStatus::NotEnforced => {
            Ok(kernel_abi.unwrap_or(effective_abi as i32))
        }
        (LandlockStatus::NotEnabled, _) => Err("the kernel has it, but was started without it".to_owned()),
        _ => Err("the kernel was built without it, or a container's confinement hides it".to_owned()),
    }
}

fn restrict(folder: Option<BorrowedFd<'_>>) -> Result<landlock::RestrictionStatus, RulesetError> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    let ruleset = match folder {
        Some(folder) => ruleset.add_rule(PathBeneath::new(folder, kept()))?,
        None => ruleset,
    };
    ruleset.restrict_self()
}

/// What keeping keys and values takes.
fn kept() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::Truncate
}
