//! The engine: one thread that owns the core and its store, and the front that brings calls to it.
//!
//! The thread takes in what is waiting, makes all of it durable with one `fdatasync`, and then carries out what follows:
//! answers, frames, events, alerts. What needs waiting (a password's Argon2id, a keyring, signing in) happens before, in
//! the front; so calls are answered in every state, locked or not.
//!
//! **Invariant**: nothing is answered, sent or told before the steps that led to it are on the disk.

mod aside;
mod backups;
mod front;
mod thread;

use std::path::PathBuf;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Alert, EngineEnds},
    core::AlertDefaults,
};

/// What the engine needs to know.
pub struct EngineSettings {
    /// The data directory.
    pub data: PathBuf,
    /// What the configuration says about notifications.
    pub alerts: AlertDefaults,
}

/// Serves calls until `stop`, then finishes what is under way.
///
/// # Errors
/// The store broke: the process has to end and begin again from what is durable.
pub async fn run(
    settings: EngineSettings,
    ends: EngineEnds,
    alerts: mpsc::Sender<Alert>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (broken, mut broke) = mpsc::channel(1);
    let front = front::Front::new(settings, ends.events, ends.surroundings, alerts, broken);
    tokio::select! {
        outcome = front.serve(ends.calls, stop) => outcome,
        Some(error) = broke.recv() => Err(error),
    }
}

/// The answer's way back to a caller.
type Answer = oneshot::Sender<Result<serde_json::Value, fastchat_ipc::ApiError>>;

/// Milliseconds of Unix time.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
