//! The way to the daemon: connects to its socket, and starts it when nobody answers there.
//!
//! **Invariant**: a daemon is started only when nothing listens on the socket; every wait has an end.

use std::env;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use fastchat_ipc::{Client, ClientError, Method, SOCKET_VARIABLE, socket_path};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Names another daemon program than the one beside ours or in PATH.
const DAEMON_VARIABLE: &str = "FASTCHATD";
/// The daemon's exit code for a configuration that it cannot use (EX_CONFIG of sysexits.h).
const CONFIG_IS_WRONG: i32 = 78;
/// How long a started daemon has until its socket answers.
const START: Duration = Duration::from_secs(10);
/// How long `systemctl` has.
const SYSTEMCTL: Duration = Duration::from_secs(3);
/// How long a daemon that ended may go unanswered: another one may have been quicker.
const AFTER_EXIT: Duration = Duration::from_millis(500);
/// How often a wait looks again.
const TICK: Duration = Duration::from_millis(10);
/// A call's deadline unless `--timeout` says otherwise.
pub(crate) const CALL: Duration = Duration::from_secs(30);

/// What a command has around it: the global options, and through them the daemon.
#[derive(Debug)]
pub(crate) struct Context {
    /// `--account`, or empty for the default one.
    pub(crate) account: String,
    /// `--timeout`.
    pub(crate) timeout: Option<Duration>,
    /// Whether a daemon may be started.
    pub(crate) start: bool,
    /// Where results go.
    pub(crate) out: Output,
}

/// A method's result: as it came (with fields that this version may not know), and read.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) raw: Value,
    pub(crate) value: T,
}

impl Context {
    /// A connection to the daemon, started if need be. Calls on it have `--timeout`, else 30 s.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let path = socket_path();
        let deadline = self.timeout.unwrap_or(CALL);
        match Client::connect(&path, deadline).await {
            Ok(client) => Ok(client),
            Err(error) if !self.start || !is_nobody_there(&error) => Err(unreachable(error)),
            Err(error) => self.start(&path, deadline, error).await,
        }
    }

    /// Connects and calls `M`.
    pub(crate) async fn call<M: Method>(&self, params: &M::Params) -> Result<Answer<M::Result>, Failure> {
        call::<M>(&mut self.connect().await?, params).await
    }

    async fn start(&self, path: &Path, deadline: Duration, first: ClientError) -> Result<Client, Failure> {
        let is_usual = env::var_os(DAEMON_VARIABLE).is_none() && env::var_os(SOCKET_VARIABLE).is_none();
        if is_usual && start_unit().await? {
            return wait_for(path, deadline, None).await;
        }
        let Some(program) = find_program() else {
            return Err(unreachable(first).next("`fastchatd` is neither beside fastchatctl nor in PATH: install it"));
        };
        let child = spawn(&program)?;
        let pid = child.id();
        let client = wait_for(path, deadline, Some((program, child))).await?;
        self.out.note(format!("started fastchatd (pid {pid})"));
        Ok(client)
    }
}

/// Calls `M` on a connection that is there already.
pub(crate) async fn call<M: Method>(client: &mut Client, params: &M::Params) -> Result<Answer<M::Result>, Failure> {
    let defect = |error: serde_json::Error| {
        Failure::new(Exit::Internal, "protocol", format!("the daemon's answer to {} cannot be read: {error}", M::NAME))
            .next("`fastchatctl doctor`: are daemon and fastchatctl of the same version?")
    };
    let raw = client.call_raw(M::NAME, serde_json::to_value(params).map_err(defect)?).await?;
    let value = serde_json::from_value(raw.clone()).map_err(defect)?;
    Ok(Answer { raw, value })
}

fn is_nobody_there(error: &ClientError) -> bool {
    let ClientError::Unreachable { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

fn unreachable(error: ClientError) -> Failure {
    match error {
        ClientError::TimedOut(deadline) => Failure::new(
            Exit::NoDaemon,
            "no_daemon",
            format!("the daemon has not taken the connection within {} s", deadline.as_secs_f32()),
        )
        .next("`systemctl --user restart fastchatd`, or end it and run `fastchatd`"),
        other => other.into(),
    }
}

/// Starts the socket unit when there is one; tells whether there is.
async fn start_unit() -> Result<bool, Failure> {
    if env::var_os("XDG_RUNTIME_DIR").is_none() {
        return Ok(false);
    }
    if !systemctl(&["cat", "fastchatd.socket"]).await {
        return Ok(false);
    }
    if systemctl(&["start", "fastchatd.socket"]).await {
        return Ok(true);
    }
    Err(Failure::new(Exit::NoDaemon, "no_daemon", "systemd could not start fastchatd.socket")
        .next("`systemctl --user status fastchatd.socket fastchatd.service`"))
}

/// Whether `systemctl --user ARGUMENTS` succeeds in time. Without systemd it does not.
async fn systemctl(arguments: &[&str]) -> bool {
    let mut command = Command::new("systemctl");
    command.args(["--user", "--no-pager"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let end = Instant::now() + SYSTEMCTL;
    let mut ticks = ticks();
    while Instant::now() < end {
        ticks.tick().await;
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return status.success(),
            Err(_) => return false,
        }
    }
    // It hangs: end it and collect it; both fail only when it is gone already.
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// `$FASTCHATD`, the one beside this program, the one in PATH.
fn find_program() -> Option<PathBuf> {
    if let Some(program) = env::var_os(DAEMON_VARIABLE).filter(|program| !program.is_empty()) {
        return Some(program.into());
    }
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.join("fastchatd")));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|directory| directory.join("fastchatd"));
    beside.into_iter().chain(in_path).find(|program| program.is_file())
}

/// Starts the daemon on its own: it gets neither this terminal's signals nor its input and output.
fn spawn(program: &Path) -> Result<Child, Failure> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).current_dir("/");
    command.spawn().map_err(|error| {
        Failure::new(Exit::NoDaemon, "no_daemon", format!("cannot start {}: {error}", program.display()))
            .next("check that it is installed and may be executed")
    })
}

/// Connects as soon as somebody listens.
async fn wait_for(path: &Path, deadline: Duration, started: Option<(PathBuf, Child)>) -> Result<Client, Failure> {
    let mut started = started;
    let mut end = Instant::now() + START;
    let mut ended: Option<ExitStatus> = None;
    let mut ticks = ticks();
    loop {
        ticks.tick().await;
        match Client::connect(path, deadline).await {
            Ok(client) => return Ok(client),
            Err(error) if !is_nobody_there(&error) => return Err(unreachable(error)),
            Err(_) if Instant::now() < end => {}
            Err(error) => {
                return Err(not_started(started.as_ref().map(|(program, _)| program.as_path()), ended, &error));
            }
        }
        if let (None, Some((_, child))) = (ended, started.as_mut()) {
            ended = child.try_wait().ok().flatten();
            if ended.is_some() {
                end = Instant::now() + AFTER_EXIT;
            }
        }
    }
}

fn not_started(program: Option<&Path>, ended: Option<ExitStatus>, error: &ClientError) -> Failure {
    let (what, next) = match (program, ended) {
        (Some(program), Some(status)) if status.code() == Some(CONFIG_IS_WRONG) => (
            format!("{} was started and refuses its configuration", program.display()),
            format!("`{} --check-config` tells what is wrong in it", program.display()),
        ),
        (Some(program), Some(status)) => (
            format!("{} was started and ended at once ({status})", program.display()),
            format!("run `{}` to see why", program.display()),
        ),
        (Some(program), None) => (
            format!("{} was started, but does not answer: {error}", program.display()),
            format!("end it, and run `{}` to see why", program.display()),
        ),
        (None, _) => (
            format!("fastchatd.socket was started, but {error}"),
            "`systemctl --user status fastchatd.socket fastchatd.service`".to_owned(),
        ),
    };
    Failure::new(Exit::NoDaemon, "no_daemon", what).next(next)
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
