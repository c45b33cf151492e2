//! A process of a test: started, known to be ready, ended.
//!
//! Readiness is what the service manager would be told: `READY=1` on `$NOTIFY_SOCKET` (sd_notify(3)).
//!
//! **Invariant**: the process ends, and is collected, no later than the value that holds it.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
    time::timeout,
};

/// How long anything may take. Long, because a machine with few cores runs several tests at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a log that are shown.
const TAIL: usize = 60;

/// Waits for `work`, [`PATIENCE`] at most.
///
/// # Errors
/// It failed, or took too long; the text names `what`.
pub async fn within<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(PATIENCE, work).await {
        Ok(outcome) => outcome.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: it did not happen within {} s", PATIENCE.as_secs()),
    }
}

/// A running process.
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    /// Whether the test ended it itself: its successor's log goes on after its own.
    is_over: bool,
}

impl Running {
    /// Starts `command` and waits until it says that it is ready. Its output is kept in `directory`.
    ///
    /// # Errors
    /// It cannot be started, or ended before it was ready.
    pub async fn start(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let socket = directory.join(format!("{name}.notify"));
        // Of an earlier start; usually there is none.
        let _ = fs::remove_file(&socket);
        let readiness = UnixDatagram::bind(&socket).context("the readiness socket")?;
        command.env("NOTIFY_SOCKET", &socket);
        let mut running = Self::spawn(name, command, directory)?;
        let mut message = [0; 512];
        let ready = async {
            loop {
                tokio::select! {
                    read = readiness.recv(&mut message) => {
                        let length = read?;
                        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                            return Ok(());
                        }
                    }
                    status = running.child.wait() => bail!("{name} ended before it was ready: {}", status?),
                }
            }
        };
        within(&format!("{name} gets ready"), ready).await?;
        Ok(running)
    }

    /// Starts `command` without waiting for anything.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(name: &str, mut command: Command, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let errors = OpenOptions::new().create(true).append(true).open(&log)?;
        let output = File::create(directory.join(format!("{name}.out")))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, is_over: false })
    }

    /// Its process id; 0 when it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// What it wrote on stderr.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kill -9.
    ///
    /// # Errors
    /// It cannot be collected.
    pub async fn kill(&mut self) -> Result<()> {
        self.is_over = true;
        within(&format!("{} is killed", self.name), async { Ok(self.child.kill().await?) }).await
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let status = self.ended().await?;
        self.is_over = status.success();
        Ok(status)
    }

    /// Sends a signal; does nothing when it has ended.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))?;
        }
        Ok(())
    }

    /// Its end was what the test wanted: its log is not shown for that.
    pub fn is_expected(&mut self) {
        self.is_over = true;
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        within(&format!("{} ends", self.name), async { Ok(self.child.wait().await?) }).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("--- the end of the log of {} ---", self.name);
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
            eprintln!("{line}");
        }
    }
}
