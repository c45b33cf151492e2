//! Which notifications there should be, and when each may be shown next. Knows no clock and no bus.
//!
//! **Invariant**: a chat has at most one notification, which is sent at most once per [`QUIET`].

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::content::{self, Content, Line};
use crate::api::Notice;

/// The least time between two showings of one chat; what comes in between is shown together.
pub(super) const QUIET: Duration = Duration::from_millis(300);
/// How long to wait after the service refused a notification, and how often it is tried.
const RETRY: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;
/// Notifications remembered after they went: a reply may come after the service said that it closed.
const GONE: usize = 64;
/// Chats with a notification at most; beyond that the one that was quiet the longest loses its own.
const CARDS: usize = 128;

/// An account's chat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) account: String,
    pub(super) chat: String,
}

/// A chat's notification.
struct Card {
    /// The service's id; 0 while it does not show.
    id: u32,
    notice: Notice,
    /// The last texts, oldest first.
    lines: VecDeque<Line>,
    /// What was shown last under `id`.
    shown: Option<Content>,
    /// When to show it (again); `None` when it shows as it should.
    due: Option<Instant>,
    /// Not before this.
    quiet_until: Instant,
    attempts: u32,
    touched: Instant,
}

/// All of them.
#[derive(Default)]
pub(super) struct Board {
    cards: BTreeMap<Key, Card>,
    /// Ids that show no more, with the chat and whom a reply goes to; the newest last.
    gone: VecDeque<(u32, Key, Option<String>)>,
}

/// Something to show now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) content: Content,
    /// The notification to replace; 0 for none.
    pub(super) replaces: u32,
    pub(super) request: bool,
}

impl Board {
    /// Takes a notice in; the id of a notification that has to go for it, if any.
    pub(super) fn put(&mut self, notice: Notice, now: Instant) -> Option<u32> {
        let key = Key { account: notice.account.clone(), chat: notice.chat.clone() };
        let evicted = if self.cards.contains_key(&key) { None } else { self.make_room() };
        let card = self.cards.entry(key).or_insert_with(|| Card {
            id: 0,
            notice: notice.clone(),
            lines: VecDeque::new(),
            shown: None,
            due: None,
            quiet_until: now,
            attempts: 0,
            touched: now,
        });
        match Line::of(&notice) {
            Some(line) => card.lines.push_back(line),
            None => card.lines.clear(),
        }
        let keep = content::LINES.min(usize::try_from(notice.unread.max(1)).unwrap_or(content::LINES));
        while card.lines.len() > keep {
            card.lines.pop_front();
        }
        (card.notice, card.touched, card.attempts) = (notice, now, 0);
        card.due = Some(now.max(card.quiet_until));
        evicted
    }

    fn make_room(&mut self) -> Option<u32> {
        if self.cards.len() < CARDS {
            return None;
        }
        let oldest = self.cards.iter().min_by_key(|(_, card)| card.touched).map(|(key, _)| key.clone())?;
        self.take(&oldest)
    }

    /// Forgets a chat; the id of its notification, if it shows.
    pub(super) fn take(&mut self, key: &Key) -> Option<u32> {
        let card = self.cards.remove(key)?;
        self.remember(card.id, key, addressee(&card.notice));
        Some(card.id).filter(|id| *id != 0)
    }

    fn remember(&mut self, id: u32, key: &Key, addressee: Option<String>) {
        if id == 0 {
            return;
        }
        self.gone.push_back((id, key.clone(), addressee));
        if self.gone.len() > GONE {
            self.gone.pop_front();
        }
    }

    /// Forgets everything; the ids of what shows.
    pub(super) fn take_all(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.cards).into_values().map(|card| card.id).filter(|id| *id != 0).collect()
    }

    /// When something has to be shown next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.cards.values().filter_map(|card| card.due).min()
    }

    /// What has to be shown now, the longest due first. Content that shows already is left out.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        loop {
            let due = self.cards.iter_mut().filter(|(_, card)| card.due.is_some_and(|due| due <= now));
            let (key, card) = due.min_by_key(|(_, card)| card.due)?;
            card.due = None;
            let content = Content::of(&card.notice, &card.lines);
            if card.id == 0 || card.shown.as_ref() != Some(&content) {
                return Some(Due { key: key.clone(), content, replaces: card.id, request: card.notice.request });
            }
        }
    }

    /// The service shows it under `id`.
    pub(super) fn shown(&mut self, due: Due, id: u32, now: Instant) {
        if let Some(card) = self.cards.get_mut(&due.key) {
            (card.id, card.shown, card.attempts, card.quiet_until) = (id, Some(due.content), 0, now + QUIET);
        }
    }

    /// The service refused it; it is tried again a few times.
    pub(super) fn refused(&mut self, due: &Due, now: Instant) {
        if let Some(card) = self.cards.get_mut(&due.key) {
            card.attempts += 1;
            card.quiet_until = now + RETRY;
            card.due = (card.attempts < ATTEMPTS).then_some(card.quiet_until);
        }
    }

    /// Whose notification this is, or was until a short while ago.
    pub(super) fn key_of(&self, id: u32) -> Option<Key> {
        let gone = || self.gone.iter().rev().find(|(was, ..)| *was == id).map(|(_, key, _)| key.clone());
        self.showing(id).or_else(gone)
    }

    fn showing(&self, id: u32) -> Option<Key> {
        self.cards.iter().find(|(_, card)| id != 0 && card.id == id).map(|(key, _)| key.clone())
    }

    /// Whom a reply goes to, as the notification of `key` names them or did: who wrote, or the group.
    pub(super) fn addressee(&self, key: &Key) -> Option<String> {
        let gone = || self.gone.iter().rev().find(|(_, of, _)| of == key).and_then(|(_, _, name)| name.clone());
        self.cards.get(key).map_or_else(gone, |card| addressee(&card.notice))
    }

    /// The service closed it. One that expired unseen keeps its texts for the next message; one that was dismissed was
    /// seen.
    pub(super) fn closed(&mut self, id: u32, expired: bool) {
        let Some(key) = self.showing(id) else { return };
        let Some(card) = self.cards.get_mut(&key).filter(|card| expired || card.due.is_some()) else {
            self.take(&key);
            return;
        };
        card.id = 0;
        let addressee = addressee(&card.notice);
        self.remember(id, &key, addressee);
    }

    /// The service went away, and what it showed with it.
    pub(super) fn service_gone(&mut self) {
        self.gone.clear();
        for card in self.cards.values_mut() {
            (card.id, card.shown) = (0, None);
        }
    }

    /// A service came: it shows nothing of ours yet.
    pub(super) fn show_again(&mut self, now: Instant) {
        self.service_gone();
        for card in self.cards.values_mut() {
            (card.due, card.attempts) = (Some(now), 0);
        }
    }
}

fn addressee(notice: &Notice) -> Option<String> {
    notice.group.clone().or_else(|| notice.sender.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(chat: &str, text: &str, unread: u64) -> Notice {
        let (sender, text) = (Some("bob".to_owned()), Some(text.to_owned()));
        Notice { account: "alice@h:1".into(), chat: chat.into(), sender, group: None, text, unread, request: false }
    }

    fn show_one(board: &mut Board, now: Instant, id: u32) -> (u32, String) {
        let due = board.due(now).unwrap();
        let seen = (due.replaces, due.content.body.clone());
        board.shown(due, id, now);
        seen
    }

    #[test]
    fn a_chat_is_shown_once_per_quiet_time_with_all_that_came() {
        let (mut board, start) = (Board::default(), Instant::now());
        board.put(notice("c", "one", 1), start);
        assert_eq!(show_one(&mut board, start, 7), (0, "one".to_owned()));
        board.put(notice("c", "two", 2), start + Duration::from_millis(10));
        board.put(notice("c", "three", 3), start + Duration::from_millis(20));
        assert_eq!(board.due(start + Duration::from_millis(30)), None);
        assert_eq!(board.next_due(), Some(start + QUIET));
        assert_eq!(show_one(&mut board, start + QUIET, 7), (7, "one\ntwo\nthree".to_owned()));
        assert_eq!(board.next_due(), None);
    }

    #[test]
    fn a_reply_goes_to_the_group_though_a_member_wrote() {
        let (mut board, start) = (Board::default(), Instant::now());
        let key = Key { account: "alice@h:1".into(), chat: "c".into() };
        board.put(Notice { group: Some("ops".into()), ..notice("c", "one", 1) }, start);
        show_one(&mut board, start, 7);
        assert_eq!(board.addressee(&key).as_deref(), Some("ops"));
        board.closed(7, false);
        assert_eq!(board.addressee(&key).as_deref(), Some("ops"), "it was closed");
    }

    #[test]
    fn what_was_read_is_not_shown_again() {
        let (mut board, start) = (Board::default(), Instant::now());
        board.put(notice("c", "one", 1), start);
        board.put(notice("c", "two", 2), start);
        board.put(notice("c", "three", 1), start);
        assert_eq!(show_one(&mut board, start, 1).1, "three");
    }

    #[test]
    fn a_dismissed_notification_is_forgotten_and_an_expired_one_is_not() {
        let (mut board, start) = (Board::default(), Instant::now());
        board.put(notice("c", "one", 1), start);
        show_one(&mut board, start, 1);
        board.closed(1, true);
        board.put(notice("c", "two", 2), start);
        assert_eq!(show_one(&mut board, start + QUIET, 2), (0, "one\ntwo".to_owned()));
        board.closed(2, false);
        assert_eq!(board.showing(2), None);
        board.put(notice("c", "three", 3), start);
        assert_eq!(show_one(&mut board, start + QUIET, 3).1, "three");
    }

    #[test]
    fn the_same_content_is_not_sent_twice_to_one_service() {
        let (mut board, start) = (Board::default(), Instant::now());
        board.put(Notice { text: None, ..notice("c", "", 1) }, start);
        show_one(&mut board, start, 1);
        board.put(Notice { text: None, ..notice("c", "", 1) }, start);
        assert_eq!(board.due(start + QUIET), None);
        board.show_again(start + QUIET);
        assert_eq!(show_one(&mut board, start + QUIET, 1).0, 0);
    }

    #[test]
    fn a_refused_notification_is_tried_a_few_times() {
        let (mut board, mut now) = (Board::default(), Instant::now());
        board.put(notice("c", "one", 1), now);
        let mut tries = 0;
        while let Some(due) = board.next_due() {
            now = due;
            let due = board.due(now).unwrap();
            board.refused(&due, now);
            tries += 1;
        }
        assert_eq!(tries, ATTEMPTS);
    }

    #[test]
    fn the_number_of_notifications_is_bounded() {
        let (mut board, start) = (Board::default(), Instant::now());
        for n in 0..CARDS {
            board.put(notice(&n.to_string(), "x", 1), start + Duration::from_secs(n as u64));
        }
        let mut id = 0;
        while let Some(due) = board.due(start + Duration::from_secs(1000)) {
            id += 1;
            board.shown(due, id, start);
        }
        let oldest = board.cards[&Key { account: "alice@h:1".into(), chat: "0".into() }].id;
        assert_eq!(board.put(notice("new", "x", 1), start + Duration::from_secs(2000)), Some(oldest));
        assert_eq!(board.cards.len(), CARDS);
    }
}
