//! What a server's failure means to somebody who calls the daemon.
//!
//! **Invariant**: every code of the wire has exactly one translation, here; the server's text is shown without control
//! characters and cut to a bounded length.

use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{Code, v1};

/// The most characters of a server's text that are passed on.
const MAX_TEXT: usize = 300;

/// The error that a call fails with when the server answered with `failure`.
#[must_use]
pub fn api_error(failure: &v1::Failure) -> ApiError {
    let code = Code::try_from(failure.code).unwrap_or(Code::Unspecified);
    let (kind, meaning, next) = translate(code);
    let text = if says_enough(code) { String::new() } else { shown(&failure.text) };
    let message = if text.is_empty() { meaning.to_owned() } else { format!("{meaning}: {text}") };
    let mut error = ApiError::new(kind, message);
    if !next.is_empty() {
        error = error.hint(next);
    }
    if failure.retry_after_ms > 0 {
        error = error.with("retry_after_ms", failure.retry_after_ms);
    }
    error
}

/// Whether the code says it all, so that the server's words would only say it again.
fn says_enough(code: Code) -> bool {
    matches!(
        code,
        Code::UnsupportedVersion
            | Code::Unauthenticated
            | Code::WrongCredentials
            | Code::NameTaken
            | Code::RegistrationClosed
            | Code::InviteRequired
    )
}

/// Text of a server, fit to be shown.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// The caller's code, what it means, and what to do next (empty: nothing in particular).
fn translate(code: Code) -> (ErrorCode, &'static str, &'static str) {
    const LATER: &str = "try again later";
    const OPERATOR: &str = "if it happens again, tell the server's operator";
    match code {
        Code::Unspecified => (ErrorCode::Server, "the server answered with a failure that is not known here", OPERATOR),
        Code::BadFrame => (ErrorCode::Server, "the server could not read what it was sent", OPERATOR),
        Code::TooLarge => (ErrorCode::Server, "too large for the server", "send less at once"),
        Code::UnsupportedVersion => (
            ErrorCode::Server,
            "the server speaks no version of the protocol that this daemon speaks",
            "update whichever of the two is older",
        ),
        Code::Unauthenticated => {
            (ErrorCode::LoggedOut, "the server has ended this device's session", "log in again: `fastchatctl login`")
        }
        Code::WrongCredentials => (
            ErrorCode::WrongPassword,
            "the password is wrong, or there is no such account",
            "check both; a new account is made with `fastchatctl register`",
        ),
        Code::NameTaken => (
            ErrorCode::NameTaken,
            "this name is taken on that server",
            "choose another name, or `fastchatctl login` if the account is yours",
        ),
        Code::Invalid => (ErrorCode::Server, "the server did not accept a field of the request", OPERATOR),
        Code::RegistrationClosed => (
            ErrorCode::RegistrationClosed,
            "the server makes no new accounts",
            "ask its operator, or `fastchatctl login` to an account you have",
        ),
        Code::InviteRequired => (
            ErrorCode::RegistrationClosed,
            "the server wants a valid invitation",
            "ask its operator for one and add `--invite TOKEN`",
        ),
        Code::NotFound => (ErrorCode::NotFound, "the server does not know it", ""),
        Code::Refused => (ErrorCode::Refused, "the other side does not want this", ""),
        Code::NotAMember => (ErrorCode::Refused, "this device is not in that conversation", ""),
        Code::StaleEpoch => (ErrorCode::Server, "the conversation has moved on", LATER),
        Code::Conflict => (ErrorCode::Conflict, "the same id was used before with other content", ""),
        Code::RateLimited => (ErrorCode::RateLimited, "too many requests", LATER),
        Code::NoKeyPackages => (ErrorCode::Server, "none of the recipient's devices can be reached right now", LATER),
        Code::Overloaded => (ErrorCode::Server, "the server has too much to do", LATER),
        Code::StorageFull => (ErrorCode::StorageFull, "the server's disk is full", "tell the server's operator"),
        Code::ShuttingDown => (ErrorCode::Server, "the server is stopping", LATER),
        Code::Internal => (ErrorCode::Server, "the server failed", OPERATOR),
        Code::TimedOut => (ErrorCode::TimedOut, "the server waited too long for this device", LATER),
        Code::ClosedConversation => (ErrorCode::Server, "the conversation was replaced by another", LATER),
        Code::HandshakeMalformed => (ErrorCode::Server, "the server could not read a change of the group", OPERATOR),
        Code::HandshakeInvalid => (ErrorCode::Server, "the server found a change of the group invalid", OPERATOR),
        Code::NotAllowed => (ErrorCode::NotAllowed, "our role in the group does not allow it", "ask one of its admins"),
        Code::RosterMismatch => (ErrorCode::Server, "somebody's devices have changed meanwhile", LATER),
        Code::GroupInfoMismatch => (ErrorCode::Server, "a change of the group does not fit what it leads to", OPERATOR),
        Code::ProposalsPending => (ErrorCode::Server, "somebody is leaving the group at this moment", LATER),
        Code::GroupFull => (ErrorCode::GroupFull, "the group takes no more members", "remove some first"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_cannot_carry_control_characters_or_be_long() {
        let failure = v1::Failure::new(Code::Internal, format!("\x1b[31m{}", "x".repeat(5000)));
        let error = api_error(&failure);
        assert!(!error.message.contains('\x1b'));
        assert!(error.message.chars().count() < MAX_TEXT + 40);
    }

    #[test]
    fn an_unknown_code_is_a_server_failure() {
        let failure = v1::Failure { code: 9999, ..v1::Failure::default() };
        assert_eq!(api_error(&failure).code, ErrorCode::Server);
    }

    #[test]
    fn advice_on_when_to_come_again_is_passed_on() {
        let failure = v1::Failure { retry_after_ms: 1500, ..v1::Failure::new(Code::RateLimited, "") };
        let error = api_error(&failure);
        assert_eq!(error.code, ErrorCode::RateLimited);
        assert_eq!(error.data["retry_after_ms"], 1500);
    }
}
