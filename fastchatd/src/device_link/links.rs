//! Links between two calls.
//!
//! **Invariant**: at most [`MOST`] links wait here, none longer than a link lives, and none is in two hands.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use fastchat_ipc::{ApiError, ErrorCode};
use tokio::time::Instant;

/// More links than this at a time are no person's.
const MOST: usize = 8;

/// A link that can wait.
pub(crate) trait Waiting {
    /// The mailbox's id.
    fn link(&self) -> [u8; 16];
    /// When it ends.
    fn ends(&self) -> Instant;
}

/// The links that wait for their next call.
pub(crate) struct Links<T>(BTreeMap<String, Slot<T>>);

enum Slot<T> {
    Here(T),
    /// A call has it, until then at the latest.
    Out(Instant),
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Waiting> Links<T> {
    /// Whether there is room for another one.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn room(&mut self) -> Result<(), ApiError> {
        let now = Instant::now();
        self.0.retain(|_, slot| match slot {
            Slot::Here(link) => link.ends() > now,
            Slot::Out(ends) => *ends > now,
        });
        if self.0.len() < MOST {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::RateLimited, format!("{MOST} links are under way already"))
            .hint("finish them, or wait ten minutes"))
    }

    /// Puts a link here, a new one or one that was taken out; gives its name.
    pub(crate) fn put(&mut self, link: T) -> String {
        let name = HEXLOWER.encode(&link.link());
        self.0.insert(name.clone(), Slot::Here(link));
        name
    }

    /// Takes a link out, for a call.
    ///
    /// # Errors
    /// There is none of this name, or another call has it.
    pub(crate) fn take(&mut self, name: &str) -> Result<T, ApiError> {
        match self.0.get_mut(name) {
            Some(slot @ Slot::Here(_)) => {
                let Slot::Here(link) = std::mem::replace(slot, Slot::Out(Instant::now())) else {
                    return Err(unknown());
                };
                *slot = Slot::Out(link.ends());
                if link.ends() <= Instant::now() {
                    self.0.remove(name);
                    return Err(super::expired());
                }
                Ok(link)
            }
            Some(Slot::Out(_)) => {
                Err(ApiError::new(ErrorCode::Conflict, "another call is at work on this link")
                    .hint("wait for it to end"))
            }
            None => Err(unknown()),
        }
    }

    /// The link is over.
    pub(crate) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

fn unknown() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such link (any more)")
        .hint("begin one with `fastchatctl device link`")
}
