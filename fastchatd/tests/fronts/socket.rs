//! The socket: what its clients may do, and what it does not put up with.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use fastchat_ipc::{ApiError, Client, ErrorCode, LINE_LIMIT, Request, method};
use fastchatd::rpc::{self, BindError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::{Engine, SOON, message_received};

struct Daemon {
    engine: Engine,
    path: PathBuf,
    serving: JoinHandle<()>,
    stop: DropGuard,
    _directory: TempDir,
}

fn start() -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("own/fastchatd.sock");
    let (engine, stop) = (Engine::start(), CancellationToken::new());
    let listener = rpc::bind(&path).unwrap();
    let serving = tokio::spawn(rpc::serve(engine.api.clone(), listener, stop.clone()));
    Daemon { engine, path, serving, stop: stop.drop_guard(), _directory: directory }
}

struct Raw(BufReader<UnixStream>);

impl Raw {
    async fn connect(daemon: &Daemon) -> Self {
        Self(BufReader::new(UnixStream::connect(&daemon.path).await.unwrap()))
    }

    async fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = timeout(SOON, self.0.read_line(&mut line)).await.expect("a line in time").unwrap_or(0);
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    async fn ask(&mut self, text: &str) -> Value {
        self.write(&format!("{text}\n")).await;
        self.line().await.expect("an answer")
    }
}

#[tokio::test]
async fn a_call_reaches_the_engine_and_its_answer_the_client() {
    let mut daemon = start();
    let mut client = Client::connect(&daemon.path, SOON).await.unwrap();
    let params = json!({"to": ["bob"], "text": "hi"});
    let answer = client.call_raw("send", params.clone()).await.unwrap();
    assert_eq!(answer["messages"][0]["id"], "m1");
    assert!(daemon.engine.expect("send").await == Request::parse("send", params).unwrap());
    daemon.engine.answer("unread", Err(ApiError::new(ErrorCode::Locked, "locked").hint("unlock it")));
    let Err(fastchat_ipc::ClientError::Api(error)) = client.call::<method::CountUnread>(&Default::default()).await
    else {
        panic!("it was answered")
    };
    assert_eq!((error.code, error.hint.as_deref()), (ErrorCode::Locked, Some("unlock it")));
}

#[tokio::test]
async fn what_is_no_request_is_told_and_the_connection_lives_on() {
    let daemon = start();
    let mut raw = Raw::connect(&daemon).await;
    let answer = raw.ask("{nonsense").await;
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32700), &Value::Null));
    let answer = raw.ask(r#"[{"jsonrpc":"2.0","id":1,"method":"unread"}]"#).await;
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32600), &Value::Null));
    assert!(answer["error"]["message"].as_str().unwrap().contains("batches are not supported"));
    let answer = raw.ask(r#"{"jsonrpc":"1.0","id":"x","method":"unread"}"#).await;
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32600), &json!("x")));
    let answer = raw.ask(r#"{"jsonrpc":"2.0","id":2,"method":"nope"}"#).await;
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32601), &json!(2)));
    let answer = raw.ask(r#"{"jsonrpc":"2.0","id":3,"method":"unread","params":{"x":1}}"#).await;
    assert_eq!(answer["error"]["code"], json!(-32602));
    // Without an id there is no answer, whether it works or not; the next answer is that of the next request.
    raw.write("{\"jsonrpc\":\"2.0\",\"method\":\"nope\"}\n\n{\"jsonrpc\":\"2.0\",\"method\":\"unread\"}\n").await;
    let answer = raw.ask(r#"{"jsonrpc":"2.0","id":4,"method":"unread"}"#).await;
    assert_eq!((&answer["id"], &answer["result"]["direct"]), (&json!(4), &json!(1)));
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_that_connection_alone() {
    let daemon = start();
    let (mut long, mut other) = (Raw::connect(&daemon).await, Raw::connect(&daemon).await);
    let flood = vec![b'x'; LINE_LIMIT + 2];
    // The daemon may close before all of it is taken.
    let _ = long.0.get_mut().write_all(&flood).await;
    let answer = long.line().await.expect("a reason");
    assert_eq!(answer["error"]["code"], json!(-32600));
    assert_eq!(long.line().await, None);
    assert_eq!(other.ask(r#"{"jsonrpc":"2.0","id":1,"method":"unread"}"#).await["id"], json!(1));
}

#[tokio::test]
async fn a_client_that_closed_its_side_still_gets_its_answers() {
    let daemon = start();
    let mut raw = Raw::connect(&daemon).await;
    raw.write("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"unread\"}\n").await;
    raw.0.get_mut().shutdown().await.unwrap();
    assert_eq!(raw.line().await.expect("an answer")["id"], json!(1));
    assert_eq!(raw.line().await, None);
}

#[tokio::test]
async fn a_subscription_is_answered_first_and_then_misses_nothing() {
    let daemon = start();
    for n in 0..300 {
        daemon.engine.happen(message_received("c1", &format!("m{n}")));
    }
    let mut raw = Raw::connect(&daemon).await;
    let answer = raw.ask(r#"{"jsonrpc":"2.0","id":1,"method":"events.subscribe","params":{"since":"0"}}"#).await;
    assert_eq!(answer["result"]["cursor"], "0");
    // Nobody reads meanwhile: far more than any buffer of ours holds.
    for n in 300..2000 {
        daemon.engine.happen(message_received("c1", &format!("m{n}")));
    }
    for n in 0..2000 {
        let event = raw.line().await.expect("an event");
        assert_eq!((&event["method"], &event["params"]["id"]), (&json!("event"), &json!(format!("m{n}"))));
    }
    let again = raw.ask(r#"{"jsonrpc":"2.0","id":2,"method":"events.subscribe"}"#).await;
    assert!(again["error"]["message"].as_str().unwrap().contains("subscribed already"), "{again}");
}

#[tokio::test]
async fn a_subscription_that_cannot_begin_is_an_error_and_may_be_tried_again() {
    let daemon = start();
    daemon.engine.answer("events.subscribe", Err(ApiError::new(ErrorCode::Locked, "the store is locked")));
    let mut raw = Raw::connect(&daemon).await;
    let answer = raw.ask(r#"{"jsonrpc":"2.0","id":1,"method":"events.subscribe"}"#).await;
    assert_eq!(answer["error"]["data"]["code"], "locked");
    daemon.engine.answer("events.subscribe", Ok(json!({"cursor": "0"})));
    let answer = raw.ask(r#"{"jsonrpc":"2.0","id":2,"method":"events.subscribe"}"#).await;
    assert_eq!(answer["result"]["cursor"], "0");
}

#[tokio::test]
async fn one_client_too_many_is_told_so() {
    let daemon = start();
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut raw = Raw::connect(&daemon).await;
        raw.ask(r#"{"jsonrpc":"2.0","id":1,"method":"unread"}"#).await;
        held.push(raw);
    }
    let mut late = Raw::connect(&daemon).await;
    let answer = late.line().await.expect("a reason");
    assert!(answer["error"]["message"].as_str().unwrap().contains("64 clients"), "{answer}");
    drop(held);
}

#[tokio::test]
async fn socket_and_directory_are_the_users_alone() {
    let daemon = start();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&daemon.path), mode(daemon.path.parent().unwrap())), (0o600, 0o700));
    let open = tempfile::tempdir().unwrap();
    std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
    let Err(error) = rpc::bind(&open.path().join("s")) else { panic!("it was taken") };
    assert!(error.to_string().contains("chmod 700"), "{error}");
    let own = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(own.path(), own.path().join("link")).unwrap();
    assert!(matches!(rpc::bind(&own.path().join("link/s")), Err(BindError::Directory { .. })));
}

#[tokio::test]
async fn a_second_daemon_does_not_take_the_socket() {
    let daemon = start();
    assert!(matches!(rpc::bind(&daemon.path), Err(BindError::Running(_))));
    // Somebody who holds no lock but answers is left alone as well.
    let other = daemon.path.with_file_name("other.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&other).unwrap();
    assert!(matches!(rpc::bind(&other), Err(BindError::Running(_))));
    let file = daemon.path.with_file_name("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(rpc::bind(&file), Err(BindError::InTheWay(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_left_behind_by_a_killed_daemon_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("own/s");
    drop(rpc::bind(&path).unwrap());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = rpc::bind(&path).unwrap();
    let stop = CancellationToken::new();
    let engine = Engine::start();
    tokio::spawn(rpc::serve(engine.api.clone(), listener, stop.clone()));
    Client::connect(&path, SOON).await.unwrap().call::<method::CountUnread>(&Default::default()).await.unwrap();
    stop.cancel();
}

#[tokio::test]
async fn a_stop_ends_idle_clients_at_once_and_removes_the_socket() {
    let daemon = start();
    let mut raw = Raw::connect(&daemon).await;
    raw.ask(r#"{"jsonrpc":"2.0","id":1,"method":"unread"}"#).await;
    drop(daemon.stop);
    timeout(Duration::from_secs(10), daemon.serving).await.expect("it ends").unwrap();
    let mut rest = Vec::new();
    raw.0.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty() && !daemon.path.exists());
}
