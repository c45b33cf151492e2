//! The closed set of ways a call can fail, and what each is called on either transport.
//!
//! **Invariant**: every failure has a code, a text that says what failed, and, where there is one, the next step.

use serde::{Deserialize, Serialize};

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not JSON-RPC 2.0.
    InvalidRequest,
    /// There is no such method.
    UnknownMethod,
    /// A parameter is missing, unknown or out of its bounds.
    InvalidParams,
    /// No such account, chat, group, contact, device, message, link or recipient.
    NotFound,
    /// The other side, or a setting here, does not allow it.
    Refused,
    /// No account is set up yet.
    NoAccount,
    /// The account exists already.
    AccountExists,
    /// The name is taken on that server.
    NameTaken,
    /// The server registers nobody, or wants an invitation.
    RegistrationClosed,
    /// The password is wrong, or there is no such account.
    WrongPassword,
    /// The session has ended on the server's side: log in again.
    LoggedOut,
    /// The store is locked: unlock it first.
    Locked,
    /// The server's certificate is not known yet; `data.pin` is its fingerprint.
    UntrustedServer,
    /// The server's certificate is not the one that was trusted before.
    ServerChanged,
    /// A contact's identity key has changed; the conversation is held until it is trusted.
    IdentityChanged,
    /// The server cannot be reached.
    Unreachable,
    /// The server answered with a failure.
    Server,
    /// Too many requests; `data.retry_after_ms` says when to come again.
    RateLimited,
    /// It did not happen in time.
    TimedOut,
    /// The local disk or the server's is full.
    StorageFull,
    /// The same idempotency key with another message.
    Conflict,
    /// The daemon is stopping.
    ShuttingDown,
    /// A defect or a broken store; the daemon's log says more.
    Internal,
    /// Our role in the group does not allow it, or the group's rules do not.
    NotAllowed,
    /// The group takes no more members.
    GroupFull,
}

impl ErrorCode {
    /// The JSON-RPC 2.0 error code.
    #[must_use]
    pub fn json_rpc(self) -> i64 {
        match self {
            Self::InvalidRequest => -32600,
            Self::UnknownMethod => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            other => -32000 - other as i64,
        }
    }

    /// The last part of the D-Bus error name, after `org.fastchat.FastChat1.Error.`.
    #[must_use]
    pub fn dbus(self) -> &'static str {
        match self {
            Self::InvalidRequest => "InvalidRequest",
            Self::UnknownMethod => "UnknownMethod",
            Self::InvalidParams => "InvalidParams",
            Self::NotFound => "NotFound",
            Self::Refused => "Refused",
            Self::NoAccount => "NoAccount",
            Self::AccountExists => "AccountExists",
            Self::NameTaken => "NameTaken",
            Self::RegistrationClosed => "RegistrationClosed",
            Self::WrongPassword => "WrongPassword",
            Self::LoggedOut => "LoggedOut",
            Self::Locked => "Locked",
            Self::UntrustedServer => "UntrustedServer",
            Self::ServerChanged => "ServerChanged",
            Self::IdentityChanged => "IdentityChanged",
            Self::Unreachable => "Unreachable",
            Self::Server => "Server",
            Self::RateLimited => "RateLimited",
            Self::TimedOut => "TimedOut",
            Self::StorageFull => "StorageFull",
            Self::Conflict => "Conflict",
            Self::ShuttingDown => "ShuttingDown",
            Self::Internal => "Internal",
            Self::NotAllowed => "NotAllowed",
            Self::GroupFull => "GroupFull",
        }
    }

    /// The exit code of a program that stops because of it: 1 usage, 2 internal, 3 network or server, 4 untrusted key,
    /// 5 rate limited, 7 not found or refused.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::InvalidRequest | Self::UnknownMethod | Self::InvalidParams => 1,
            Self::Unreachable | Self::Server | Self::TimedOut | Self::ShuttingDown => 3,
            Self::UntrustedServer | Self::ServerChanged | Self::IdentityChanged => 4,
            Self::RateLimited => 5,
            Self::NotFound
            | Self::Refused
            | Self::NoAccount
            | Self::AccountExists
            | Self::NameTaken
            | Self::RegistrationClosed
            | Self::WrongPassword
            | Self::LoggedOut
            | Self::Locked
            | Self::Conflict
            | Self::NotAllowed
            | Self::GroupFull => 7,
            Self::StorageFull | Self::Internal => 2,
        }
    }
}

/// A failed call, as it travels to the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What failed and why, for people.
    pub message: String,
    /// What to do next, often a command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Details for programs, by code: `pin`, `retry_after_ms`, …
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub data: serde_json::Map<String, serde_json::Value>,
}

impl ApiError {
    /// A failure without a next step.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, data: serde_json::Map::new() }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with a detail for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.data.insert(key.to_owned(), value.into());
        self
    }
}
