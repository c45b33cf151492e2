//! The one place that reads the wall clock.
//!
//! **Invariant**: wall-clock time is only ever stored and shown; deadlines use the monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
