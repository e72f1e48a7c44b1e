//! Confined processes that try: each test runs this program once more, as the test [`inside`] in a role, since there is no way back.
#![allow(clippy::unwrap_used)]

use super::{at_launch, once_unwrapped, probe};
use crate::{Folder, Options};
use models::ComputeDevice;
use rustix::{
    io::Errno,
    process::{DumpableBehavior, Resource, dumpable_behavior, getpid, getppid, getrlimit, prlimit, test_kill_process},
    thread::no_new_privs,
};
use std::{
    env,
    fmt::Debug,
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
};
use tempfile::TempDir;

const ROLE: &str = "PILOTLIGHT_TEST_ROLE";
const FOLDER: &str = "PILOTLIGHT_TEST_FOLDER";
/// Any program that is there.
const PROGRAM: &str = "/bin/true";
/// Any file that everybody may read.
const FILE: &str = "/etc/passwd";

#[test]
fn a_confined_runtime_opens_no_file_no_socket_and_no_program_and_keeps_what_it_has() {
    play("cpu");
}

#[test]
fn a_key_program_runs_first_and_then_threads_that_are_there_already_are_confined_too() {
    play("key program");
}

#[test]
fn where_there_is_no_landlock_files_are_refused_with_all_else() {
    play("filter alone");
}

#[test]
fn a_devices_driver_may_read_files_run_helpers_and_talk_to_neighbours_but_not_to_the_network() {
    play("device");
}

#[test]
fn who_asks_what_the_kernel_gives_is_not_confined_by_asking() {
    let given = probe();
    assert_eq!(given.seccomp, Ok(()));
    assert!(File::open(FILE).is_ok() && UnixStream::pair().is_ok());
    assert!(!no_new_privs().unwrap());
}

/// Runs [`inside`] in this role, with a socket as its standard input, as a runtime inherits its own.
fn play(role: &str) {
    let folder = TempDir::new().unwrap();
    let (socket, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["confine::tests::inside", "--exact", "--ignored", "--nocapture"]).env(ROLE, role);
    command.env(FOLDER, folder.path()).stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    (&socket).write_all(b"a request\n").unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    said.lines().filter(|line| line.contains("SKIPPED")).for_each(|line| eprintln!("{line}"));
    assert!(output.status.success() && answer == "an answer\n", "{}, {answer:?}: {said}", output.status);
}

#[test]
#[ignore = "run by the tests above, in a process of its own"]
fn inside() {
    let (Ok(role), Some(folder)) = (env::var(ROLE), env::var_os(FOLDER).map(PathBuf::from)) else { return };
    match role.as_str() {
        "cpu" => on_a_cpu(&folder),
        "key program" => with_a_key_program(),
        "filter alone" => by_the_filter_alone(),
        "device" => on_a_device(),
        other => panic!("{other}"),
    }
    answer();
}

fn on_a_cpu(folder: &Path) {
    let landlock = probe().landlock;
    let (kv, outside) = (folder.join("kv"), folder.join("outside"));
    fs::write(&outside, "before").unwrap();
    let mut open = File::open(&outside).unwrap();
    let kept = Arc::new(Folder::open(&kv, None, 1 << 20).unwrap());
    at_launch(&Options { confined: true, kv_folder: Some(kept), ..Options::default() });
    assert!(no_new_privs().unwrap());
    assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    assert!(getrlimit(Resource::Nofile).maximum.is_some_and(|most| most <= super::DESCRIPTORS_MAX));
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    let tries = || {
        no_sockets(Errno::PERM);
        refused("a program", Command::new(PROGRAM).status(), Errno::PERM);
        refused("a signal", test_kill_process(getppid().unwrap()).map_err(io::Error::from), Errno::PERM);
        let limits = prlimit(getppid(), Resource::Nofile, getrlimit(Resource::Nofile)).map(drop);
        refused("limits of another process", limits.map_err(io::Error::from), Errno::PERM);
        refused("a mode", fs::set_permissions(&outside, Permissions::from_mode(0o777)), Errno::PERM);
        test_kill_process(getpid()).unwrap();
        match &landlock {
            Ok(_) => no_files_but_in(&kv, &outside),
            Err(why) => eprintln!("SKIPPED: files of a confined runtime: this kernel has no Landlock: {why}"),
        }
    };
    tries();
    // Who starts later is no freer.
    thread::scope(|scope| scope.spawn(tries).join().unwrap());
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before", "what was open stays so");
}

fn no_files_but_in(kv: &Path, outside: &Path) {
    no_files(Errno::ACCESS);
    refused("making a file", File::create(outside.with_extension("new")), Errno::ACCESS);
    refused("removing a file", fs::remove_file(outside), Errno::ACCESS);
    refused("moving a file in", fs::rename(outside, kv.join("outside")), Errno::ACCESS);
    refused("a way around", fs::read(kv.join("../outside")), Errno::ACCESS);
    let file = File::options().create(true).read(true).write(true).truncate(false).open(kv.join("x.blocks"));
    let file = file.unwrap();
    (&file).write_all(b"keys and values").unwrap();
    file.set_len(4).unwrap();
    assert_eq!(fs::read(kv.join("x.blocks")).unwrap(), b"keys");
}

fn with_a_key_program() {
    let decrypt_key = Some(snapshot::OperatorKey::from_command(Path::new(PROGRAM)));
    let options = Options { confined: true, decrypt_key, ..Options::default() };
    let (go, wait) = mpsc::channel();
    let earlier = thread::spawn(move || {
        wait.recv().unwrap();
        nothing_at_all();
        assert!(no_new_privs().unwrap());
    });
    at_launch(&options);
    assert!(Command::new(PROGRAM).status().unwrap().success() && TcpListener::bind("127.0.0.1:0").is_ok());
    assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    once_unwrapped(&options);
    nothing_at_all();
    go.send(()).unwrap();
    earlier.join().unwrap();
}

fn by_the_filter_alone() {
    let options = Options { confined: true, ..Options::default() };
    super::refuse(&options, Err("as on a kernel without it".into()));
    nothing_at_all();
    refused("making a folder", fs::create_dir("/tmp/never"), Errno::PERM);
    refused("removing a file", fs::remove_file(FILE), Errno::PERM);
}

fn on_a_device() {
    at_launch(&Options { confined: true, device: ComputeDevice::Cuda(0), ..Options::default() });
    assert!(no_new_privs().unwrap());
    assert!(Command::new(PROGRAM).status().unwrap().success() && File::open(FILE).is_ok());
    assert!(UnixStream::pair().is_ok() && UnixDatagram::unbound().is_ok());
    no_network(Errno::PERM);
}

fn nothing_at_all() {
    no_sockets(Errno::PERM);
    refused("a program", Command::new(PROGRAM).status(), Errno::PERM);
    no_files(Errno::PERM);
}

fn no_files(with: Errno) {
    refused("reading a file", File::open(FILE), with);
    refused("its own memory", File::open("/proc/self/mem"), with);
    refused("a device", File::open("/dev/null"), with);
}

fn no_sockets(with: Errno) {
    no_network(with);
    refused("a pair of sockets", UnixStream::pair(), with);
    refused("a Unix socket", UnixDatagram::unbound(), with);
    refused("a Unix socket with a path", UnixListener::bind("/tmp/never"), with);
}

fn no_network(with: Errno) {
    refused("listening", TcpListener::bind("127.0.0.1:0"), with);
    refused("connecting", TcpStream::connect("127.0.0.1:9"), with);
    refused("a datagram socket", UdpSocket::bind("[::1]:0"), with);
}

fn refused<T: Debug>(what: &str, tried: io::Result<T>, with: Errno) {
    let error = tried.map(|got| panic!("{what}: {got:?}")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(with.raw_os_error()), "{what}: {error}");
}

/// What was inherited is still of use.
fn answer() {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut request = String::new();
    BufReader::new(&socket).read_line(&mut request).unwrap();
    assert_eq!(request, "a request\n");
    (&socket).write_all(b"an answer\n").unwrap();
}
