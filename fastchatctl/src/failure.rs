//! Why a command stops, what it prints then, and the exit code.
//!
//! **Invariant**: every exit code comes from [`Exit`]; a failure is printed once, on stderr, and says what to do next
//! where that is known.

use std::io::{self, Write};

use fastchat_ipc::{ApiError, ClientError, ErrorCode};
use serde_json::{Map, Value, json};

use crate::output::RED;
use crate::safe_text;

/// The exit codes, as `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Usage = 1,
    Internal = 2,
    Network = 3,
    Untrusted = 4,
    RateLimited = 5,
    NoDaemon = 6,
    Refused = 7,
    QueuedOnly = 8,
}

impl Exit {
    /// The exit code that belongs to a code of the API.
    pub(crate) fn of(code: ErrorCode) -> Self {
        match code.exit_code() {
            1 => Self::Usage,
            3 => Self::Network,
            4 => Self::Untrusted,
            5 => Self::RateLimited,
            7 => Self::Refused,
            _ => Self::Internal,
        }
    }

    /// The one that a script should know of, when several things went differently.
    pub(crate) fn worse(self, other: Self) -> Self {
        const ORDER: [Exit; 9] = [
            Exit::Ok,
            Exit::QueuedOnly,
            Exit::Usage,
            Exit::Network,
            Exit::RateLimited,
            Exit::Refused,
            Exit::NoDaemon,
            Exit::Internal,
            Exit::Untrusted,
        ];
        let rank = |exit: Self| ORDER.iter().position(|other| *other == exit);
        if rank(other) > rank(self) { other } else { self }
    }
}

/// Why a command stops early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Who read our output has gone (`| head`): not an error.
    ReaderGone,
    /// Something failed.
    Failed(Box<Report>),
}

/// What failed, why, and what to do next.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) exit: Exit,
    code: String,
    message: String,
    next: Vec<String>,
    data: Map<String, Value>,
}

impl Failure {
    /// A failure with a code for programs and a text for people.
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        let report = Report { exit, code: code.into(), message: message.into(), next: Vec::new(), data: Map::new() };
        Self::Failed(Box::new(report))
    }

    /// The command was not given what it needs.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// The same, with what to do next.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        if let Self::Failed(report) = &mut self {
            report.next.push(step.into());
        }
        self
    }

    /// What kind of failure, as the API or `--json` names it.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::ReaderGone => "",
            Self::Failed(report) => &report.code,
        }
    }

    /// Prints it on stderr and tells the exit code.
    pub(crate) fn report(&self, as_json: bool) -> Exit {
        let Self::Failed(report) = self else { return Exit::Ok };
        let text = if as_json { report.json() } else { report.text() };
        // Nowhere is left to say that stderr cannot be written.
        let _ = anstream::stderr().write_all(text.as_bytes());
        report.exit
    }
}

impl Report {
    fn text(&self) -> String {
        let error = RED.bold();
        let mut text = format!("{error}error:{error:#} {}\n", safe_text::block(&self.message, 2));
        for step in &self.next {
            text.push_str(&format!("  next: {}\n", safe_text::block(step, 8)));
        }
        text
    }

    fn json(&self) -> String {
        let mut error = json!({ "code": self.code, "message": self.message, "exit": self.exit as u8 });
        if !self.next.is_empty() {
            error["hint"] = self.next.join("\n").into();
        }
        if !self.data.is_empty() {
            error["data"] = Value::Object(self.data.clone());
        }
        format!("{}\n", safe_text::json(&json!({ "error": error }).to_string()))
    }
}

impl From<io::Error> for Failure {
    /// Output could not be written.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Self::new(Exit::Internal, "output", format!("cannot write the output: {error}"))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let code = serde_json::to_value(error.code).ok().and_then(|code| code.as_str().map(str::to_owned));
        let step = error.hint.clone().or_else(|| default_step(error.code).map(str::to_owned));
        let message = match error.data.get("retry_after_ms").and_then(Value::as_u64) {
            Some(wait) if error.hint.is_none() => format!("{} (wait {} s)", error.message, wait.div_ceil(1000)),
            _ => error.message,
        };
        Self::Failed(Box::new(Report {
            exit: Exit::of(error.code),
            code: code.unwrap_or_default(),
            message,
            next: step.into_iter().collect(),
            data: error.data,
        }))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Api(error) => error.into(),
            ClientError::Unreachable { .. } => Self::new(Exit::NoDaemon, "no_daemon", message)
                .next("`systemctl --user status fastchatd` or run `fastchatd`"),
            ClientError::Broken(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                Self::new(Exit::Internal, "protocol", format!("the daemon said something that cannot be read: {cause}"))
                    .next("`fastchatctl doctor`: are daemon and fastchatctl of the same version?")
            }
            ClientError::Broken(_) => {
                Self::new(Exit::NoDaemon, "no_daemon", message).next("try again; `fastchatctl status` shows how it is")
            }
            ClientError::TimedOut(_) => {
                Self::new(Exit::Network, "timed_out", message).next("try again, with a longer `--timeout`")
            }
        }
    }
}

/// What to do next where the daemon did not say it.
fn default_step(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::NoAccount => "`fastchatctl register USER@HOST`, or `fastchatctl login USER@HOST`",
        ErrorCode::Locked => "`fastchatctl unlock`",
        ErrorCode::LoggedOut => "`fastchatctl login USER@HOST`",
        ErrorCode::NameTaken => "choose another name, or `fastchatctl login` if it is yours",
        ErrorCode::RegistrationClosed => "ask the server's operator for an invitation, then add `--invite TOKEN`",
        ErrorCode::Unreachable => "`fastchatctl doctor` tells what is in the way",
        ErrorCode::IdentityChanged => "`fastchatctl key show NAME`, compare, then `fastchatctl key trust NAME`",
        ErrorCode::NotAllowed => "`fastchatctl group show GROUP` tells who its admins are; ask one of them",
        ErrorCode::GroupFull => "remove members who left, or make another group",
        ErrorCode::StorageFull => "make room on the disk, then try again",
        ErrorCode::Conflict => "use another `--idempotency-key` for another message",
        ErrorCode::Internal => "`journalctl --user -u fastchatd` says more",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untrusted_key_outweighs_everything_and_success_nothing() {
        assert_eq!(Exit::Refused.worse(Exit::Untrusted), Exit::Untrusted);
        assert_eq!(Exit::Untrusted.worse(Exit::Internal), Exit::Untrusted);
        assert_eq!(Exit::Ok.worse(Exit::QueuedOnly), Exit::QueuedOnly);
        assert_eq!(Exit::Refused.worse(Exit::Ok), Exit::Refused);
    }

    #[test]
    fn a_hostile_error_text_shows_escaped() {
        let Failure::Failed(report) = Failure::from(ApiError::new(ErrorCode::Server, "no\x1b[2J\nerror: fake")) else {
            panic!("it is a failure")
        };
        assert!(report.text().contains("no\\x1b[2J\n  error: fake"), "{}", report.text());
        assert!(!report.json().contains('\x1b'));
    }

    #[test]
    fn what_to_do_next_is_there_even_when_the_daemon_is_silent_about_it() {
        let Failure::Failed(report) = Failure::from(ApiError::new(ErrorCode::Locked, "locked")) else {
            panic!("it is a failure")
        };
        assert_eq!((report.exit, report.next.as_slice()), (Exit::Refused, &["`fastchatctl unlock`".to_owned()][..]));
    }
}
