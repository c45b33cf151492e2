//! Device linking, as the fronts see it: both sides, with a mailbox on the server between them.
//!
//! The new device (`account.link_begin`, `link_wait`, `link_finish`) and a device of the account (`device.link`,
//! `link_confirm`) each go forward when they are called; between two calls a link waits in [`Links`]. What is said, and why
//! nobody between the two gets anything from it, is in `fastchat_e2ee`'s `linking`.
//!
//! **Invariant**: a link is used by one call at a time, goes on to its next step only when that call succeeds or waits in
//! vain, and is gone ten minutes after it was begun.

mod code;
mod known_device;
mod links;
mod mailbox;
mod new_device;
#[cfg(test)]
mod tests;

use std::time::Duration;

use fastchat_e2ee::{LinkError, link_abort};
use fastchat_ipc::{ApiError, ErrorCode};
use tokio::time::timeout;

pub(crate) use known_device::KnownSide;
pub(crate) use links::Links;
pub(crate) use new_device::NewSide;

use code::LinkCode;
use mailbox::Mailbox;

/// How long a link may take, from the code to the end. Servers keep the mailbox no longer.
const LIFE: Duration = Duration::from_secs(600);
/// How long the device that read a code waits for the new one, which is there and waiting.
const ANSWER: Duration = Duration::from_secs(60);
/// How long one call may wait for the person on the other device: what the fronts give a call.
const PATIENCE: Duration = Duration::from_secs(220);

/// How long the other side is told of the end.
const MOMENT: Duration = Duration::from_secs(5);

/// What a failed step means to the caller.
fn failed(error: &LinkError) -> ApiError {
    let code = match error {
        LinkError::Key | LinkError::Identity(_) => ErrorCode::Internal,
        _ => ErrorCode::Refused,
    };
    ApiError::new(code, format!("the link has ended: {error}")).hint("begin again with `fastchatctl device link`")
}

/// The person says that the strings differ.
fn refused() -> ApiError {
    ApiError::new(ErrorCode::Refused, "the link has ended: the two devices did not show the same string")
        .hint("nothing was given away; somebody may be between the two: begin again over another network")
}

fn expired() -> ApiError {
    ApiError::new(ErrorCode::TimedOut, format!("the link has ended: it lasts {} minutes", LIFE.as_secs() / 60))
        .hint("begin again with `fastchatctl device link`")
}

/// Tells the other side that it is over, as far as that is possible within a moment.
async fn give_up(mailbox: &mut Mailbox) {
    if let Ok(end) = link_abort() {
        // The other side finds out by its own deadline, if not by this.
        let _ = timeout(MOMENT, mailbox.post(end)).await;
    }
}
