//! One entry's way through the core: submitted, appended, pushed or caught up with, acknowledged.
//!
//! **Invariant**: what goes out comes from a reported commit or from the store, at the session's next seq.

use std::time::Duration;

use fastchat_store::{Append, Appended, CursorMove, Entry, Page, StoreError};
use fastchat_wire::{AccountName, Code, ConversationId, v1::server_frame::Body};

use super::{Action, Core, SessionId, frames, session::Subscription};

impl Core {
    pub(super) fn submit(&mut self, id: SessionId, request: u64, append: Append) {
        if self.takes_append(id, request) {
            self.actions.push(Action::Append { session: id, request, append });
            // Cursors that wait go into the same commit: no fsync of their own.
            self.save_cursors();
        }
    }

    /// Counts one more append of the session, or refuses it.
    pub(super) fn takes_append(&mut self, id: SessionId, request: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let refusal = if self.draining {
            let text = "the server is about to stop: connect again and send it there";
            Some(frames::failure_after(Code::ShuttingDown, text, Duration::from_secs(1)))
        } else if session.appends >= self.settings.appends {
            frames::store_failure(&StoreError::Overloaded)
        } else {
            session.appends += 1;
            None
        };
        let Some(failure) = refusal else { return true };
        self.send(id, frames::answer(request, Body::Failure(failure)));
        false
    }

    pub(super) fn appended(
        &mut self,
        id: SessionId,
        request: u64,
        conversation: ConversationId,
        outcome: Result<Appended, StoreError>,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.appends = session.appends.saturating_sub(1);
            let body = match &outcome {
                Ok(outcome) => Some(frames::appended(conversation, outcome)),
                Err(error) => frames::store_failure(error).map(Body::Failure),
            };
            if let Some(body) = body {
                self.send(id, frames::answer(request, body));
            }
        }
        if let Ok(Appended::Accepted { new, .. }) = outcome
            && !new.is_empty()
        {
            self.changes += 1;
            self.advance(conversation, &new);
            for follower in self.followers_of(conversation) {
                self.push(follower, conversation, &new);
            }
        }
        if self.draining {
            self.close_when_idle(id);
        }
    }

    /// The fast path: committed entries go from memory to a session that is exactly before them.
    pub(super) fn push(&mut self, id: SessionId, conversation: ConversationId, entries: &[Entry]) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let device = session.device;
        let mut taken = 0;
        for entry in entries {
            let weight = frames::weight(entry, device);
            if !session.takes(conversation, entry, weight, &self.settings) {
                break;
            }
            session.sent(conversation, entry.seq, weight);
            taken += 1;
        }
        if let Some(head) = entries.last() {
            session.advance_head(conversation, head.seq);
        }
        if let Some(entries) = entries.get(..taken)
            && !entries.is_empty()
        {
            self.send(id, frames::deliver(conversation, entries, 0, device));
        }
        self.catch_up(id);
    }

    /// The slow path: what was missed is read from the store, when the windows have room.
    pub(super) fn catch_up(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if let Some((conversation, after, bounds)) = session.next_page(&self.settings) {
            let device = session.device;
            self.actions.push(Action::ReadPage { session: id, conversation, device, after, bounds });
        }
    }

    pub(super) fn page_read(&mut self, id: SessionId, conversation: ConversationId, page: Result<Page, StoreError>) {
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.close_failed(id, &error),
        };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let device = session.device;
        session.page_done(conversation, page.entries.is_empty() && page.expired_through == 0);
        session.advance_head(conversation, page.head);
        // It may be over for this device meanwhile, or may have begun anew further on.
        let Some(sent) = session.subscriptions.get(&conversation).map(|subscription| subscription.sent) else {
            return self.catch_up(id);
        };
        // The device may have acknowledged ahead of us meanwhile.
        let skip = page.entries.iter().take_while(|entry| entry.seq <= sent).count();
        let entries = page.entries.get(skip..).unwrap_or_default();
        let expired = if page.expired_through > sent { page.expired_through } else { 0 };
        if expired > 0 {
            session.sent(conversation, expired, 0);
        }
        for entry in entries {
            session.sent(conversation, entry.seq, frames::weight(entry, device));
        }
        if expired > 0 || !entries.is_empty() {
            let frame = frames::deliver(conversation, entries, expired, device);
            self.send(id, frame);
        }
        self.catch_up(id);
    }

    pub(super) fn acknowledged(&mut self, id: SessionId, conversation: ConversationId, seq: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some((seq, moved, joined)) = session.acknowledge(conversation, seq) else { return };
        let (device, account) = (session.device, session.account.clone());
        if !moved && !joined {
            return;
        }
        let is_over = session.subscriptions.get(&conversation).is_some_and(Subscription::is_over);
        self.cursors.note(self.now_ms, CursorMove { conversation, device, seq, joined });
        if is_over {
            self.unfollow(id, conversation);
        } else if moved {
            self.came(conversation, &account, seq);
        }
        self.more_joinings(id);
        self.catch_up(id);
    }

    /// Tells the other accounts when this moves the furthest of an account's devices.
    fn came(&mut self, conversation: ConversationId, account: &AccountName, seq: u64) {
        if !self.followers.get_mut(&conversation).is_some_and(|following| following.came(account, seq)) {
            return;
        }
        for other in self.followers_of(conversation) {
            if self.sessions.get(&other).is_some_and(|session| session.account != *account) {
                self.send(other, frames::delivered(conversation, account, seq));
            }
        }
    }

    /// When enough of the joinings are settled, asks for those that did not fit.
    pub(super) fn more_joinings(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.wants_joinings(&self.settings) {
            session.more_joinings = false;
            session.waiting.clear();
            self.want_joinings.insert(id);
            self.save_cursors();
        }
    }

    pub(super) fn cursors_saved(&mut self, saved: bool) {
        self.cursors.written(self.now_ms, saved);
        if self.want_joinings.is_empty() {
            return;
        }
        if self.cursors.are_saved() {
            std::mem::take(&mut self.want_joinings).into_iter().for_each(|session| self.read_state(session));
        } else if saved {
            self.save_cursors();
        }
    }
}
