//! Chats: listing, reading, marking as read, muting.
//!
//! **Invariant**: `unread` of a chat is the number of its messages from others behind its read position.

use fastchat_ipc::{Chat, Chats, ContactState, EventKind, History, HistoryResult, MarkRead, OfAccount, OfChat, Unread};

use crate::{api::Alert, store::Write};

use super::super::{Action, Broken, Core};
use super::{Outcome, checked};

const DEFAULT_HISTORY: u32 = 5;
const LONGEST_HISTORY: u32 = 1000;
/// Bytes of text in one answer at most; a client asks on from the oldest message that it got.
const HISTORY_BYTES: usize = 128 * 1024;

impl Core {
    pub(in crate::core) fn list_chats(&self, params: &OfAccount) -> Outcome<Chats> {
        let account = checked!(self.account_number(&params.account));
        let mut numbers: Vec<(u64, u32)> = self
            .chats_of(account)
            .filter(|(number, _)| {
                let contact = self.contact_of_chat(account, *number);
                contact.is_none_or(|row| !matches!(row.state, ContactState::Declined | ContactState::Blocked))
            })
            .map(|(number, row)| (row.last_at_ms, number))
            .collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let chats = numbers.into_iter().map(|(_, number)| self.view_chat(account, number));
        Ok(Ok(Chats { chats: chats.collect::<Result<_, _>>()? }))
    }

    pub(in crate::core) fn unread(&self, account: u32) -> Unread {
        let mut unread = Unread { direct: 0, group: 0, requests: 0 };
        for (number, chat) in self.chats_of(account) {
            match self.contact_of_chat(account, number).map(|row| row.state) {
                Some(ContactState::Request) => unread.requests += 1,
                Some(ContactState::Accepted) => unread.direct += chat.unread,
                Some(_) => {}
                None => unread.group += chat.unread,
            }
        }
        unread
    }

    pub(in crate::core) fn history(&self, params: &History) -> Outcome<HistoryResult> {
        let account = checked!(self.account_number(&params.account));
        let number = checked!(self.chat_number(account, &params.chat));
        let Some(chat) = self.chat_row(account, number) else {
            return Err(crate::store::StoreError::Damaged);
        };
        let limit = if params.limit == 0 { DEFAULT_HISTORY } else { params.limit.min(LONGEST_HISTORY) } as usize;
        let mut newest_first = Vec::new();
        if params.before == 0 {
            for record in self.store.outbox(account, number).rev().take(limit + 1) {
                let (index, row) = record?;
                newest_first.push(self.view_waiting(&chat, index, &row));
            }
        }
        let before = if params.before == 0 { u64::MAX } else { params.before };
        for (position, row) in self.store.history(account, number, before, limit + 1)? {
            newest_first.push(self.view_message(account, number, &chat, position, row));
        }
        let mut bytes = 0;
        let fits = newest_first.iter().take(limit).take_while(|message| {
            let first = bytes == 0;
            bytes += message.text.len() + 512;
            first || bytes <= HISTORY_BYTES
        });
        let count = fits.count();
        let more = newest_first.len() > count;
        newest_first.truncate(count);
        newest_first.reverse();
        for message in newest_first.iter_mut().filter(|message| message.mine && message.from.is_empty()) {
            message.from = self.own_name(account);
        }
        Ok(Ok(HistoryResult { chat: chat.id, messages: newest_first, more }))
    }

    pub(in crate::core) fn mark_read(&mut self, params: &MarkRead) -> Outcome<Unread> {
        let account = checked!(self.account_number(&params.account));
        let number = checked!(self.chat_number(account, &params.chat));
        self.read_up_to(account, number, params.up_to)?;
        Ok(Ok(self.unread(account)))
    }

    /// Marks a chat as read up to a position, or to its end (0), on all our devices.
    pub(in crate::core) fn read_up_to(&mut self, account: u32, number: u32, up_to: u64) -> Result<(), Broken> {
        let before = self.chat_row(account, number).map(|chat| chat.read_position);
        self.read_here(account, number, up_to)?;
        match self.chat_row(account, number).map(|chat| chat.read_position) {
            Some(read) if Some(read) != before => self.tell_read(account, number, read),
            _ => Ok(()),
        }
    }

    /// Marks a chat as read up to a position, or to its end (0), on this device.
    pub(in crate::core) fn read_here(&mut self, account: u32, number: u32, up_to: u64) -> Result<(), Broken> {
        let Some(mut chat) = self.chat_row(account, number) else { return Ok(()) };
        let read = if up_to == 0 { chat.next_position } else { up_to.saturating_add(1).min(chat.next_position) };
        if read <= chat.read_position {
            return Ok(());
        }
        let behind = usize::try_from(chat.next_position - read).unwrap_or(usize::MAX);
        let later = self.store.history(account, number, u64::MAX, behind)?;
        let unread = later.iter().filter(|(position, row)| *position >= read && !row.mine).count() as u64;
        chat.read_position = read;
        chat.unread = unread;
        let id = chat.id.clone();
        if unread == 0 {
            let account = self.full_name(account);
            self.actions.push(Action::Alert(Alert::Withdraw { account, chat: id.clone() }));
        }
        let mut write = Write::default();
        write.chat(account, number, Some(chat));
        self.commit(write, account, vec![EventKind::ChatRead { chat: id, unread }])
    }

    pub(in crate::core) fn mute(&mut self, params: &OfChat, muted: bool) -> Outcome<Chat> {
        let account = checked!(self.account_number(&params.account));
        let number = checked!(self.chat_number(account, &params.chat));
        let Some(mut chat) = self.chat_row(account, number) else {
            return Err(crate::store::StoreError::Damaged);
        };
        if chat.muted != muted {
            chat.muted = muted;
            let events = vec![EventKind::ChatChanged { chat: chat.id.clone() }];
            let mut write = Write::default();
            write.chat(account, number, Some(chat));
            self.commit(write, account, events)?;
        }
        Ok(Ok(self.view_chat(account, number)?))
    }
}
