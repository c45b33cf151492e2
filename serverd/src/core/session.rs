//! A session and its windows: how far a device has come in each of its conversations and what may be sent ahead.
//!
//! **Invariant**: what is sent and not acknowledged stays within the window, of the conversation and of the session;
//! a single entry may exceed the bytes when nothing else is under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use fastchat_store::{Entry, JOININGS_OF_ONE, Membership, PageBounds};
use fastchat_wire::{AccountName, ConversationId, DeviceId};

use super::Settings;

/// A Joining that was sent and not acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Untaken {
    /// Its start.
    pub(super) start: u64,
    pub(super) creator: AccountName,
}

/// A device's place in one conversation while it is connected.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Acknowledged up to here.
    pub(super) cursor: u64,
    /// Sent up to here.
    pub(super) sent: u64,
    /// The log's last seq, as far as known.
    pub(super) head: u64,
    /// What was sent and not acknowledged: seq and bytes.
    under_way: VecDeque<(u64, usize)>,
    under_way_bytes: usize,
    /// The Joining that was sent and not acknowledged.
    pub(super) joining: Option<Untaken>,
    /// The device knows that the conversation takes no more entries.
    pub(super) closed: bool,
    /// The last seq that the device gets: it was removed by that commit.
    pub(super) ends_at: Option<u64>,
    /// The device is known to be a member at this epoch. What is of a later one comes from the store, which knows.
    epoch: u64,
}

impl Subscription {
    pub(super) fn new(cursor: u64, membership: &Membership) -> Self {
        let (ends_at, epoch) = (membership.ends_at, membership.epoch);
        let head = ends_at.map_or(membership.head, |end| membership.head.min(end)).max(cursor);
        Self { cursor, sent: cursor, head, ends_at, epoch, ..Self::default() }
    }

    /// Everything that the device gets is acknowledged.
    pub(super) fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|end| self.cursor >= end)
    }

    fn has_room(&self, bytes: usize, settings: &Settings) -> bool {
        self.under_way.is_empty()
            || (self.under_way.len() < settings.window_entries
                && self.under_way_bytes.saturating_add(bytes) <= settings.window_bytes)
    }

    /// Whether reading from the store is worth while: something is there, and half of the window is free.
    fn wants_page(&self, settings: &Settings) -> bool {
        self.sent < self.head
            && self.under_way.len() <= settings.window_entries / 2
            && self.under_way_bytes <= settings.window_bytes / 2
    }

    fn page_bounds(&self, settings: &Settings) -> PageBounds {
        let entries = settings.window_entries.saturating_sub(self.under_way.len()).max(1);
        let bytes = settings.window_bytes.saturating_sub(self.under_way_bytes).min(settings.page_bytes);
        PageBounds { entries: u32::try_from(entries).unwrap_or(u32::MAX), bytes }
    }
}

/// How far the session's first look at the store has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is under way. `changes` is the core's count of changes when it began.
    Loading { changes: u64 },
    /// Conversations are known; commits reach the session from now on.
    Ready,
}

/// A connected device.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) account: AccountName,
    pub(super) device: DeviceId,
    pub(super) stage: Stage,
    pub(super) subscriptions: BTreeMap<ConversationId, Subscription>,
    /// Conversations with entries that were not sent.
    behind: BTreeSet<ConversationId>,
    /// The conversation that is being read, and the one that was read last.
    reading: Option<ConversationId>,
    last_read: Option<ConversationId>,
    under_way_bytes: usize,
    /// Appends whose commit has not been reported yet.
    pub(super) appends: usize,
    /// How many joinings of each creator were sent and not acknowledged.
    joinings: BTreeMap<AccountName, usize>,
    /// The store has more joinings than were sent, leaving those of `waiting` aside.
    pub(super) more_joinings: bool,
    /// Creators of whom the store has more than are sent at once.
    pub(super) waiting: BTreeSet<AccountName>,
    /// Groups that the device was told it is no member of.
    pub(super) unjoined: BTreeSet<ConversationId>,
}

impl Session {
    pub(super) fn new(account: AccountName, device: DeviceId, changes: u64) -> Self {
        Self {
            account,
            device,
            stage: Stage::Loading { changes },
            subscriptions: BTreeMap::new(),
            behind: BTreeSet::new(),
            reading: None,
            last_read: None,
            under_way_bytes: 0,
            appends: 0,
            joinings: BTreeMap::new(),
            more_joinings: false,
            waiting: BTreeSet::new(),
            unjoined: BTreeSet::new(),
        }
    }

    /// A commit has moved the log's end.
    pub(super) fn advance_head(&mut self, conversation: ConversationId, head: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&conversation) {
            let head = subscription.ends_at.map_or(head, |end| head.min(end));
            subscription.head = subscription.head.max(head);
            if subscription.sent < subscription.head {
                self.behind.insert(conversation);
            }
        }
    }

    /// Whether the entry at `seq` may go out straight from memory.
    pub(super) fn takes(&self, conversation: ConversationId, entry: &Entry, bytes: usize, settings: &Settings) -> bool {
        let Some(subscription) = self.subscriptions.get(&conversation) else { return false };
        subscription.sent + 1 == entry.seq
            && subscription.ends_at.is_none_or(|end| entry.seq <= end)
            && entry.epoch <= subscription.epoch
            && self.reading != Some(conversation)
            && subscription.has_room(bytes, settings)
            && (self.under_way_bytes == 0 || self.under_way_bytes + bytes <= settings.session_bytes)
    }

    /// Notes that everything up to `seq` was sent.
    pub(super) fn sent(&mut self, conversation: ConversationId, seq: u64, bytes: usize) {
        let Some(subscription) = self.subscriptions.get_mut(&conversation) else { return };
        subscription.sent = subscription.sent.max(seq);
        subscription.head = subscription.head.max(seq);
        subscription.under_way.push_back((seq, bytes));
        subscription.under_way_bytes += bytes;
        self.under_way_bytes += bytes;
        if subscription.sent >= subscription.head {
            self.behind.remove(&conversation);
        }
    }

    /// The device is a member at this epoch.
    pub(super) fn reach(&mut self, conversation: ConversationId, epoch: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&conversation)
            && subscription.ends_at.is_none()
        {
            subscription.epoch = subscription.epoch.max(epoch);
        }
    }

    /// The device gets nothing after `seq`: it was removed by that commit, which led to `epoch`. Without effect when it
    /// is known to be a member of that epoch or a later one, having come again: reports may come in another order than
    /// the commits.
    pub(super) fn end(&mut self, conversation: ConversationId, seq: u64, epoch: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&conversation)
            && subscription.ends_at.is_none()
            && subscription.epoch < epoch
        {
            subscription.ends_at = Some(seq);
            subscription.epoch = epoch;
            subscription.head = subscription.head.min(seq);
        }
    }

    /// Whether the device is no member any more.
    pub(super) fn is_ended(&self, conversation: ConversationId) -> bool {
        self.subscriptions.get(&conversation).is_some_and(|subscription| subscription.ends_at.is_some())
    }

    /// Whether the device has come again since what is followed here: it is a member, at this epoch.
    pub(super) fn came_again(&self, conversation: ConversationId, epoch: u64) -> bool {
        let subscription = self.subscriptions.get(&conversation);
        subscription.is_some_and(|subscription| subscription.ends_at.is_some() && epoch > subscription.epoch)
    }

    /// Whether this Joining is not the one with which the device follows the conversation, and not behind it.
    pub(super) fn joins_anew(&self, conversation: ConversationId, start: u64) -> bool {
        let subscription = self.subscriptions.get(&conversation);
        subscription.is_some_and(|subscription| {
            subscription.joining.as_ref().is_none_or(|joining| joining.start != start) && start > subscription.cursor
        })
    }

    /// Whether a new Joining goes out at once; otherwise it waits in the store, and this is remembered.
    pub(super) fn takes_joining(&mut self, creator: &AccountName, settings: &Settings) -> bool {
        if self.waiting.contains(creator) || self.untaken(creator) >= JOININGS_OF_ONE as usize {
            self.waiting.insert(creator.clone());
            return false;
        }
        self.more_joinings |= self.joinings.values().sum::<usize>() >= settings.joinings;
        !self.more_joinings
    }

    /// A Joining was sent.
    pub(super) fn joins(&mut self, creator: &AccountName) {
        *self.joinings.entry(creator.clone()).or_default() += 1;
    }

    fn untaken(&self, creator: &AccountName) -> usize {
        self.joinings.get(creator).copied().unwrap_or(0)
    }

    fn settle(&mut self, joining: &Untaken) {
        if let Some(count) = self.joinings.get_mut(&joining.creator) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.joinings.remove(&joining.creator);
            }
        }
    }

    /// Whether to look for joinings that did not fit: the device has taken all that it got, leaving creators aside of
    /// whom it has as many as it may; or half of what it has of one who has more.
    pub(super) fn wants_joinings(&self, settings: &Settings) -> bool {
        const BOUND: usize = JOININGS_OF_ONE as usize;
        let has_room = self.joinings.values().sum::<usize>() < settings.joinings;
        let settled = self.joinings.values().all(|count| *count >= BOUND);
        (self.more_joinings && settled && has_room)
            || (has_room && self.waiting.iter().any(|creator| self.untaken(creator) <= BOUND / 2))
    }

    /// The device follows the conversation no more, or anew from another place.
    pub(super) fn drop_subscription(&mut self, conversation: ConversationId) {
        let Some(subscription) = self.subscriptions.remove(&conversation) else { return };
        self.under_way_bytes = self.under_way_bytes.saturating_sub(subscription.under_way_bytes);
        if let Some(joining) = &subscription.joining {
            self.settle(joining);
        }
        self.behind.remove(&conversation);
    }

    /// Takes an acknowledgement; answers what it came to, whether the cursor moved, and whether a Joining is settled.
    pub(super) fn acknowledge(&mut self, conversation: ConversationId, seq: u64) -> Option<(u64, bool, bool)> {
        let subscription = self.subscriptions.get_mut(&conversation)?;
        let seq = seq.min(subscription.head);
        let settled = subscription.joining.take_if(|joining| seq >= joining.start);
        let joined = settled.is_some();
        if let Some(settled) = settled {
            self.settle(&settled);
        }
        let subscription = self.subscriptions.get_mut(&conversation)?;
        if seq <= subscription.cursor {
            return Some((seq, false, joined));
        }
        subscription.cursor = seq;
        // The device may have more than this session sent it, from an earlier one.
        subscription.sent = subscription.sent.max(seq);
        while let Some(&(through, bytes)) = subscription.under_way.front()
            && through <= seq
        {
            subscription.under_way.pop_front();
            subscription.under_way_bytes = subscription.under_way_bytes.saturating_sub(bytes);
            self.under_way_bytes = self.under_way_bytes.saturating_sub(bytes);
        }
        if subscription.sent >= subscription.head {
            self.behind.remove(&conversation);
        }
        Some((seq, true, joined))
    }

    /// The next page to read, one at a time, conversations in turn.
    pub(super) fn next_page(&mut self, settings: &Settings) -> Option<(ConversationId, u64, PageBounds)> {
        if self.reading.is_some() || (self.under_way_bytes > 0 && self.under_way_bytes >= settings.session_bytes / 2) {
            return None;
        }
        let wants = |id: &&ConversationId| {
            self.subscriptions.get(*id).is_some_and(|subscription| subscription.wants_page(settings))
        };
        let start = self.last_read.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.behind.range((start, Bound::Unbounded)).find(wants);
        let conversation = *later.or_else(|| self.behind.iter().find(wants))?;
        let subscription = self.subscriptions.get(&conversation)?;
        let next = (conversation, subscription.sent, subscription.page_bounds(settings));
        self.reading = Some(conversation);
        self.last_read = Some(conversation);
        Some(next)
    }

    /// The page that was asked for is there. `empty`: nothing more to read until the head moves again.
    pub(super) fn page_done(&mut self, conversation: ConversationId, empty: bool) {
        self.reading = None;
        if empty {
            self.behind.remove(&conversation);
        }
    }

    /// For tests: entries and bytes under way in a conversation.
    #[cfg(test)]
    pub(super) fn under_way(&self, conversation: ConversationId) -> (usize, usize) {
        self.subscriptions
            .get(&conversation)
            .map_or((0, 0), |subscription| (subscription.under_way.len(), subscription.under_way_bytes))
    }
}
