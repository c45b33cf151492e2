//! Commits and proposals on their way through the core, and what a commit changes for those who are connected.
//!
//! **Invariant**: a device that a commit removes gets that commit and nothing after it; one that it adds gets nothing
//! before it.

use fastchat_store::{AppendHandshake, HandshakeAppended, Kind, Membership, NewHandshake, StoreError};
use fastchat_wire::{ConversationId, v1::server_frame::Body};

use super::{Action, Core, SessionId, frames};

impl Core {
    pub(super) fn handshake(&mut self, id: SessionId, request: u64, append: Box<AppendHandshake>) {
        if self.takes_append(id, request) {
            self.actions.push(Action::AppendHandshake { session: id, request, append });
            self.save_cursors();
        }
    }

    pub(super) fn handshake_appended(
        &mut self,
        id: SessionId,
        request: u64,
        conversation: ConversationId,
        kind: Kind,
        outcome: Result<HandshakeAppended, StoreError>,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.appends = session.appends.saturating_sub(1);
            let body = match &outcome {
                Ok(outcome) => Some(frames::handshake_appended(conversation, kind, outcome)),
                Err(error) => frames::store_failure(error).map(Body::Failure),
            };
            if let Some(body) = body {
                self.send(id, frames::answer(request, body));
            }
        }
        if let Ok(HandshakeAppended::Accepted { new: Some(new), .. }) = outcome {
            self.handshake_committed(conversation, &new);
        }
        if self.draining {
            self.close_when_idle(id);
        }
    }

    fn handshake_committed(&mut self, conversation: ConversationId, new: &NewHandshake) {
        self.changes += 1;
        if let Some(own) = &new.own {
            self.joined_by_itself(new, own);
        }
        if let Some(following) = self.followers.get_mut(&conversation) {
            following.set_accounts(new.accounts);
        }
        let epoch = new.entry.epoch + u64::from(new.entry.kind == Kind::Commit);
        let removed: Vec<SessionId> =
            new.removed.iter().filter_map(|device| self.by_device.get(device)).copied().collect();
        for id in &removed {
            if let Some(session) = self.sessions.get_mut(id) {
                session.end(conversation, new.entry.seq, epoch);
            }
        }
        self.advance(conversation, std::slice::from_ref(&new.entry));
        for follower in self.followers_of(conversation) {
            self.push(follower, conversation, std::slice::from_ref(&new.entry));
            if let Some(session) = self.sessions.get_mut(&follower) {
                session.reach(conversation, epoch);
            }
        }
        for id in removed {
            if self.sessions.get(&id).is_some_and(|session| session.is_ended(conversation)) {
                self.tell_closed(id, conversation, None);
            }
        }
        self.joined(&new.joinings);
        for account in &new.joined {
            self.tell_unjoined(conversation, account, &new.joinings);
        }
        if new.deleted {
            for follower in self.followers_of(conversation) {
                self.tell_closed(follower, conversation, None);
            }
        }
    }

    /// The committing device has a place from just before its commit on, wherever it was before.
    fn joined_by_itself(&mut self, new: &NewHandshake, own: &Membership) {
        let Some(id) = self.ready_session(new.entry.device) else { return };
        self.unfollow(id, own.conversation);
        self.follow(id, own, None);
    }
}
