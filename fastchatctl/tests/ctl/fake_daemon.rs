//! A daemon that answers as the test says, on a socket of its own, and keeps what it was asked.
//!
//! **Invariant**: every request is kept before it is answered.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// How the daemon answers a request.
pub(crate) enum Reply {
    /// With a result.
    Result(Value),
    /// With a failure.
    Error(Value),
    /// With events after a subscription's answer; the connection stays open.
    Events(Vec<Value>),
    /// With events after a subscription's answer, and closes.
    EventsAndClose(Vec<Value>),
    /// Closes without an answer.
    Close,
}

/// Shorthand for a failure.
pub(crate) fn failed(code: &str, message: &str) -> Reply {
    Reply::Error(json!({ "code": code, "message": message }))
}

/// The daemon.
pub(crate) struct FakeDaemon {
    directory: tempfile::TempDir,
    asked: Receiver<(String, Value)>,
}

impl FakeDaemon {
    /// Listens, and answers with what `answer` makes of a method and its parameters.
    pub(crate) fn start(answer: impl FnMut(&str, &Value) -> Reply + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let asked = listen(&directory.path().join("socket"), answer);
        Self { directory, asked }
    }

    /// `fastchatctl` with these arguments, that talks to this daemon.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Command {
        ctl(&self.directory.path().join("socket"), arguments)
    }

    /// A place for the test's files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next request: its method and parameters.
    pub(crate) fn asked(&self) -> (String, Value) {
        self.asked.recv_timeout(Duration::from_secs(10)).expect("the daemon was asked nothing more")
    }

    /// A request that has come already.
    pub(crate) fn try_asked(&self) -> Option<(String, Value)> {
        self.asked.try_recv().ok()
    }

    /// The parameters of the next request of `method`; others are passed over.
    pub(crate) fn asked_for(&self, method: &str) -> Value {
        loop {
            match self.asked() {
                (name, params) if name == method => return params,
                _ => {}
            }
        }
    }
}

/// `fastchatctl` for the daemon on `socket`, with nothing of the tester's surroundings.
pub(crate) fn ctl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fastchatctl"));
    command.args(arguments).env("FASTCHAT_SOCKET", socket).env_remove("FASTCHATD").stdin(Stdio::null());
    command
}

/// Listens on `socket` in the background, until the test ends.
pub(crate) fn listen(
    socket: &Path,
    mut answer: impl FnMut(&str, &Value) -> Reply + Send + 'static,
) -> Receiver<(String, Value)> {
    let listener = UnixListener::bind(socket).unwrap();
    let (asked, received) = channel();
    std::thread::spawn(move || {
        // One connection after the other is enough, but a subscription stays open beside the next one.
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            if let Some(stream) = serve(stream, &asked, &mut answer) {
                open.push(stream);
            }
        }
    });
    received
}

/// Answers until the client goes, or subscribes: then the connection is given back.
fn serve(
    stream: UnixStream,
    asked: &Sender<(String, Value)>,
    answer: &mut impl FnMut(&str, &Value) -> Reply,
) -> Option<UnixStream> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    while {
        line.clear();
        lines.read_line(&mut line).ok()? > 0
    } {
        let request: Value = serde_json::from_str(&line).unwrap();
        let (method, params) = (request["method"].as_str().unwrap().to_owned(), request["params"].clone());
        let _ = asked.send((method.clone(), params.clone()));
        let head = |name: &str, value: Value| json!({ "jsonrpc": "2.0", "id": request["id"], name: value });
        let subscribed = head("result", json!({ "cursor": "0" }));
        let (answers, ends, stays) = match answer(&method, &params) {
            Reply::Result(result) => (vec![head("result", result)], false, false),
            Reply::Error(error) => {
                let failure = json!({ "code": -32000, "message": error["message"], "data": error });
                (vec![head("error", failure)], false, false)
            }
            Reply::Events(events) => (subscription(subscribed, events), false, true),
            Reply::EventsAndClose(events) => (subscription(subscribed, events), true, false),
            Reply::Close => (Vec::new(), true, false),
        };
        for answer in answers {
            writeln!(&stream, "{answer}").ok()?;
        }
        if stays {
            return Some(stream);
        }
        if ends {
            return None;
        }
    }
    None
}

fn subscription(subscribed: Value, events: Vec<Value>) -> Vec<Value> {
    let notification = |event| json!({ "jsonrpc": "2.0", "method": "event", "params": event });
    std::iter::once(subscribed).chain(events.into_iter().map(notification)).collect()
}

/// What a program that has ended printed on stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a program that has ended printed on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs it with `input` on stdin.
pub(crate) fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read everything: that is for the test to judge by its output.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// Runs it on a terminal where somebody types these lines.
pub(crate) fn on_a_terminal(command: &Command, typed: &str) -> Output {
    let mut line = command.get_program().to_str().unwrap().to_owned();
    for argument in command.get_args() {
        line.push_str(&format!(" '{}'", argument.to_str().unwrap()));
    }
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env("TERM", "xterm");
    run_with_input(script, typed.as_bytes())
}
