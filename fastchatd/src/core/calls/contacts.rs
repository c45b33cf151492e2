//! Contacts: adding, accepting, declining, blocking, naming.
//!
//! **Invariant**: what somebody is to us changes only by a call here, by writing to them, or by their first message.

use std::collections::BTreeSet;

use fastchat_ipc::{
    ApiError, Contact, ContactState, Contacts, Empty, ErrorCode, EventKind, OfAccount, OfContact, Request, SetAlias,
};
use fastchat_wire::AccountName;

use crate::store::{Write, rows::ContactRow};

use super::super::{Broken, CallId, Core, view::fingerprint_of};
use super::{Outcome, checked};

const LONGEST_ALIAS: usize = 64;

impl Core {
    pub(in crate::core) fn add_contact(&mut self, call: CallId, params: OfContact) -> Result<(), Broken> {
        match self.contact_to_add(&params) {
            Ok((account, name, known)) if known => {
                let contact = self.add(account, &name)?;
                self.answer(call, contact);
            }
            Ok((account, name, _)) => {
                self.look_up(call, account, Request::AddContact(params), BTreeSet::from([name]));
            }
            Err(error) => self.answer::<()>(call, Err(error)),
        }
        Ok(())
    }

    /// Whom a call wants to add, and whether we know of them without asking the server.
    fn contact_to_add(&self, params: &OfContact) -> Result<(u32, AccountName, bool), ApiError> {
        let account = self.account_number(&params.account)?;
        if let Ok(number) = self.contact_number(account, &params.contact)
            && let Some(row) = self.store.tables().contacts.get(&(account, number))
        {
            return Ok((account, row.name.clone(), true));
        }
        let text = self.local_part(account, &params.contact)?;
        let name: AccountName = text.parse().map_err(|error| {
            ApiError::new(ErrorCode::InvalidParams, format!("`{}` is nobody's name: {error}", text.escape_default()))
        })?;
        if self.store.tables().accounts.get(&account).is_some_and(|row| row.name == name) {
            return Err(ApiError::new(ErrorCode::Refused, "that is your own name"));
        }
        let live = self.live.get(&account);
        let known = live.is_some_and(|live| live.directory.contains_key(&name));
        if !known && !live.is_some_and(super::super::live::Live::is_up) {
            return Err(ApiError::new(
                ErrorCode::Unreachable,
                format!("not online: nobody can say whether `{name}` exists"),
            )
            .hint("`fastchatctl send` works offline; or try again when online"));
        }
        Ok((account, name, known))
    }

    fn add(&mut self, account: u32, name: &AccountName) -> Outcome<Contact> {
        let (number, mut row) = self.contact_for(account, name, ContactState::Accepted);
        self.first_identity(account, &mut row);
        if row.state == ContactState::Blocked {
            return Ok(Err(ApiError::new(ErrorCode::Refused, format!("you have blocked {name}"))
                .hint(format!("`fastchatctl contact unblock {name}` first"))));
        }
        row.removed = false;
        let mut write = Write::default();
        if let Some(mut account_row) = self.store.tables().accounts.get(&account).cloned() {
            account_row.next_contact = account_row.next_contact.max(number + 1);
            write.account(account, account_row);
        }
        self.set_contact(write, account, number, row, ContactState::Accepted)?;
        Ok(self.viewed(account, number))
    }

    pub(in crate::core) fn list_contacts(&self, params: &OfAccount) -> Result<Contacts, ApiError> {
        let account = self.account_number(&params.account)?;
        let listed = self.contacts_of(account).filter(|(_, row)| !row.removed);
        let mut contacts: Vec<Contact> = listed.map(|(_, row)| self.view_contact(account, row)).collect();
        contacts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Contacts { contacts })
    }

    pub(in crate::core) fn accept(&mut self, params: &OfContact) -> Outcome<Contact> {
        let (account, number, mut row) = checked!(self.contact_row(params));
        if row.state == ContactState::Blocked {
            return Ok(Err(ApiError::new(ErrorCode::Refused, format!("you have blocked {}", row.name))
                .hint(format!("`fastchatctl contact unblock {}` first", row.name))));
        }
        row.removed = false;
        self.set_contact(Write::default(), account, number, row, ContactState::Accepted)?;
        Ok(self.viewed(account, number))
    }

    pub(in crate::core) fn decline(&mut self, params: &OfContact) -> Outcome<Contact> {
        let (account, number, row) = checked!(self.contact_row(params));
        if row.state != ContactState::Request && row.state != ContactState::Declined {
            return Ok(Err(ApiError::new(ErrorCode::Refused, format!("{} has no request to decline", row.name))
                .hint(format!("`fastchatctl contact block {}` keeps a contact out", row.name))));
        }
        self.silence(account, &row)?;
        self.set_contact(Write::default(), account, number, row, ContactState::Declined)?;
        Ok(self.viewed(account, number))
    }

    pub(in crate::core) fn block(&mut self, params: &OfContact) -> Outcome<Contact> {
        let account = checked!(self.account_number(&params.account));
        let (number, mut row) = match self.contact_row(params) {
            Ok((_, number, row)) => (number, row),
            Err(_) => {
                let name: AccountName =
                    checked!(checked!(self.local_part(account, &params.contact)).parse().map_err(|error| {
                        ApiError::new(ErrorCode::InvalidParams, format!("that is nobody's name: {error}"))
                    }));
                self.contact_for(account, &name, ContactState::Blocked)
            }
        };
        self.silence(account, &row)?;
        if row.state != ContactState::Blocked {
            row.before_block = row.state;
        }
        row.block_told = false;
        row.removed = false;
        let mut write = Write::default();
        if let Some(mut account_row) = self.store.tables().accounts.get(&account).cloned() {
            account_row.next_contact = account_row.next_contact.max(number + 1);
            write.account(account, account_row);
        }
        self.set_contact(write, account, number, row, ContactState::Blocked)?;
        Ok(self.viewed(account, number))
    }

    pub(in crate::core) fn unblock(&mut self, params: &OfContact) -> Outcome<Contact> {
        let (account, number, mut row) = checked!(self.contact_row(params));
        if row.state != ContactState::Blocked {
            return Ok(Err(ApiError::new(ErrorCode::Refused, format!("{} is not blocked", row.name))));
        }
        row.block_told = false;
        // Who was never a contact does not become one by being blocked for a while.
        let state = row.before_block;
        row.removed = state == ContactState::Request && row.chat.is_none();
        self.set_contact(Write::default(), account, number, row, state)?;
        Ok(self.viewed(account, number))
    }

    pub(in crate::core) fn remove_contact(&mut self, params: &OfContact) -> Outcome<Empty> {
        let (account, number, mut row) = checked!(self.contact_row(params));
        if row.state == ContactState::Blocked {
            return Ok(Err(ApiError::new(ErrorCode::Refused, format!("you have blocked {}", row.name))
                .hint(format!("`fastchatctl contact unblock {}` first", row.name))));
        }
        row.removed = true;
        row.alias.clear();
        self.set_contact(Write::default(), account, number, row, ContactState::Accepted)?;
        Ok(Ok(Empty {}))
    }

    pub(in crate::core) fn set_alias(&mut self, params: &SetAlias) -> Outcome<Contact> {
        let of = OfContact { account: params.account.clone(), contact: params.contact.clone() };
        let (account, number, mut row) = checked!(self.contact_row(&of));
        let alias = params.alias.trim();
        if alias.chars().count() > LONGEST_ALIAS || alias.chars().any(char::is_control) || alias.contains('@') {
            let text = format!("an alias has at most {LONGEST_ALIAS} characters, no `@` and no control characters");
            return Ok(Err(ApiError::new(ErrorCode::InvalidParams, text)));
        }
        let taken = self.contacts_of(account).find(|(other, contact)| {
            *other != number && !alias.is_empty() && (contact.alias == alias || contact.name.as_str() == alias)
        });
        if let Some((_, contact)) = taken {
            return Ok(Err(ApiError::new(
                ErrorCode::Conflict,
                format!("`{alias}` is what {} is called", contact.name),
            )));
        }
        alias.clone_into(&mut row.alias);
        let state = row.state;
        self.set_contact(Write::default(), account, number, row, state)?;
        Ok(self.viewed(account, number))
    }

    pub(in crate::core) fn contact_row(&self, params: &OfContact) -> Result<(u32, u32, ContactRow), ApiError> {
        let account = self.account_number(&params.account)?;
        let number = self.contact_number(account, &params.contact)?;
        let row = self.store.tables().contacts.get(&(account, number)).cloned();
        Ok((account, number, row.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "the contact is gone"))?))
    }

    fn viewed(&self, account: u32, number: u32) -> Result<Contact, ApiError> {
        let row = self.store.tables().contacts.get(&(account, number));
        let row = row.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "the contact is gone"))?;
        Ok(self.view_contact(account, row))
    }

    /// Stores a contact in a state, tells of it, and the server of what concerns it.
    fn set_contact(
        &mut self,
        mut write: Write,
        account: u32,
        number: u32,
        mut row: ContactRow,
        state: ContactState,
    ) -> Result<(), Broken> {
        row.state = state;
        let mut events = vec![EventKind::ContactChanged { contact: row.name.to_string() }];
        if let Some(chat) = row.chat {
            events.push(EventKind::ChatChanged { chat: self.chat_id(account, chat) });
        }
        write.contact(account, number, Some(row));
        self.commit(write, account, events)?;
        self.share_presence(account);
        self.tell_contact(account, number)
    }

    /// The identity that the server has named for somebody counts, unless a group has shown another one before.
    pub(in crate::core) fn first_identity(&self, account: u32, contact: &mut ContactRow) {
        let named = self.live.get(&account).and_then(|live| live.directory.get(&contact.name));
        let (Some(key), None) = (named, &contact.identity) else { return };
        let known = self.known_fingerprint(account, &contact.name);
        if known.is_none() || known == fingerprint_of(Some(key)) {
            contact.identity = Some(key.clone());
        } else {
            contact.changed_identity = Some(key.clone());
        }
    }

    /// Nothing of somebody's chat shows any more.
    fn silence(&mut self, account: u32, row: &ContactRow) -> Result<(), Broken> {
        row.chat.map_or(Ok(()), |chat| self.read_up_to(account, chat, 0))
    }
}
