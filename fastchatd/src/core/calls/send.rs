//! `send`: on disk before it is answered, once for each idempotency key.
//!
//! **Invariant**: when a call of `send` is answered without an error, every message of it is durable; with one, none is.

use std::collections::BTreeSet;

use fastchat_e2ee::MAX_TEXT_BYTES;
use fastchat_ipc::{ApiError, ContactState, ErrorCode, EventKind, MessageState, Request, Send};
use fastchat_wire::{AccountName, MessageId};
use sha2::{Digest, Sha256};

use crate::store::{
    Write,
    rows::{ChatRow, ContactRow, IdempotencyRow, OutboxRow, Standing},
};

use super::super::{
    Broken, CallId, Core,
    outbox::{held_reason, state_event},
    waits::WaitingSend,
};
use super::{Outcome, checked};

const RECIPIENTS: usize = 64;
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
const LONGEST_TIMEOUT_MS: u64 = 300_000;
const LONGEST_KEY: usize = 256;

/// Whom a message is for.
enum Recipient {
    Person(AccountName),
    /// A group, by its chat.
    Group(u32),
}

impl Core {
    pub(in crate::core) fn send(&mut self, call: CallId, params: Send) -> Result<(), Broken> {
        let prepared = self.recipients(&params);
        let (account, names) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        let unknown = self.unknown(account, &names);
        if !unknown.is_empty() && self.live.get(&account).is_some_and(super::super::live::Live::is_up) {
            self.look_up(call, account, Request::SendMessage(params), unknown);
            return Ok(());
        }
        self.send_to(call, account, names, &params)
    }

    /// As `send`, without asking the server who the recipients are.
    pub(in crate::core) fn send_unasked(&mut self, call: CallId, params: &Send) -> Result<(), Broken> {
        match self.recipients(params) {
            Ok((account, names)) => self.send_to(call, account, names, params),
            Err(error) => {
                self.answer::<()>(call, Err(error));
                Ok(())
            }
        }
    }

    fn send_to(
        &mut self,
        call: CallId,
        account: u32,
        names: Vec<(String, Recipient)>,
        params: &Send,
    ) -> Result<(), Broken> {
        let messages = match self.queue(account, names, params)? {
            Ok(messages) => messages,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        if params.wait == fastchat_ipc::Wait::Queued {
            let result = self.send_result(account, &messages)?;
            self.answer(call, Ok(result));
        }
        let chats: BTreeSet<u32> = messages.iter().map(|(_, chat, _)| *chat).collect();
        for chat in chats {
            self.pump(account, chat)?;
        }
        if params.wait != fastchat_ipc::Wait::Queued {
            let timeout = if params.timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { params.timeout_ms };
            let deadline = self.now + timeout.min(LONGEST_TIMEOUT_MS);
            self.answer_send(call, WaitingSend { account, level: params.wait, deadline, messages });
        }
        Ok(())
    }

    /// Checks a call and finds out whom it is for.
    fn recipients(&self, params: &Send) -> Result<(u32, Vec<(String, Recipient)>), ApiError> {
        let account = self.account_number(&params.account)?;
        let invalid = |text: String| ApiError::new(ErrorCode::InvalidParams, text);
        if params.to.is_empty() || params.to.len() > RECIPIENTS {
            return Err(invalid(format!("a message goes to 1 to {RECIPIENTS} recipients, not {}", params.to.len())));
        }
        if params.text.is_empty() {
            return Err(invalid("there is no text to send".into()));
        }
        if params.text.len() > MAX_TEXT_BYTES {
            let text = format!("the text has {} bytes; the most is {MAX_TEXT_BYTES}", params.text.len());
            return Err(invalid(text).hint("send it in parts"));
        }
        if params.idempotency_key.len() > LONGEST_KEY {
            return Err(invalid(format!("an idempotency key has at most {LONGEST_KEY} bytes")));
        }
        let mut names: Vec<(String, Recipient)> = Vec::with_capacity(params.to.len());
        for to in &params.to {
            let name = self.recipient(account, to)?;
            if names.iter().any(|(_, known)| known.is_same(&name)) {
                return Err(invalid(format!("`{}` is named twice", to.escape_default())));
            }
            names.push((to.clone(), name));
        }
        Ok((account, names))
    }

    fn recipient(&self, account: u32, to: &str) -> Result<Recipient, ApiError> {
        let own = self.store.tables().accounts.get(&account).map(|row| row.name.clone());
        if let Ok(number) = self.contact_number(account, to)
            && let Some(contact) = self.store.tables().contacts.get(&(account, number))
        {
            return Ok(Recipient::Person(contact.name.clone()));
        }
        match self.chat_number(account, to) {
            Ok(chat) => {
                return match self.contact_of_chat(account, chat) {
                    Some(contact) => Ok(Recipient::Person(contact.name.clone())),
                    None => self.group_to_write_to(account, chat),
                };
            }
            Err(error) if error.code == ErrorCode::InvalidParams => return Err(error),
            Err(_) => {}
        }
        let name: AccountName = self.local_part(account, to)?.parse().map_err(|error| {
            ApiError::new(ErrorCode::NotFound, format!("`{}` is nobody's name: {error}", to.escape_default()))
        })?;
        if own.as_ref() == Some(&name) {
            return Err(ApiError::new(ErrorCode::Refused, "that is your own name: there is nobody to send to"));
        }
        Ok(Recipient::Person(name))
    }

    fn group_to_write_to(&self, account: u32, chat: u32) -> Result<Recipient, ApiError> {
        match self.group_row(account, chat).map(|group| (group.standing, &group.name)) {
            Some((Standing::Active | Standing::Joining, _)) => Ok(Recipient::Group(chat)),
            Some((standing, name)) => {
                let why = match standing {
                    Standing::Deleted => "was deleted",
                    Standing::Leaving => "is being left",
                    _ => "is one that you are no member of",
                };
                Err(ApiError::new(ErrorCode::Refused, format!("the group {name} {why}")))
            }
            None => Err(ApiError::new(ErrorCode::NotFound, "there is no such chat")),
        }
    }

    /// Those whose identity key nobody has told us yet.
    fn unknown(&self, account: u32, names: &[(String, Recipient)]) -> BTreeSet<AccountName> {
        let directory = self.live.get(&account).map(|live| &live.directory);
        let known = |name: &AccountName| {
            self.contact_named(account, name).is_some_and(|(_, row)| row.identity.is_some())
                || directory.is_some_and(|directory| directory.contains_key(name))
        };
        let people = names.iter().filter_map(|(_, recipient)| match recipient {
            Recipient::Person(name) => Some(name),
            Recipient::Group(_) => None,
        });
        people.filter(|name| !known(name)).cloned().collect()
    }

    /// Puts the messages into the outbox, all of them or none.
    fn queue(
        &mut self,
        account: u32,
        names: Vec<(String, Recipient)>,
        params: &Send,
    ) -> Outcome<Vec<(String, u32, MessageId)>> {
        let digest = digest(&names, &params.text);
        if !params.idempotency_key.is_empty()
            && let Some(earlier) = self.store.idempotency(account, &params.idempotency_key)?
        {
            if earlier.digest == digest {
                return Ok(Ok(earlier.messages));
            }
            let text = "this idempotency key was used for another message";
            return Ok(Err(ApiError::new(ErrorCode::Conflict, text).hint("take a new key for a new message")));
        }
        if !self.store.has_room() {
            return Ok(Err(ApiError::new(ErrorCode::StorageFull, "the disk is full: nothing was sent or stored")
                .hint("free some space and send it again")));
        }
        let mut write = Write::default();
        let mut events = Vec::new();
        let mut messages = Vec::with_capacity(names.len());
        let mut share = false;
        let mut account_row = checked!(
            self.store
                .tables()
                .accounts
                .get(&account)
                .cloned()
                .ok_or_else(|| { ApiError::new(ErrorCode::NoAccount, "the account is gone") })
        );
        for (to, recipient) in names {
            let name = match recipient {
                Recipient::Person(name) => name,
                Recipient::Group(number) => {
                    let Some(mut chat) = self.chat_row(account, number) else { continue };
                    let id = self.queue_one(&mut write, &mut events, (account, number), &mut chat, params)?;
                    write.chat(account, number, Some(chat));
                    messages.push((to, number, id));
                    continue;
                }
            };
            let (mut number, mut contact) = self.contact_for(account, &name, ContactState::Accepted);
            if contact.state == ContactState::Blocked {
                return Ok(Err(ApiError::new(ErrorCode::Refused, format!("you have blocked {name}"))
                    .hint(format!("`fastchatctl contact unblock {name}` first"))));
            }
            if self.contact_named(account, &name).is_none() {
                number = account_row.next_contact;
                account_row.next_contact += 1;
            }
            share |= self.accept_by_writing(account, &mut contact, &mut events);
            let new = contact.chat.is_none();
            let (mut chat_number, mut chat) = self.chat_for(account, number, &mut contact);
            if new {
                chat_number = account_row.next_chat;
                account_row.next_chat += 1;
                contact.chat = Some(chat_number);
                events.push(EventKind::ChatChanged { chat: chat.id.clone() });
            }
            let held = contact.changed_identity.as_ref().map(|_| name.to_string());
            let id = self.queue_text(&mut write, &mut events, (account, chat_number), &mut chat, params, held)?;
            messages.push((to, chat_number, id));
            write.contact(account, number, Some(contact));
            write.chat(account, chat_number, Some(chat));
        }
        write.account(account, account_row);
        if !params.idempotency_key.is_empty() {
            let row = IdempotencyRow { digest, at_ms: self.now, messages: messages.clone() };
            write.idempotency(account, &params.idempotency_key, row);
        }
        self.commit(write, account, events)?;
        if share {
            self.share_presence(account);
        }
        Ok(Ok(messages))
    }

    fn queue_one(
        &self,
        write: &mut Write,
        events: &mut Vec<EventKind>,
        at: (u32, u32),
        chat: &mut ChatRow,
        params: &Send,
    ) -> Result<MessageId, Broken> {
        let held = self.changed_people(at.0, at.1).first().map(ToString::to_string);
        self.queue_text(write, events, at, chat, params, held)
    }

    /// A text into a chat's outbox; held if somebody's key has changed.
    fn queue_text(
        &self,
        write: &mut Write,
        events: &mut Vec<EventKind>,
        (account, number): (u32, u32),
        chat: &mut ChatRow,
        params: &Send,
        held: Option<String>,
    ) -> Result<MessageId, Broken> {
        let row = OutboxRow {
            id: MessageId::generate(),
            written_at_ms: self.now,
            state: if held.is_some() { MessageState::Held } else { MessageState::Queued },
            text: params.text.clone(),
            sync: Vec::new(),
            error: held.as_deref().map_or_else(String::new, held_reason),
            sealed: None,
        };
        write.outbox(account, number, chat.next_outbox, Some(&row))?;
        chat.next_outbox += 1;
        chat.last_at_ms = self.now;
        events.push(state_event(&chat.id, &row));
        Ok(row.id)
    }

    /// Writing to somebody makes a contact of them. Tells whether that is new.
    fn accept_by_writing(&self, account: u32, contact: &mut ContactRow, events: &mut Vec<EventKind>) -> bool {
        self.first_identity(account, contact);
        let new = contact.chat.is_none() || contact.state != ContactState::Accepted || contact.removed;
        contact.state = ContactState::Accepted;
        contact.removed = false;
        if new {
            events.push(EventKind::ContactChanged { contact: contact.name.to_string() });
        }
        new
    }
}

impl Recipient {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Person(one), Self::Person(two)) => one == two,
            (Self::Group(one), Self::Group(two)) => one == two,
            _ => false,
        }
    }
}

fn digest(names: &[(String, Recipient)], text: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (_, recipient) in names {
        match recipient {
            Recipient::Person(name) => hash.update(name.as_str().as_bytes()),
            // No name has a colon in it.
            Recipient::Group(chat) => hash.update(format!("group:{chat}").as_bytes()),
        }
        hash.update([0]);
    }
    hash.update([0]);
    hash.update(text.as_bytes());
    hash.finalize().into()
}
