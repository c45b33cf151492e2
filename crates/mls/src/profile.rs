//! A group's profile: name, topic, admins; an extension of the MLS group context, so that all members hold the same.
//!
//! **Invariant**: a profile that was read or written here is within its bounds, and its admins are sorted and unique.

use openmls::prelude::{Extension, Extensions, GroupContext, UnknownExtension};
use serde::{Deserialize, Serialize};

use crate::{encoding, suite};

/// The most characters of a group's name.
pub const MAX_NAME_CHARS: usize = 64;
/// The most characters of a group's topic.
pub const MAX_TOPIC_CHARS: usize = 256;
/// The most admins of a group.
pub const MAX_ADMINS: usize = 100;
const VERSION: u8 = 1;
/// 100 admins' names and the texts in four-byte characters come to less.
const MAX_BYTES: usize = 40 * 1024;

/// Why a profile is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The extension is missing, or is not a profile of a version that is known here.
    #[error("the group has no readable profile")]
    Malformed,
    /// The name is empty, too long, or has control characters.
    #[error("a group's name has 1 to {MAX_NAME_CHARS} characters and no control characters")]
    Name,
    /// The topic is too long or has control characters.
    #[error("a group's topic has at most {MAX_TOPIC_CHARS} characters and no control characters")]
    Topic,
    /// There must be some, sorted, each once.
    #[error("a group has 1 to {MAX_ADMINS} admins, sorted, each named once")]
    Admins,
}

/// What a group is called and who decides in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupProfile {
    /// What the group is called.
    pub name: String,
    /// What it is about; may be empty.
    pub topic: String,
    /// Accounts that may add, remove and change the profile; sorted.
    pub admins: Vec<String>,
    /// Final: the group takes nothing any more.
    pub deleted: bool,
}

impl GroupProfile {
    /// A new group's profile, with its creator as the only admin.
    #[must_use]
    pub fn new(name: impl Into<String>, topic: impl Into<String>, creator: impl Into<String>) -> Self {
        Self { name: name.into(), topic: topic.into(), admins: vec![creator.into()], deleted: false }
    }

    /// Whether the account is one of the admins.
    #[must_use]
    pub fn is_admin(&self, account: &str) -> bool {
        self.admins.iter().any(|admin| admin == account)
    }

    /// Whether it is within its bounds.
    ///
    /// # Errors
    /// Says which bound it breaks.
    pub fn validate(&self) -> Result<(), ProfileError> {
        let plain = |text: &str| !text.chars().any(char::is_control);
        if !(1..=MAX_NAME_CHARS).contains(&self.name.chars().count())
            || !plain(&self.name)
            || self.name.trim().is_empty()
        {
            return Err(ProfileError::Name);
        }
        if self.topic.chars().count() > MAX_TOPIC_CHARS || !plain(&self.topic) {
            return Err(ProfileError::Topic);
        }
        let sorted = self.admins.windows(2).all(|pair| pair[0] < pair[1]);
        if !(1..=MAX_ADMINS).contains(&self.admins.len()) || !sorted {
            return Err(ProfileError::Admins);
        }
        Ok(())
    }

    /// The group context extensions of a group with this profile: required capabilities and the profile, nothing else.
    ///
    /// # Errors
    /// The profile is out of its bounds.
    pub fn to_extensions(&self) -> Result<Extensions<GroupContext>, ProfileError> {
        self.validate()?;
        let bytes = encoding::encode(&(VERSION, self)).map_err(|_| ProfileError::Malformed)?;
        Extensions::from_vec(vec![
            Extension::RequiredCapabilities(suite::required_capabilities()),
            Extension::Unknown(suite::PROFILE_EXTENSION, UnknownExtension(bytes)),
        ])
        .map_err(|_| ProfileError::Malformed)
    }

    /// The profile in a group context; `None` for a conversation without any extension, which is a direct one.
    ///
    /// # Errors
    /// Other extensions than those of [`GroupProfile::to_extensions`], or a profile out of its bounds.
    pub fn from_extensions(extensions: &Extensions<GroupContext>) -> Result<Option<Self>, ProfileError> {
        let mut all = extensions.iter();
        let (required, profile) = match (all.next(), all.next(), all.next()) {
            (None, None, None) => return Ok(None),
            (Some(Extension::RequiredCapabilities(required)), Some(Extension::Unknown(number, bytes)), None)
                if *number == suite::PROFILE_EXTENSION =>
            {
                (required, bytes)
            }
            _ => return Err(ProfileError::Malformed),
        };
        if *required != suite::required_capabilities() || profile.0.len() > MAX_BYTES {
            return Err(ProfileError::Malformed);
        }
        let (version, profile): (u8, Self) = encoding::decode(&profile.0).map_err(|_| ProfileError::Malformed)?;
        if version != VERSION {
            return Err(ProfileError::Malformed);
        }
        profile.validate()?;
        Ok(Some(profile))
    }
}
