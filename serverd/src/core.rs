//! The delivery core: which session gets which entry, when. A plain state machine without clock, socket or store.
//!
//! The shell ([`crate::hub`]) feeds it [`Event`]s and carries out its [`Action`]s. A commit's completion is an event
//! too.
//!
//! **Invariant**: an entry is sent, and a Submit accepted, only after the store has reported its commit; each session
//! sees each conversation's entries once, in order, without gaps.

mod cursors;
mod delivery;
mod events;
mod following;
pub mod frames;
mod handshakes;
mod presence;
mod session;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use fastchat_store::{CursorMove, DeviceChange, DeviceRecord, DeviceState, Entry, Joining, Membership, StoreError};
use fastchat_wire::{
    AccountName, Code, ConversationId, DeviceId,
    v1::{self, server_frame::Body},
};

pub use self::events::{Action, Event, SessionId, Settings};
use self::{
    cursors::CursorMoves,
    following::Following,
    presence::Presence,
    session::{Session, Stage, Subscription, Untaken},
};

/// The state of all sessions. See the module.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    sessions: BTreeMap<SessionId, Session>,
    by_device: BTreeMap<DeviceId, SessionId>,
    by_account: BTreeMap<AccountName, BTreeSet<SessionId>>,
    followers: BTreeMap<ConversationId, Following>,
    presence: Presence,
    cursors: CursorMoves,
    /// Sessions that want the joinings which did not fit, once the store knows which are settled.
    want_joinings: BTreeSet<SessionId>,
    /// Commits, new conversations and changes of devices so far: a session that saw none while it loaded need not look
    /// again.
    changes: u64,
    draining: bool,
    now_ms: u64,
    actions: Vec<Action>,
}

impl Core {
    /// A core without sessions.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sessions: BTreeMap::new(),
            by_device: BTreeMap::new(),
            by_account: BTreeMap::new(),
            followers: BTreeMap::new(),
            presence: Presence::default(),
            cursors: CursorMoves::default(),
            want_joinings: BTreeSet::new(),
            changes: 0,
            draining: false,
            now_ms: 0,
            actions: Vec::new(),
        }
    }

    /// Takes an event (`now_ms`: Unix time) and answers what to do.
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Action> {
        self.now_ms = now_ms;
        match event {
            Event::Opened { session, account, device } => self.opened(session, account, device),
            Event::StateRead { session, state } => self.state_read(session, state),
            Event::Submit { session, request, append } => self.submit(session, request, append),
            Event::Appended { session, request, conversation, outcome } => {
                self.appended(session, request, conversation, outcome);
            }
            Event::PageRead { session, conversation, page } => self.page_read(session, conversation, page),
            Event::Ack { session, conversation, seq } => self.acknowledged(session, conversation, seq),
            Event::SharePresence { session, accounts } => self.share_presence(session, accounts),
            Event::Handshake { session, request, append } => self.handshake(session, request, append),
            Event::HandshakeAppended { session, request, conversation, kind, outcome } => {
                self.handshake_appended(session, request, conversation, kind, outcome);
            }
            Event::Created { account, device, membership, joinings, closed, group } => {
                self.created(device, &membership, &joinings, closed);
                if group {
                    self.tell_unjoined(membership.conversation, &account, &[]);
                }
            }
            Event::DevicesChanged { change, by } => self.devices_changed(&change, by),
            Event::ListDevices { session, request, devices } => self.list_devices(session, request, &devices),
            Event::Answered { session, frame } => {
                if self.sessions.contains_key(&session) {
                    self.actions.push(Action::Send(session, frame));
                }
            }
            Event::CursorsSaved { saved } => self.cursors_saved(saved),
            Event::Closed(session) => self.forget(session),
            Event::Drain => self.drain(),
            Event::Timer => {}
        }
        if self.due_ms().is_some_and(|due| due <= now_ms) {
            self.save_cursors();
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Timer`] is due, Unix milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.cursors.due_ms(self.settings.cursor_wait_ms)
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The cursors that are not in the store, for the last write before the end.
    pub fn take_cursors(&mut self) -> Vec<CursorMove> {
        self.cursors.written(self.now_ms, false);
        self.cursors.take()
    }

    fn send(&mut self, session: SessionId, frame: v1::ServerFrame) {
        self.actions.push(Action::Send(session, Box::new(frame)));
    }

    fn save_cursors(&mut self) {
        let moves = self.cursors.take();
        if !moves.is_empty() {
            self.actions.push(Action::SaveCursors(moves));
        }
    }

    // ------------------------------------------------------------ sessions

    fn opened(&mut self, session: SessionId, account: AccountName, device: DeviceId) {
        if let Some(older) = self.by_device.insert(device, session) {
            let reason = "this device has connected anew".to_owned();
            let goaway = frames::unasked(Body::Goaway(v1::Goaway { reason, retry_after_ms: 0 }));
            self.close(older, goaway);
        }
        self.presence.began(self.now_ms, &account, session);
        self.by_account.entry(account.clone()).or_default().insert(session);
        self.sessions.insert(session, Session::new(account, device, self.changes));
        if self.draining {
            self.send_away(session);
        } else {
            self.read_state(session);
        }
    }

    fn read_state(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        let joinings = u32::try_from(self.settings.joinings).unwrap_or(u32::MAX);
        self.actions.push(Action::ReadState { session, device: state.device, joinings });
    }

    fn state_read(&mut self, id: SessionId, state: Result<Option<DeviceState>, StoreError>) {
        let state = match state {
            Ok(Some(state)) => state,
            Ok(None) => return self.close_unauthenticated(id),
            Err(error) => return self.close_failed(id, &error),
        };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut session.stage, Stage::Ready);
        session.more_joinings = state.more_joinings;
        session.waiting = state.waiting.iter().cloned().collect();
        for membership in &state.memberships {
            self.follow(id, membership, None);
        }
        for joining in &state.joinings {
            self.join(id, joining);
        }
        for conversation in &state.unjoined {
            self.unjoined(id, *conversation);
        }
        // What changed between the store's answer and now may be missing from it: look once more.
        if stage != Stage::Ready && stage != (Stage::Loading { changes: self.changes }) {
            self.read_state(id);
        }
        self.catch_up(id);
    }

    /// Has the session follow a conversation, or learn of its head if it does already.
    fn follow(&mut self, id: SessionId, membership: &Membership, joining: Option<Untaken>) {
        let conversation = membership.conversation;
        if membership.ends_at.is_none()
            && self.sessions.get(&id).is_some_and(|session| session.came_again(conversation, membership.epoch))
        {
            self.unfollow(id, conversation);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !session.subscriptions.contains_key(&conversation) {
            let cursor = membership.cursor.max(self.cursors.known(session.device, conversation));
            let mut subscription = Subscription::new(cursor, membership);
            if subscription.is_over() {
                return;
            }
            if let Some(joining) = &joining {
                session.joins(&joining.creator);
            }
            subscription.joining = joining;
            session.unjoined.remove(&conversation);
            session.subscriptions.insert(conversation, subscription);
            self.followers.entry(conversation).or_default().sessions.insert(id);
            self.tell_delivered(id, membership);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match membership.ends_at {
            Some(end) => session.end(conversation, end, membership.epoch),
            None => session.reach(conversation, membership.epoch),
        }
        // Reports may come in another order than the commits.
        let reported = self.followers.get(&conversation).map_or(0, |following| following.head);
        session.advance_head(conversation, membership.head.max(reported));
        // An older look at the store may still have the end of a membership that has begun anew.
        if membership.closed && (membership.ends_at.is_none() || session.is_ended(conversation)) {
            self.tell_closed(id, conversation, membership.closed_by);
        }
    }

    fn tell_delivered(&mut self, id: SessionId, membership: &Membership) {
        let conversation = membership.conversation;
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(following) = self.followers.get_mut(&conversation) else { return };
        following.set_accounts(membership.accounts);
        for other in &membership.others {
            following.came(&other.account, other.cursor.max(self.cursors.known(other.device, conversation)));
        }
        let told = following.of_others(&session.account);
        let told: Vec<_> = told.map(|(account, seq)| frames::delivered(conversation, account, seq)).collect();
        told.into_iter().for_each(|frame| self.send(id, frame));
    }

    /// The session follows the conversation no more.
    fn unfollow(&mut self, id: SessionId, conversation: ConversationId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.drop_subscription(conversation);
        }
        self.no_follower(id, conversation);
    }

    fn no_follower(&mut self, id: SessionId, conversation: ConversationId) {
        if let Some(following) = self.followers.get_mut(&conversation) {
            following.sessions.remove(&id);
            if following.sessions.is_empty() {
                self.followers.remove(&conversation);
            }
        }
    }

    fn tell_closed(&mut self, id: SessionId, conversation: ConversationId, by: Option<ConversationId>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(subscription) = session.subscriptions.get_mut(&conversation) else { return };
        // First "closed", then perhaps "closed by": each is told once.
        if !subscription.closed || by.is_some() {
            subscription.closed = true;
            self.send(id, frames::closed(conversation, by));
        }
    }

    fn join(&mut self, id: SessionId, joining: &Joining) {
        let conversation = joining.membership.conversation;
        let Some(session) = self.sessions.get(&id) else { return };
        let device = session.device;
        if session.joins_anew(conversation, joining.start_seq) {
            self.unfollow(id, conversation);
        } else if session.subscriptions.contains_key(&conversation) {
            return self.follow(id, &joining.membership, None);
        }
        if self.cursors.joined(device, conversation, joining.start_seq) {
            return self.follow(id, &joining.membership, None);
        }
        self.send(id, frames::joining(joining, device));
        let untaken = Untaken { start: joining.start_seq, creator: joining.creator.clone() };
        self.follow(id, &joining.membership, Some(untaken));
    }

    fn close(&mut self, id: SessionId, last: v1::ServerFrame) {
        if self.sessions.contains_key(&id) {
            self.actions.push(Action::Close(id, Box::new(last)));
            self.forget(id);
        }
    }

    fn close_unauthenticated(&mut self, id: SessionId) {
        let failure = v1::Failure::new(Code::Unauthenticated, "this device is no longer logged in: log in again");
        self.close(id, frames::unasked(Body::Failure(failure)));
    }

    fn close_failed(&mut self, id: SessionId, error: &StoreError) {
        if let Some(failure) = frames::store_failure(error) {
            self.close(id, frames::unasked(Body::Failure(failure)));
        }
    }

    fn forget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if self.by_device.get(&session.device) == Some(&id) {
            self.by_device.remove(&session.device);
        }
        if let Some(sessions) = self.by_account.get_mut(&session.account) {
            sessions.remove(&id);
            if sessions.is_empty() {
                self.by_account.remove(&session.account);
            }
        }
        for conversation in session.subscriptions.keys() {
            self.no_follower(id, *conversation);
        }
        let told = self.presence.ended(self.now_ms, &session.account, id);
        self.tell(told);
    }

    /// A commit of these entries was reported.
    fn advance(&mut self, conversation: ConversationId, entries: &[Entry]) {
        if let (Some(following), Some(last)) = (self.followers.get_mut(&conversation), entries.last()) {
            following.head = following.head.max(last.seq);
        }
    }

    fn followers_of(&self, conversation: ConversationId) -> Vec<SessionId> {
        self.followers.get(&conversation).into_iter().flat_map(|following| &following.sessions).copied().collect()
    }

    // ------------------------------------------------------------ devices

    fn devices_changed(&mut self, change: &DeviceChange, by: Option<DeviceId>) {
        self.changes += 1;
        for device in &change.removed {
            self.cursors.forget(*device);
            if let Some(&session) = self.by_device.get(device) {
                self.close_unauthenticated(session);
            }
        }
        for conversation in &change.closed {
            for session in self.followers_of(*conversation) {
                self.tell_closed(session, *conversation, None);
            }
        }
        for session in self.sessions_of(&change.account) {
            if self.sessions.get(&session).is_some_and(|session| Some(session.device) != by) {
                self.send(session, frames::unasked(Body::DevicesChanged(v1::DevicesChanged {})));
            }
        }
    }

    fn sessions_of(&self, account: &AccountName) -> Vec<SessionId> {
        self.by_account.get(account).into_iter().flatten().copied().collect()
    }

    fn list_devices(&mut self, id: SessionId, request: u64, devices: &[DeviceRecord]) {
        let connected = |device: &DeviceRecord| self.by_device.contains_key(&device.device);
        let devices = devices.iter().map(|device| frames::device_info(device, connected(device))).collect();
        if self.sessions.contains_key(&id) {
            self.send(id, frames::answer(request, Body::Devices(v1::Devices { devices })));
        }
    }

    // ------------------------------------------------------------ conversations

    fn created(
        &mut self,
        device: DeviceId,
        membership: &Membership,
        joinings: &[(DeviceId, Joining)],
        closed: Option<ConversationId>,
    ) {
        self.changes += 1;
        if let Some(id) = self.ready_session(device) {
            self.follow(id, membership, None);
        }
        self.joined(joinings);
        if let Some(closed) = closed {
            for session in self.followers_of(closed) {
                self.tell_closed(session, closed, Some(membership.conversation));
            }
        }
    }

    /// Brings the joinings to those who are here.
    fn joined(&mut self, joinings: &[(DeviceId, Joining)]) {
        for (device, joining) in joinings {
            let Some(id) = self.ready_session(*device) else { continue };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if session.takes_joining(&joining.creator, &self.settings) {
                self.join(id, joining);
            }
        }
    }

    /// Tells the account's sessions that follow the group neither yet nor as one of `joining` that they could.
    fn tell_unjoined(&mut self, conversation: ConversationId, account: &AccountName, joining: &[(DeviceId, Joining)]) {
        for id in self.sessions_of(account) {
            let Some(session) = self.sessions.get(&id) else { continue };
            let joins = joining.iter().any(|(device, _)| *device == session.device);
            if session.stage == Stage::Ready && !joins {
                self.unjoined(id, conversation);
            }
        }
    }

    fn unjoined(&mut self, id: SessionId, conversation: ConversationId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let follows = session.subscriptions.get(&conversation);
        if follows.is_none_or(|subscription| subscription.ends_at.is_some()) && session.unjoined.insert(conversation) {
            self.send(id, frames::unjoined(conversation));
        }
    }

    fn ready_session(&self, device: DeviceId) -> Option<SessionId> {
        let id = *self.by_device.get(&device)?;
        (self.sessions.get(&id)?.stage == Stage::Ready).then_some(id)
    }

    // ------------------------------------------------------------ presence

    fn share_presence(&mut self, id: SessionId, accounts: BTreeSet<AccountName>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let account = session.account.clone();
        let told = self.presence.share(self.now_ms, &account, id, accounts);
        self.tell(told);
    }

    fn tell(&mut self, told: Vec<presence::Told>) {
        for (session, frame) in told {
            self.send(session, frame);
        }
    }

    // ------------------------------------------------------------ drain

    fn drain(&mut self) {
        self.draining = true;
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close_when_idle(session);
        }
        self.save_cursors();
    }

    fn close_when_idle(&mut self, id: SessionId) {
        if self.sessions.get(&id).is_some_and(|session| session.appends == 0) {
            self.send_away(id);
        }
    }

    fn send_away(&mut self, id: SessionId) {
        let goaway =
            v1::Goaway { reason: "the server is about to stop".to_owned(), retry_after_ms: self.pause_for(id) };
        self.close(id, frames::unasked(Body::Goaway(goaway)));
    }

    /// Between a quarter of a second and two and a half: not everybody comes back in the same moment.
    fn pause_for(&self, id: SessionId) -> u32 {
        let mixed = (id.0 ^ self.settings.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        250 + u32::try_from(mixed % 2_250).unwrap_or(0)
    }
}
