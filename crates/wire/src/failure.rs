//! The closed set of reasons for which a server says no.

use crate::v1;

pub use v1::Code;

impl v1::Failure {
    /// A failure with a text for people and no advice on when to try again.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into(), ..Self::default() }
    }
}

impl Code {
    /// Whether the same request may succeed later without a change to it.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::StorageFull
                | Self::ShuttingDown
                | Self::Internal
                | Self::TimedOut
                | Self::NoKeyPackages
        )
    }
}
