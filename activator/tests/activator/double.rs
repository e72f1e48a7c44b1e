//! A test double of the runtime process: this test binary, executed again.
//!
//! What it does before it is ready comes from the script in its "snapshot"; what it does with a request from the
//! request's `user`. What happens to it, it writes to the diary, a datagram socket that the test reads.

use std::{
    convert::Infallible,
    fs::File,
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::exit,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::control::{CONTROL_FD, FailureKind, FromRuntime, HTTP_FD, MESSAGE_BYTES_MAX, RestoreTimings, ToRuntime};
use protocol::steps::TRACED_HEADER;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use serde::{Deserialize, Serialize};

/// Set where this binary is to be the double.
pub const ROLE: &str = "ACTIVATOR_TEST_DOUBLE";

/// What a life does before it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Start {
    Ready,
    Die,
    Hang,
    Fail(FailureKind, String),
    /// Ready once somebody opens this FIFO for writing.
    Gate(PathBuf),
}

/// The content of a "snapshot".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Script {
    pub diary: PathBuf,
    /// Grows by one byte with each life.
    pub lives: PathBuf,
    /// Of the first life, the second, …; the last is repeated.
    pub starts: Vec<Start>,
    /// Told to drain, it waits until somebody opens this FIFO for writing.
    pub drain_gate: Option<PathBuf>,
    /// Told to drain, it does nothing.
    pub ignores_drain: bool,
}

/// The command that runs this binary as the double. What is added to it filters tests, and none has such a name.
pub fn command() -> Vec<std::ffi::OsString> {
    let this = std::env::current_exe().unwrap();
    let role = format!("{ROLE}=1");
    [
        "/usr/bin/env".into(),
        role.into(),
        this.into(),
        "--exact".into(),
        "double::run".into(),
        "--nocapture".into(),
        "--".into(),
    ]
    .into()
}

/// No test of its own: the double's entry.
#[test]
fn run() {
    if std::env::var_os(ROLE).is_some() {
        live();
    }
}

struct Control(OwnedFd);

impl Control {
    fn say(&self, message: &FromRuntime) {
        let packet = serde_json::to_vec(message).unwrap();
        rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next message, with its descriptor; exits at end of file, as every runtime must.
    fn hear(&self) -> (ToRuntime, Option<OwnedFd>) {
        let mut packet = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut packet)];
        let bytes = rustix::net::recvmsg(&self.0, slices, &mut ancillary, RecvFlags::empty()).unwrap().bytes;
        if bytes == 0 {
            exit(0);
        }
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        (serde_json::from_slice(&packet[..bytes]).unwrap(), descriptor)
    }
}

struct Diary(UnixDatagram);

impl Diary {
    fn write(&self, what: &str) {
        // The test may be over.
        let _ = self.0.send(format!("{what} {}", std::process::id()).as_bytes());
    }
}

fn live() -> ! {
    // SAFETY: the activator has mapped both descriptors for us, and nothing else in this process uses them.
    let (control, http) = unsafe { (OwnedFd::from_raw_fd(CONTROL_FD), OwnedFd::from_raw_fd(HTTP_FD)) };
    end_with_the_activator(control.try_clone().unwrap());
    let control = Control(control);
    control.say(&FromRuntime::Launched { launch_us: 1 });
    let (ToRuntime::Restore { .. }, Some(snapshot)) = control.hear() else { exit(70) };
    let script: Script = serde_json::from_reader(File::from(snapshot)).unwrap();
    let diary = UnixDatagram::unbound().unwrap();
    // A test that does not read its diary must not stop us.
    diary.set_nonblocking(true).unwrap();
    diary.connect(&script.diary).unwrap();
    let diary = Arc::new(Diary(diary));
    diary.write("launched");

    match start(&script) {
        Start::Ready => {}
        Start::Die => exit(9),
        Start::Gate(gate) => wait_at(&gate),
        Start::Hang => loop {
            control.hear();
        },
        Start::Fail(kind, message) => {
            control.say(&FromRuntime::Failed { kind, message });
            exit(65);
        }
    }
    let (connections, later) = tokio::sync::mpsc::unbounded_channel();
    serve(http, later, Arc::clone(&diary));
    control.say(&FromRuntime::Ready { restore: RestoreTimings::default() });
    loop {
        let (message, descriptor) = control.hear();
        match message {
            ToRuntime::Connection => drop(connections.send(descriptor.unwrap())),
            ToRuntime::Drain if script.ignores_drain => diary.write("ignored"),
            ToRuntime::Drain => {
                diary.write("draining");
                script.drain_gate.as_deref().inspect(|gate| wait_at(gate));
                control.say(&FromRuntime::Drained);
                exit(0);
            }
            ToRuntime::Restore { .. } | ToRuntime::Guests | ToRuntime::Stats => exit(70),
        }
    }
}

/// Whatever this process waits for: when the other end of the control socket is gone, so is it.
fn end_with_the_activator(control: OwnedFd) {
    std::thread::spawn(move || {
        // Nothing is asked for, so only a hang-up wakes us.
        let mut hang_up = [rustix::event::PollFd::new(&control, rustix::event::PollFlags::empty())];
        while rustix::event::poll(&mut hang_up, None).is_err() {}
        exit(0);
    });
}

fn start(script: &Script) -> Start {
    let mut lives = File::options().create(true).append(true).open(&script.lives).unwrap();
    lives.write_all(b".").unwrap();
    let nth = lives.metadata().unwrap().len() as usize;
    script.starts.get(nth - 1).or(script.starts.last()).unwrap().clone()
}

fn wait_at(gate: &Path) {
    File::open(gate).unwrap().read_to_end(&mut Vec::new()).unwrap();
}

/// HTTP/2 on the first socket, HTTP/1 on those that come later.
fn serve(http: OwnedFd, mut later: tokio::sync::mpsc::UnboundedReceiver<OwnedFd>, diary: Arc<Diary>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let stream = |socket: OwnedFd| {
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true).unwrap();
        TokioIo::new(tokio::net::UnixStream::from_std(socket).unwrap())
    };
    std::thread::spawn(move || {
        runtime.unwrap().block_on(async {
            let service = service_fn(move |request| answer(request, Arc::clone(&diary)));
            let first = http2::Builder::new(TokioExecutor::new()).serve_connection(stream(http), service.clone());
            tokio::spawn(first);
            while let Some(socket) = later.recv().await {
                tokio::spawn(http1::Builder::new().serve_connection(stream(socket), service.clone()));
            }
        });
    });
}

type Body = BoxBody<Bytes, std::io::Error>;

/// Writes down that it was dropped.
struct Dropped(Arc<Diary>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.write("dropped");
    }
}

async fn answer(request: Request<Incoming>, diary: Arc<Diary>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let wanted: serde_json::Value = serde_json::from_slice(&body).unwrap();
    diary.write("asked");
    let dropped = Dropped(diary);
    Ok(match wanted["user"].as_str().unwrap_or_default() {
        "die" => exit(9),
        "hang" => {
            let _dropped = dropped;
            std::future::pending().await
        }
        "close" => {
            let mut response = typed(200, "application/json", full("{}"));
            response.headers_mut().insert("connection", "close".parse().unwrap());
            response
        }
        "refuse" => typed(400, "application/json", full(r#"{"error":{"message":"refused","type":"t","code":null}}"#)),
        "reset" => typed(200, "application/json", events(vec![Err(std::io::Error::other("reset"))], None)),
        "forever" => typed(200, "text/event-stream", events(vec![Ok("data: 1\n\n")], Some(dropped))),
        "half" => typed(200, "text/event-stream", events(vec![Ok("data: 1\n\ndata: {\"ha")], Some(dropped))),
        // What a runtime says beside an answer: what it depends on, what it used, and where it is asked, when it did what.
        "marked" => {
            let traced = head.headers.contains_key(TRACED_HEADER);
            let mut response = if wanted["stream"] == true {
                let end = if traced { ": pl steps 10,20,30,40\ndata: [DONE]\n\n" } else { "data: [DONE]\n\n" };
                let parts = [": pl 0 4\ndata: 1\n\n", ": pl 0 5,6\ndata: 2\n\n", ": pl 0 - end\ndata: 3\n\n", end];
                typed(200, "text/event-stream", events(parts.map(Ok).into(), None))
            } else {
                typed(200, "application/json", full("{}"))
            };
            let used = if wanted["stream"] == true { "7,0" } else { "7,3" };
            for (name, value) in [("pilotlight-identity", "x"), ("pilotlight-used", used)] {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            if traced && wanted["stream"] != true {
                response.headers_mut().insert("pilotlight-steps", "10,20,30,40".parse().unwrap());
            }
            response
        }
        "unfinished" => typed(200, "text/event-stream", events(vec![Ok("data: 1\n\n")], None)),
        _ if wanted["stream"] == true => {
            let parts = ["data: 1\n\n", "data: 2\n", "\ndata: [DONE]\n\n"].map(Ok).into();
            typed(200, "text/event-stream", events(parts, None))
        }
        _ => {
            let names = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()));
            let headers: serde_json::Map<String, serde_json::Value> = names.collect();
            let seen = serde_json::json!({
                "pid": std::process::id(), "version": format!("{:?}", head.version), "path": head.uri.path(), "headers": headers,
                "body": std::str::from_utf8(&body).unwrap(),
            });
            typed(200, "application/json", full(&seen.to_string()))
        }
    })
}

fn typed(status: u16, kind: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", kind.parse().unwrap());
    response
}

fn full(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed()
}

/// These parts; then the end, or nothing more until it is dropped.
fn events(parts: Vec<Result<&'static str, std::io::Error>>, endless: Option<Dropped>) -> Body {
    let parts = stream::iter(parts).map(|part| part.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
    match endless {
        None => BodyExt::boxed(StreamBody::new(parts)),
        Some(dropped) => {
            let nothing = stream::once(async move {
                let _dropped = dropped;
                std::future::pending().await
            });
            BodyExt::boxed(StreamBody::new(parts.chain(nothing)))
        }
    }
}
