//! The activator's hop alone, for `benches/hop.py` and `benches/hold.py`: the real activator on one thread, before runtimes that answer at once
//! with the same bytes; and those bytes without it.
//!
//! ```text
//! hop serve [MODELS]     the activator, with so many models (default 1) of which none has weights; prints both addresses
//! hop relay PATH         to that socket and back and nothing else, by the same libraries: what they allow
//! hop upstream PATH      the same answer by HTTP/1.1, on a free port of 127.0.0.1 (printed) and on a Unix socket
//! hop ask ADDRESS CONNECTIONS SECONDS     short chats, as many at a time and so long; prints how many were answered
//! ```
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench's own part")]

use activator::{Activator, Config, ModelEntry};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use local_socket::LocalStream;
use protocol::control::{CONTROL_FD, FromRuntime, HTTP_FD, RestoreTimings, ToRuntime};
use rustix::net::{RecvAncillaryMessage, RecvFlags};
use std::{
    convert::Infallible,
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::fd::{FromRawFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// About what a short answer has.
const ANSWER: &str = r#"{"id":"chatcmpl-0","object":"chat.completion","created":0,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"A lighthouse is a tower with a light that guides ships."},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":12,"completion_tokens":12,"total_tokens":24}}"#;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["runtime"] => runtime.block_on(be_a_runtime()),
        ["serve"] => runtime.block_on(serve(1)),
        ["serve", models] => runtime.block_on(serve(models.parse().unwrap())),
        ["relay", path] => runtime.block_on(relay(path)),
        ["upstream", path] => runtime.block_on(upstream(path)),
        ["ask", address, connections, seconds] => ask(address, connections.parse().unwrap(), seconds.parse().unwrap()),
        _ => panic!("hop serve [MODELS] | hop relay PATH | hop upstream PATH | hop ask ADDRESS CONNECTIONS SECONDS"),
    }
}

async fn serve(models: usize) {
    let folder = std::env::temp_dir().join(format!("hop-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let snapshot = folder.join("m.snapshot");
    std::fs::write(&snapshot, "no weights").unwrap();
    let name = |n| if n == 0 { "m".to_owned() } else { format!("m{n}") };
    let this = std::env::current_exe().unwrap();
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin: ([127, 0, 0, 1], 0).into(),
        models: (0..models).map(|n| ModelEntry::new(name(n), &snapshot)).collect(),
        idle: Duration::from_secs(3600),
        runtime_command: vec![this.into(), "runtime".into()],
        ..Config::default()
    };
    let activator = Activator::start(config).await.unwrap();
    println!("{} {}", activator.api(), activator.admin());
    tokio::signal::ctrl_c().await.unwrap();
    activator.drain().await;
    let _ = std::fs::remove_dir_all(folder);
}

/// Ready at once, or, where `HOP_GATE` names a file, as soon as that is there.
async fn be_a_runtime() {
    // SAFETY: the activator has mapped both descriptors for us, and nothing else in this process uses them.
    let (control, socket) = unsafe { (OwnedFd::from_raw_fd(CONTROL_FD), OwnedFd::from_raw_fd(HTTP_FD)) };
    let say = |message: &FromRuntime| {
        rustix::net::send(&control, &serde_json::to_vec(message).unwrap(), rustix::net::SendFlags::empty()).unwrap();
    };
    say(&FromRuntime::Launched { launch_us: 0 });
    hear(&control);
    if let Some(gate) = std::env::var_os("HOP_GATE") {
        while !std::path::Path::new(&gate).exists() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    let answer = |socket: OwnedFd| drop(tokio::spawn(answer_on(LocalStream::new(socket).unwrap())));
    answer(socket);
    say(&FromRuntime::Ready { restore: RestoreTimings::default() });
    while let (ToRuntime::Connection, Some(socket)) = tokio::task::block_in_place(|| hear(&control)) {
        answer(socket);
    }
    say(&FromRuntime::Drained);
    std::process::exit(0);
}

/// What the activator says, and a descriptor that comes with it. Ends with the activator.
fn hear(control: &OwnedFd) -> (ToRuntime, Option<OwnedFd>) {
    let mut packet = vec![0; 1 << 16];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [std::io::IoSliceMut::new(&mut packet)];
    let bytes = rustix::net::recvmsg(control, slices, &mut ancillary, RecvFlags::empty()).unwrap().bytes;
    if bytes == 0 {
        std::process::exit(0);
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    (serde_json::from_slice(&packet[..bytes]).unwrap(), descriptor)
}

/// One free connection to the upstream for each request that runs, its bytes moved by the request itself: as the activator does it.
async fn relay(path: &str) {
    type Bytes1 = http1::Connection<TokioIo<LocalStream>, Full<Bytes>>;
    type Free = Arc<Mutex<Vec<(http1::SendRequest<Full<Bytes>>, Bytes1)>>>;
    async fn pass(request: Request<Incoming>, path: String, free: Free) -> Result<Response<Full<Bytes>>, Infallible> {
        let taken = free.lock().unwrap().pop();
        let (mut requests, mut moves) = match taken {
            Some(taken) => taken,
            None => {
                let socket = tokio::net::UnixStream::connect(path).await.unwrap().into_std().unwrap();
                http1::handshake(TokioIo::new(LocalStream::new(socket.into()).unwrap())).await.unwrap()
            }
        };
        std::future::poll_fn(|cx| {
            let _ = Pin::new(&mut moves).poll(cx);
            requests.poll_ready(cx)
        })
        .await
        .unwrap();
        let (head, body) = request.into_parts();
        let body = Full::new(body.collect().await.unwrap().to_bytes());
        let asked = requests.send_request(Request::from_parts(head, body));
        let mut answer = std::pin::pin!(async {
            let (head, body) = asked.await.unwrap().into_parts();
            Response::from_parts(head, Full::new(body.collect().await.unwrap().to_bytes()))
        });
        let answered = std::future::poll_fn(|cx| {
            let polled = answer.as_mut().poll(cx);
            if polled.is_ready() {
                return polled;
            }
            let _ = Pin::new(&mut moves).poll(cx);
            answer.as_mut().poll(cx)
        })
        .await;
        free.lock().unwrap().push((requests, moves));
        Ok(answered)
    }
    let tcp = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", tcp.local_addr().unwrap());
    let free = Free::default();
    loop {
        let stream = tcp.accept().await.unwrap().0;
        stream.set_nodelay(true).unwrap();
        let (path, free) = (path.to_owned(), free.clone());
        let service = service_fn(move |request| pass(request, path.clone(), free.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn upstream(path: &str) {
    let _ = std::fs::remove_file(path);
    let unix = tokio::net::UnixListener::bind(path).unwrap();
    let tcp = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", tcp.local_addr().unwrap());
    loop {
        tokio::select! {
            stream = unix.accept() => {
                // As a runtime has it.
                let socket = stream.unwrap().0.into_std().unwrap();
                tokio::spawn(answer_on(LocalStream::new(socket.into()).unwrap()));
            }
            stream = tcp.accept() => {
                let stream = stream.unwrap().0;
                stream.set_nodelay(true).unwrap();
                tokio::spawn(answer_on(stream));
            }
        }
    }
}

async fn answer_on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let answer = service_fn(|request: Request<Incoming>| async {
        let _ = request.into_body().collect().await;
        let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        Ok::<_, Infallible>(response)
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
}

fn ask(address: &str, connections: usize, seconds: u64) {
    let until = Instant::now() + Duration::from_secs(seconds);
    let asked = || (0..).take_while(|_| Instant::now() < until);
    let answered = thread::scope(|scope| {
        let one = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let mut stream = BufReader::new(stream);
            asked().inspect(|_| ask_once(&mut stream)).count()
        };
        let all: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum::<usize>()
    });
    println!("{answered} answers to {connections} at a time");
}

/// One chat, by HTTP/1.1; its answer must be of known length.
fn ask_once(stream: &mut BufReader<TcpStream>) {
    let text = "What is a lighthouse? ".repeat(10);
    let body = format!(
        r#"{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}], "max_tokens": 12, "seed": 1, "temperature": 0.7}}"#
    );
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: hop\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
    let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
    while line != "\r\n" {
        line.clear();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the connection was closed");
        if status.is_empty() {
            status.clone_from(&line);
        }
        if let Some((_, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse().unwrap();
        }
    }
    assert!(status.contains(" 200 "), "{status}");
    stream.read_exact(&mut vec![0; length]).unwrap();
}
