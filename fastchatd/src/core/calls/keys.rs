//! Identity keys: showing, comparing, trusting.
//!
//! **Invariant**: a changed key is used for nothing before `key.trust` named its contact.

use std::collections::BTreeSet;

use fastchat_e2ee::safety_number;
use fastchat_ipc::{ApiError, ErrorCode, EventKind, Keys, OfContact, Request, ShowKey, TrustKey, VerifyKey};

use crate::store::{Write, rows::ContactRow};

use super::super::{Broken, CallId, Core, view::fingerprint_of};
use super::{Outcome, checked};

impl Core {
    pub(in crate::core) fn show_keys(&mut self, call: CallId, params: ShowKey) -> Result<(), Broken> {
        match self.keys_to_show(&params) {
            Ok(keys) => self.answer(call, Ok(keys)),
            Err(Unknown::Error(error)) => self.answer::<()>(call, Err(error)),
            Err(Unknown::Ask(account, name)) => {
                self.look_up(call, account, Request::ShowKeys(params), BTreeSet::from([name]));
            }
        }
        Ok(())
    }

    fn keys_to_show(&self, params: &ShowKey) -> Result<Keys, Unknown> {
        let account = self.account_number(&params.account)?;
        if params.contact.is_empty() {
            return Ok(self.own_keys(account));
        }
        let number = self.contact_number(account, &params.contact)?;
        let Some(row) = self.store.tables().contacts.get(&(account, number)) else {
            return Err(Unknown::Error(ApiError::new(ErrorCode::NotFound, "the contact is gone")));
        };
        if row.identity.is_some() {
            return Ok(self.keys(account, row));
        }
        let live = self.live.get(&account);
        match live.and_then(|live| live.directory.get(&row.name)) {
            Some(key) => Ok(self.keys(account, &ContactRow { identity: Some(key.clone()), ..row.clone() })),
            None if live.is_some_and(super::super::live::Live::is_up) => Err(Unknown::Ask(account, row.name.clone())),
            None => Err(Unknown::Error(
                ApiError::new(ErrorCode::NotFound, format!("the key of {} is not known yet", row.name))
                    .hint("it comes with the first connection to the server"),
            )),
        }
    }

    /// The own key alone.
    pub(in crate::core) fn own_keys(&self, account: u32) -> Keys {
        let own = self.live.get(&account).map_or_else(String::new, |live| live.fingerprint.to_string());
        let qr = format!("fastchat-key:{}:{own}", self.full_name(account));
        Keys {
            own,
            contact: String::new(),
            fingerprint: String::new(),
            safety_number: String::new(),
            qr,
            verified: false,
            changed_safety_number: String::new(),
        }
    }

    fn keys(&self, account: u32, row: &ContactRow) -> Keys {
        let own_name = self.store.tables().accounts.get(&account).map(|row| row.name.clone());
        let own = self.live.get(&account).map(|live| live.fingerprint);
        let number = |key: Option<&[u8]>| match (&own_name, &own, fingerprint_of(key)) {
            (Some(name), Some(own), Some(theirs)) => safety_number((name.as_str(), own), (row.name.as_str(), &theirs)),
            _ => String::new(),
        };
        let safety = number(row.identity.as_deref());
        Keys {
            own: own.map_or_else(String::new, |own| own.to_string()),
            contact: row.name.to_string(),
            fingerprint: fingerprint_of(row.identity.as_deref()).map_or_else(String::new, |print| print.to_string()),
            qr: format!("fastchat-safety:{}", safety.replace(' ', "")),
            safety_number: safety,
            verified: row.verified,
            changed_safety_number: number(row.changed_identity.as_deref()),
        }
    }

    pub(in crate::core) fn verify_key(&mut self, params: &VerifyKey) -> Outcome<Keys> {
        let of = OfContact { account: params.account.clone(), contact: params.contact.clone() };
        let (account, number, mut row) = checked!(self.contact_row(&of));
        if row.changed_identity.is_some() {
            return Ok(Err(changed(&row)));
        }
        let keys = self.keys(account, &row);
        if keys.safety_number.is_empty() {
            let text = format!("the key of {} is not known yet", row.name);
            return Ok(Err(ApiError::new(ErrorCode::NotFound, text)
                .hint("it comes with the first message or connection to the server")));
        }
        checked!(compare(&params.safety_number, &keys.safety_number, &row));
        row.verified = true;
        let events = vec![EventKind::ContactChanged { contact: row.name.to_string() }];
        let keys = Keys { verified: true, ..keys };
        let mut write = Write::default();
        write.contact(account, number, Some(row));
        self.commit(write, account, events)?;
        self.tell_contact(account, number)?;
        Ok(Ok(keys))
    }

    pub(in crate::core) fn trust_key(&mut self, params: &TrustKey) -> Outcome<Keys> {
        let of = OfContact { account: params.account.clone(), contact: params.contact.clone() };
        let (account, number, row) = checked!(self.contact_row(&of));
        if row.changed_identity.is_none() && row.identity.is_none() {
            let text = format!("the key of {} is not known yet", row.name);
            return Ok(Err(ApiError::new(ErrorCode::NotFound, text)));
        }
        let keys = self.keys(account, &row);
        let offered = if row.changed_identity.is_some() { &keys.changed_safety_number } else { &keys.safety_number };
        checked!(compare(&params.safety_number, offered, &row));
        self.trust(account, number)?;
        let (_, _, row) = checked!(self.contact_row(&of));
        Ok(Ok(self.keys(account, &row)))
    }
}

/// Why keys cannot be shown at once.
enum Unknown {
    Error(ApiError),
    /// The server has to be asked.
    Ask(u32, fastchat_wire::AccountName),
}

impl From<ApiError> for Unknown {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// Compares the number that the other side shows, where the person gave it, with ours.
fn compare(given: &str, ours: &str, row: &ContactRow) -> Result<(), ApiError> {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    if given.is_empty() || (!ours.is_empty() && digits(given) == digits(ours)) {
        return Ok(());
    }
    let text = format!("that is NOT the safety number with {}: somebody may be reading along", row.name);
    Err(ApiError::new(ErrorCode::IdentityChanged, text)
        .hint("compare again by a way that nobody else controls; do not send until it matches"))
}

fn changed(row: &ContactRow) -> ApiError {
    ApiError::new(ErrorCode::IdentityChanged, format!("the identity key of {} has changed", row.name)).hint(format!(
        "compare the new number of `fastchatctl key show {0}`, then `fastchatctl key trust {0}`",
        row.name
    ))
}
