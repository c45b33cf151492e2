//! Notifications: how they are shown.
//!
//! **Invariant**: what a setting hides is in no notification.

use serde::{Deserialize, Serialize};

/// How much a notification shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preview {
    /// Sender and text.
    #[default]
    Full,
    /// The sender alone.
    Sender,
    /// That something has come.
    None,
}

/// Result of `notify.status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifyStatus {
    /// `service` (a notification service with its name), `basic`, or `none`.
    pub backend: String,
    /// The notification service's name and version; empty when there is none.
    pub server: String,
    /// What the service advertises.
    pub capabilities: Vec<String>,
    /// `inline`, `command` or `none`: how Reply works.
    pub reply: String,
    /// How much is shown.
    pub preview: Preview,
    /// Whether do-not-disturb is on.
    pub dnd: bool,
    /// When it ends; 0 for never.
    pub dnd_until_ms: u64,
    /// Muted chats, `account chat-title`.
    pub muted: Vec<String>,
}

/// Parameters of `notify.dnd`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoNotDisturb {
    /// On or off.
    pub on: bool,
    /// For how long, milliseconds; 0 until it is turned off.
    #[serde(default)]
    pub for_ms: u64,
}

/// Parameters of `notify.preview`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPreview {
    /// How much to show.
    pub preview: Preview,
}
