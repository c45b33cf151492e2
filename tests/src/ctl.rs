//! `fastchatctl`, as a person or a script runs it.
//!
//! **Invariant**: it never starts a daemon unless the test says so, and never sees a terminal.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::{Daemon, within};

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ended {
    /// Checks the exit code.
    ///
    /// # Errors
    /// It is another one; the text shows the output.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "exit code {} instead of {code}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Reads stdout as one JSON value.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("this is not JSON: {}", self.stdout))
    }

    /// Reads stderr as one failure in JSON: its `error` object.
    ///
    /// # Errors
    /// It is none.
    pub fn failure(&self) -> Result<Value> {
        let value: Value = serde_json::from_str(&self.stderr).with_context(|| format!("not JSON: {}", self.stderr))?;
        value.get("error").cloned().context("an `error` object")
    }
}

/// Runs `fastchatctl` against one daemon.
pub struct Ctl<'a> {
    daemon: &'a Daemon,
    start: bool,
}

impl<'a> Ctl<'a> {
    pub(crate) fn new(daemon: &'a Daemon) -> Self {
        Self { daemon, start: false }
    }

    /// Lets it start a daemon when none answers.
    #[must_use]
    pub fn may_start(mut self) -> Self {
        self.start = true;
        self
    }

    /// Runs it without input and expects success.
    ///
    /// # Errors
    /// It fails.
    pub async fn ok(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.run(arguments).await?.expect(0)?.stdout)
    }

    /// Runs it without input.
    ///
    /// # Errors
    /// It cannot be run.
    pub async fn run(&self, arguments: &[&str]) -> Result<Ended> {
        self.fed("", arguments).await
    }

    /// Runs it with `input` on a pipe.
    ///
    /// # Errors
    /// It cannot be run.
    pub async fn fed(&self, input: &str, arguments: &[&str]) -> Result<Ended> {
        let mut command = self.daemon.command("fastchatctl")?;
        if !self.start {
            command.arg("--no-start");
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting fastchatctl")?;
        let mut stdin = child.stdin.take().context("its input")?;
        let ended = async {
            // It may end without reading.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            Ok(child.wait_with_output().await?)
        };
        let output = within(&format!("fastchatctl {}", arguments.join(" ")), ended).await?;
        Ok(Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }
}
