//! System calls that are refused with EPERM, by seccomp.
//!
//! A list of what is refused and not of what is allowed: what the allocator, the event loop and a driver call differs from version to version,
//! and none of it must end an answer. Calls of another architecture end the process. Descriptors that are open stay usable: `sendmsg`,
//! `recvmsg`, `read` and `write` are not refused.

use libc::*;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction,
    SeccompCmpArgLen::Dword,
    SeccompCmpOp::{Eq, MaskedEq, Ne},
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads, sock_filter,
};
use std::{collections::BTreeMap, env::consts::ARCH};

/// What is not refused.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Files may be opened, as far as something else allows.
    pub files: bool,
    /// A device's driver works in this process: Unix sockets, programs and all that these need.
    pub driver: bool,
}

/// Whom the filter holds for, and all that they start.
#[derive(Clone, Copy, Debug)]
pub enum Threads {
    /// The caller.
    This,
    /// The whole process.
    All,
}

/// Younger than the crate libc has them on all architectures; new calls have one number on all.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
/// The crate libc does not have it where younger calls replace it, and the kernel does.
#[cfg(target_arch = "x86_64")]
const RENAMEAT: c_long = SYS_renameat;
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: c_long = 38;

/// Never a runtime's business.
const ALWAYS: &[c_long] = &[
    // Other processes.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_pidfd_getfd,
    SYS_kcmp,
    // Namespaces, mounts, and files without a path.
    SYS_unshare,
    SYS_setns,
    SYS_chroot,
    SYS_pivot_root,
    SYS_mount,
    SYS_umount2,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_open_tree,
    OPEN_TREE_ATTR,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_open_by_handle_at,
    // The kernel itself, and its parts that most faults are found in. Submissions of io_uring pass no filter.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
];

/// New sockets, and what only they are for.
const SOCKETS: &[c_long] = &[SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen, SYS_accept, SYS_accept4];

const PROGRAMS: &[c_long] = &[SYS_execve, SYS_execveat];

/// Whose first word is a process: refused but for this one, which may abort.
const SIGNALS: &[c_long] = &[SYS_kill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo];
/// Whose first word does not say which process.
const SIGNALS_TO_ANY: &[c_long] = &[SYS_tkill, SYS_pidfd_send_signal];

/// What other processes share by name or number.
const SHARED: &[c_long] = &[SYS_mq_open, SYS_shmget, SYS_shmat, SYS_msgget, SYS_semget];

/// Another process that would outlive this one's end. Threads come by `clone`, with a flag; `clone3` hides its flags in memory, and is said not to
/// be there, so that libc uses the other.
#[cfg(target_arch = "x86_64")]
const FORKS: &[c_long] = &[SYS_fork, SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[c_long] = &[];

/// Typing into the terminal that an error stream may be.
const TERMINAL: [u64; 2] = [TIOCSTI, TIOCLINUX];
/// Having the kernel send signals to others.
const OWNERS: [u64; 3] = [F_SETOWN as u64, F_SETOWN_EX, F_SETSIG];
/// The crate libc does not have them everywhere.
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;

/// What belongs to a name and is no content: Landlock does not know them.
const ATTRIBUTES: &[c_long] = &[
    SYS_fchmodat,
    FCHMODAT2,
    SYS_fchownat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    // Content, but younger Landlocks alone know it.
    SYS_truncate,
    SETXATTRAT,
    REMOVEXATTRAT,
];

/// Opening files, and names in folders.
const FILES: &[c_long] = &[
    SYS_openat,
    SYS_openat2,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_linkat,
    SYS_symlinkat,
    SYS_unlinkat,
    RENAMEAT,
    SYS_renameat2,
];

/// Some of these by their first names, which only the oldest architecture has.
#[cfg(target_arch = "x86_64")]
const ATTRIBUTES_ONCE: &[c_long] = &[SYS_chmod, SYS_chown, SYS_lchown];
#[cfg(not(target_arch = "x86_64"))]
const ATTRIBUTES_ONCE: &[c_long] = &[];
#[cfg(target_arch = "x86_64")]
const FILES_ONCE: &[c_long] =
    &[SYS_open, SYS_creat, SYS_mkdir, SYS_rmdir, SYS_mknod, SYS_link, SYS_symlink, SYS_unlink, SYS_rename];
#[cfg(not(target_arch = "x86_64"))]
const FILES_ONCE: &[c_long] = &[];

/// Refuses what is not `allowed`, from now on and for ever. Sets `no_new_privs`.
///
/// # Errors
/// In words: the kernel does not, or there is no filter for this architecture.
pub fn install(allowed: Allowed, threads: Threads) -> Result<(), String> {
    let program = program(allowed).map_err(|error| error.to_string())?;
    let install = |program: &BpfProgram| match threads {
        Threads::This => apply_filter(program),
        Threads::All => apply_filter_all_threads(program),
    };
    if !allowed.driver {
        let not_there = without_clone3().map_err(|error| error.to_string())?;
        install(&not_there).map_err(|error| error.to_string())?;
    }
    install(&program).map_err(|error| error.to_string())
}

fn without_clone3() -> Result<BpfProgram, BackendError> {
    let rules = Rules::from([(SYS_clone3, Vec::new())]);
    let not_there = SeccompAction::Errno(ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, not_there, ARCH.try_into()?)?.try_into()
}

fn program(allowed: Allowed) -> Result<BpfProgram, BackendError> {
    let refuse = SeccompAction::Errno(EPERM as u32);
    let rest: BpfProgram =
        SeccompFilter::new(rules(allowed)?, SeccompAction::Allow, refuse, ARCH.try_into()?)?.try_into()?;
    Ok(FIRST.into_iter().chain(rest).collect())
}

/// For each call when it is refused; no condition is always.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn rules(allowed: Allowed) -> Result<Rules, BackendError> {
    let always = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    let unless_first_is = |word: u64, calls: &[c_long]| {
        let rule = SeccompRule::new(vec![SeccompCondition::new(0, Dword, Ne, word)?])?;
        Ok::<Rules, BackendError>(calls.iter().map(|call| (*call, vec![rule.clone()])).collect())
    };
    let if_second_is = |words: &[u64]| {
        let rule = |word: &u64| SeccompRule::new(vec![SeccompCondition::new(1, Dword, Eq, *word)?]);
        words.iter().map(rule).collect::<Result<Vec<SeccompRule>, BackendError>>()
    };
    let mut rules = always(ALWAYS);
    if allowed.driver {
        rules.extend(unless_first_is(AF_UNIX as u64, &[SYS_socket, SYS_socketpair])?);
    } else {
        rules.extend([SOCKETS, PROGRAMS, SIGNALS_TO_ANY, ATTRIBUTES, ATTRIBUTES_ONCE].into_iter().flat_map(always));
        rules.extend(unless_first_is(u64::from(std::process::id()), SIGNALS)?);
        rules.extend([SHARED, FORKS].into_iter().flat_map(always));
        // Limits of this process alone.
        rules.extend(unless_first_is(0, &[SYS_prlimit64])?);
        rules.insert(SYS_ioctl, if_second_is(&TERMINAL)?);
        rules.insert(SYS_fcntl, if_second_is(&OWNERS)?);
        let no_thread = SeccompCondition::new(0, Dword, MaskedEq(CLONE_THREAD as u64), 0)?;
        rules.insert(SYS_clone, vec![SeccompRule::new(vec![no_thread])?]);
    }
    if !allowed.files {
        rules.extend([FILES, FILES_ONCE].into_iter().flat_map(always));
    }
    Ok(rules)
}

/// What comes before the rules: nothing to refuse.
#[cfg(not(target_arch = "x86_64"))]
const FIRST: [sock_filter; 0] = [];

/// Some kernels offer 64-bit programs all calls a second time, with 32-bit pointers (x32): their numbers have this bit, and rules for the first
/// do not hold for them. None of them is called here.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// What comes before the rules: load the call's number (the first field of `seccomp_data`), refuse it where it has the bit, else go on.
#[cfg(target_arch = "x86_64")]
const FIRST: [sock_filter; 3] = [
    sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: 0 },
    sock_filter { code: (BPF_JMP | BPF_JGE | BPF_K) as u16, jt: 0, jf: 1, k: X32_BIT },
    sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: SECCOMP_RET_ERRNO | EPERM as u32 },
];
