//! The outbox, as a person sees it: list, retry, take back.
//!
//! **Invariant**: a message whose ciphertext may have been sent is not taken back.

use fastchat_ipc::{ApiError, Changed, ErrorCode, MessageState, OfAccount, OfMessage, Outbox};
use fastchat_wire::MessageId;

use crate::{
    link::{AccountKey, ToLink},
    store::{Write, rows::OutboxRow},
};

use super::super::{Action, Broken, Core, outbox::state_event};
use super::{Outcome, checked};

/// Messages in one answer at most.
const LISTED: usize = 1000;

impl Core {
    pub(in crate::core) fn list_outbox(&self, params: &OfAccount) -> Outcome<Outbox> {
        let account = checked!(self.account_number(&params.account));
        let mut messages = Vec::new();
        for (chat, row) in self.chats_of(account) {
            for record in self.store.outbox(account, chat).take(LISTED) {
                let (number, waiting) = record?;
                messages.push(self.view_waiting(row, number, &waiting));
            }
        }
        messages.sort_by_key(|message| message.sent_at_ms);
        messages.truncate(LISTED);
        Ok(Ok(Outbox { messages }))
    }

    pub(in crate::core) fn retry_outbox(&mut self, params: &OfMessage) -> Outcome<Changed> {
        let account = checked!(self.account_number(&params.account));
        let chosen = checked!(self.chosen(account, params)?);
        let mut changed = 0;
        for (chat, number, mut row) in chosen {
            let held = self.is_held(account, chat);
            if row.state == MessageState::Failed || (row.state == MessageState::Held && !held) {
                row.state = MessageState::Queued;
                row.error.clear();
                self.queue_again(account, chat, number, &row)?;
                changed += 1;
            }
        }
        let chats: Vec<u32> = self.chats_of(account).map(|(number, _)| number).collect();
        for chat in chats {
            let work = self.work(account, chat);
            (work.retry_at, work.attempts) = (0, 0);
            self.pump(account, chat)?;
        }
        // Nor does it wait for the end of a back-off: somebody wants it now.
        self.actions.push(Action::Link(AccountKey(account), ToLink::Reconnect));
        Ok(Ok(Changed { changed }))
    }

    pub(in crate::core) fn cancel_outbox(&mut self, params: &OfMessage) -> Outcome<Changed> {
        let account = checked!(self.account_number(&params.account));
        let chosen = checked!(self.chosen(account, params)?);
        let one = !params.id.is_empty();
        let mut changed = 0;
        for (chat, number, mut row) in chosen {
            if row.sealed.is_some() {
                if one {
                    let text = "the message may be with the server already: it cannot be taken back";
                    return Ok(Err(ApiError::new(ErrorCode::Refused, text)));
                }
                continue;
            }
            row.state = MessageState::Cancelled;
            let events = vec![state_event(&self.chat_id(account, chat), &row)];
            let mut write = Write::default();
            write.outbox(account, chat, number, None)?;
            self.commit(write, account, events)?;
            changed += 1;
        }
        Ok(Ok(Changed { changed }))
    }

    /// The messages that a call means: one, or all.
    fn chosen(&self, account: u32, params: &OfMessage) -> Outcome<Vec<(u32, u64, OutboxRow)>> {
        let wanted = match params.id.as_str() {
            "" => None,
            id => Some(checked!(id.parse::<MessageId>().map_err(|_| {
                ApiError::new(ErrorCode::InvalidParams, format!("`{}` is not a message's id", id.escape_default()))
            }))),
        };
        let mut chosen = Vec::new();
        for (chat, _) in self.chats_of(account) {
            for record in self.store.outbox(account, chat) {
                let (number, row) = record?;
                if wanted.is_none_or(|id| row.id == id) {
                    chosen.push((chat, number, row));
                }
            }
        }
        if wanted.is_some() && chosen.is_empty() {
            return Ok(Err(ApiError::new(ErrorCode::NotFound, "there is no such message in the outbox")
                .hint("`fastchatctl outbox list` shows all")));
        }
        Ok(Ok(chosen))
    }

    /// Puts a message behind all that wait: what was sealed since stands before it.
    fn queue_again(&mut self, account: u32, chat: u32, number: u64, row: &OutboxRow) -> Result<(), Broken> {
        let Some(mut chat_row) = self.chat_row(account, chat) else { return Ok(()) };
        let events = vec![state_event(&chat_row.id, row)];
        let mut write = Write::default();
        write.outbox(account, chat, number, None)?;
        write.outbox(account, chat, chat_row.next_outbox, Some(row))?;
        chat_row.next_outbox += 1;
        write.chat(account, chat, Some(chat_row));
        self.commit(write, account, events)
    }
}
