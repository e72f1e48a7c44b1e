//! A runtime under a test's control: the real thing over real socket pairs, with the golden tiny model.
#![allow(dead_code)]

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::control::{FromRuntime, MESSAGE_BYTES_MAX, RestoreTimings, Stats, ToRuntime};
use runtime::Options;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv,
    send, sendmsg, socketpair,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, LazyLock},
};
use tokio::task::JoinHandle;

/// The name under which tests restore the model.
pub const MODEL: &str = "tiny";

/// A golden file of the repository.
pub fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/llama3-tiny").join(file)
}

/// The golden model sealed as f32, once per test process.
pub fn snapshot() -> &'static Path {
    static SEALED: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.snapshot");
        let source = models::Source::open(&golden("")).unwrap();
        let options = models::SealOptions {
            model: "sealed name".into(),
            weights: models::Weights::F32,
            target: models::Target::here(),
            encrypt: None,
            guests: None,
        };
        models::seal(&source, &file, &options, &mut |_, _| {}).unwrap();
        (folder, file)
    });
    &SEALED.1
}

/// The same with a chat template that has a place for tools, in the style of Hermes and Qwen.
pub fn snapshot_with_tools() -> &'static Path {
    static SEALED: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(golden(file), folder.path().join(file)).unwrap();
        }
        let template = "{% if tools %}{{ tools | tojson }} Answer with <tool_call></tool_call>.{% endif %}\
            {% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\
            {{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>{% endfor %}\n{% endfor %}";
        let config = json!({"chat_template": template, "bos_token": "<|bos|>", "eos_token": "<|eos|>"});
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let file = folder.path().join("tools.snapshot");
        let options = models::SealOptions {
            model: "tools".into(),
            weights: models::Weights::Native,
            target: models::Target::here(),
            encrypt: None,
            guests: None,
        };
        models::seal(&models::Source::open(folder.path()).unwrap(), &file, &options, &mut |_, _| {}).unwrap();
        (folder, file)
    });
    &SEALED.1
}

/// The same with makers' defaults of sampling, with no end token, and with a token that has no embedding: id 800.
pub fn snapshot_with_oddities() -> &'static Path {
    static SEALED: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.safetensors", "tokenizer_config.json", "chat_template.jinja"] {
            if golden(file).exists() {
                std::fs::copy(golden(file), folder.path().join(file)).unwrap();
            }
        }
        let change = |file: &str, change: &dyn Fn(&mut Value)| {
            let mut json: Value = serde_json::from_slice(&std::fs::read(golden(file)).unwrap()).unwrap();
            change(&mut json);
            std::fs::write(folder.path().join(file), json.to_string()).unwrap();
        };
        change("config.json", &|config| drop(config.as_object_mut().unwrap().remove("eos_token_id")));
        change("generation_config.json", &|config| *config = json!({"repetition_penalty": 50}));
        change("tokenizer.json", &|tokenizer| {
            let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
            // Ids of added tokens have no gaps.
            for (id, content) in (796..).zip(["<1>", "<2>", "<3>", "<4>", "<image_soft_token>"]) {
                let mut token = tokens[0].clone();
                (token["id"], token["content"]) = (json!(id), json!(content));
                tokens.push(token);
            }
        });
        let file = folder.path().join("odd.snapshot");
        let options = models::SealOptions {
            model: "odd".into(),
            weights: models::Weights::F32,
            target: models::Target::here(),
            encrypt: None,
            guests: None,
        };
        models::seal(&models::Source::open(folder.path()).unwrap(), &file, &options, &mut |_, _| {}).unwrap();
        (folder, file)
    });
    &SEALED.1
}

/// The golden cases.
pub fn cases() -> Vec<Value> {
    let golden: Value = serde_json::from_slice(&std::fs::read(golden("golden.json")).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

/// A runtime that was launched and has no model yet.
pub struct Child {
    pub http: http2::SendRequest<Full<Bytes>>,
    control: Arc<OwnedFd>,
    exit: JoinHandle<ExitCode>,
}

pub fn options() -> Options {
    Options { threads: Some(1), ..Options::default() }
}

impl Child {
    pub async fn launch(options: Options) -> Self {
        let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let (control, control_theirs) = pair(SocketType::SEQPACKET);
        let (http, http_theirs) = pair(SocketType::STREAM);
        let exit =
            tokio::spawn(runtime::child::run(control_theirs, http_theirs, options, runtime::Launch::begun().unwrap()));
        let socket = UnixStream::from(http);
        socket.set_nonblocking(true).unwrap();
        let io = TokioIo::new(tokio::net::UnixStream::from_std(socket).unwrap());
        let (http, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let child = Self { http, control: Arc::new(control), exit };
        assert!(matches!(child.hear().await, Some(FromRuntime::Launched { .. })));
        child
    }

    /// Launched, restored and ready.
    pub async fn ready() -> Self {
        let child = Self::launch(options()).await;
        child.restore(snapshot()).await;
        child
    }

    /// Ready with a model that can call tools.
    pub async fn ready_with_tools() -> Self {
        let child = Self::launch(options()).await;
        child.restore(snapshot_with_tools()).await;
        child
    }

    /// Ready with [`snapshot_with_oddities`].
    pub async fn ready_with_oddities() -> Self {
        let child = Self::launch(options()).await;
        child.restore(snapshot_with_oddities()).await;
        child
    }

    pub fn order(&self, snapshot: &Path) {
        let message =
            ToRuntime::Restore { model: MODEL.into(), kv_memory_bytes: None, verified: false, wrapped_key: None };
        self.tell_with(&message, File::open(snapshot).unwrap().into());
    }

    /// One more connection, with the runtime's end given to it.
    pub async fn connect(&self) -> http1::SendRequest<Full<Bytes>> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.tell_with(&ToRuntime::Connection, theirs.into());
        ours.set_nonblocking(true).unwrap();
        let io = TokioIo::new(tokio::net::UnixStream::from_std(ours).unwrap());
        let (requests, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        requests
    }

    fn tell_with(&self, message: &ToRuntime, descriptor: OwnedFd) {
        let bytes = serde_json::to_vec(message).unwrap();
        let fds = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&self.control, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    pub async fn restore(&self, snapshot: &Path) -> RestoreTimings {
        self.order(snapshot);
        match self.hear().await {
            Some(FromRuntime::Ready { restore }) => restore,
            other => panic!("{other:?}"),
        }
    }

    pub fn tell(&self, message: &ToRuntime) {
        send(&self.control, &serde_json::to_vec(message).unwrap(), SendFlags::empty()).unwrap();
    }

    /// The next message but reports; `None` at the end.
    pub async fn hear(&self) -> Option<FromRuntime> {
        loop {
            match self.hear_all().await {
                Some(FromRuntime::Stats(_) | FromRuntime::Verified) => {}
                other => return other,
            }
        }
    }

    async fn hear_all(&self) -> Option<FromRuntime> {
        let control = self.control.clone();
        let receive = move || {
            let mut bytes = vec![0; MESSAGE_BYTES_MAX];
            let (n, _) = recv(&control, &mut bytes, RecvFlags::empty()).unwrap();
            (n > 0).then(|| serde_json::from_slice(&bytes[..n]).unwrap())
        };
        tokio::task::spawn_blocking(receive).await.unwrap()
    }

    pub async fn stats(&self) -> Stats {
        // Reports that came before are of no use.
        while recv(&self.control, &mut vec![0; MESSAGE_BYTES_MAX], RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0) {}
        self.tell(&ToRuntime::Stats);
        loop {
            match self.hear_all().await {
                Some(FromRuntime::Stats(stats)) => return stats,
                Some(FromRuntime::Verified) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Asks until nothing runs and no block is in use.
    pub async fn until_idle(&self) {
        loop {
            let stats = self.stats().await;
            if (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0) {
                return;
            }
        }
    }

    /// Its exit code, as text, because codes cannot be compared.
    pub async fn exit(self) -> String {
        drop(self.control);
        format!("{:?}", self.exit.await.unwrap())
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> http::Response<Incoming> {
        let request = Request::builder().method(method).uri(format!("http://runtime{path}"));
        self.http.clone().send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    /// As the activator sends it, with one of its headers.
    pub async fn post_with(&self, header: (&str, &str), path: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::builder().method(Method::POST).uri(format!("http://runtime{path}"));
        let request = request.header(header.0, header.1).body(Full::new(body.to_string().into())).unwrap();
        whole(self.http.clone().send_request(request).await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        whole(self.send(Method::GET, path, "").await).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        whole(self.send(Method::POST, path, body.to_string()).await).await
    }

    /// A whole completion of token ids, greedy unless `extra` says otherwise; must succeed.
    pub async fn complete(&self, prompt: &Value, max_tokens: usize, extra: Value) -> Value {
        let (status, answer) = self.post("/v1/completions", &completion(prompt, max_tokens, extra)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// The events of a stream, `[DONE]` excluded but required.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.send(Method::POST, path, body.to_string()).await;
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"text/event-stream".parse().unwrap())
        );
        let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap();
        let mut events: Vec<&str> = text.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.into_iter().map(|e| serde_json::from_str(e).unwrap()).collect()
    }
}

pub fn code(code: u8) -> String {
    format!("{:?}", ExitCode::from(code))
}

/// A request's body.
pub fn completion(prompt: &Value, max_tokens: usize, extra: Value) -> Value {
    let mut body =
        json!({"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn whole(response: http::Response<Incoming>) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() })
}

/// The ids in `logprobs.tokens` of a completion's first choice.
pub fn ids(answer: &Value) -> Vec<u32> {
    let tokens = answer["choices"][0]["logprobs"]["tokens"].as_array().unwrap();
    tokens.iter().map(|t| t.as_str().unwrap().strip_prefix("token_id:").unwrap().parse().unwrap()).collect()
}
