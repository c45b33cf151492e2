//! The core against a reference model: a store in memory that answers late and in any order, devices that come, go,
//! dawdle and lose connections, all from a seed.
//!
//! **Invariant**: a run is a function of its seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use fastchat_store::{
    Append, Appended, CursorMove, DeviceState, Entry, Joining, Kind, Membership, NewEntry, OtherDevice, Page,
    PageBounds,
};
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId, v1::server_frame::Body};
use uuid::Uuid;

use super::{Action, Core, Event, SessionId, Settings};

const SETTINGS: Settings = Settings {
    window_entries: 4,
    window_bytes: 600,
    session_bytes: 900,
    page_bytes: 400,
    appends: 8,
    joinings: 2,
    cursor_wait_ms: 50,
    seed: 1,
};
const PEOPLE: u64 = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

fn account(number: u64) -> AccountName {
    format!("p{number}").parse().unwrap()
}

fn device(number: u64) -> DeviceId {
    DeviceId(Uuid::from_u64_pair(1, number))
}

/// A conversation in the model's store.
struct Conversation {
    members: [u64; 2],
    log: Vec<Entry>,
    cursors: BTreeMap<DeviceId, u64>,
    joining: BTreeSet<DeviceId>,
}

/// A device: what it has durably, and its connection.
#[derive(Default)]
struct Device {
    has: BTreeMap<ConversationId, u64>,
    joined: BTreeSet<ConversationId>,
    session: Option<Connection>,
}

struct Connection {
    id: SessionId,
    /// Frames on their way to it.
    inbox: VecDeque<Body>,
    /// What came before this connection's first entry, its last entry, and what of it is acknowledged.
    began: BTreeMap<ConversationId, u64>,
    last: BTreeMap<ConversationId, u64>,
    acknowledged: BTreeMap<ConversationId, u64>,
}

struct World {
    random: Random,
    now_ms: u64,
    core: Core,
    conversations: BTreeMap<ConversationId, Conversation>,
    devices: BTreeMap<u64, Device>,
    sessions: u64,
    messages: u64,
    /// Store calls under way. Appends take effect in order; all answers come in any order.
    calls: Vec<Action>,
    answers: Vec<Event>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now_ms: 1_000,
            core: Core::new(SETTINGS),
            conversations: BTreeMap::new(),
            devices: (0..PEOPLE).map(|number| (number, Device::default())).collect(),
            sessions: 0,
            messages: 0,
            calls: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.core.step(self.now_ms, event) {
            match action {
                Action::Send(session, frame) => self.arrive(session, frame.body.unwrap()),
                Action::Close(session, _) => {
                    let gone = self.owner(session);
                    if let Some(number) = gone {
                        self.devices.get_mut(&number).unwrap().session = None;
                    }
                }
                other => self.calls.push(other),
            }
        }
    }

    fn owner(&self, session: SessionId) -> Option<u64> {
        let owns = |device: &Device| device.session.as_ref().is_some_and(|connection| connection.id == session);
        self.devices.iter().find(|(_, device)| owns(device)).map(|(number, _)| *number)
    }

    /// A frame leaves the server: what it promises must hold already.
    fn arrive(&mut self, session: SessionId, body: Body) {
        let Some(number) = self.owner(session) else { return };
        let connection = self.devices.get_mut(&number).unwrap().session.as_mut().unwrap();
        if let Body::Deliver(deliver) = &body {
            let id = ConversationId::from_wire(&deliver.conversation).unwrap();
            let stored = &self.conversations[&id];
            for entry in &deliver.entries {
                // A device may acknowledge what it has from an earlier connection: then that is skipped.
                let skipped = connection.acknowledged.get(&id).copied().unwrap_or(0);
                let expected = connection.last.get(&id).map(|last| skipped.max(*last) + 1);
                assert!(expected.is_none_or(|expected| expected == entry.seq), "a gap, a repeat or disorder");
                let truth = &stored.log[usize::try_from(entry.seq).unwrap() - 1];
                assert_eq!(entry.message_id, truth.message_id.to_wire(), "not what is in the log");
                assert_eq!(entry.payload.is_empty(), truth.device == device(number), "own payload or a missing one");
                connection.last.insert(id, entry.seq);
            }
            let first = deliver.entries[0].seq - 1;
            let began = *connection.began.entry(id).or_insert(first);
            let acknowledged = connection.acknowledged.get(&id).copied().unwrap_or(0).max(began);
            let ahead = connection.last[&id].saturating_sub(acknowledged);
            assert!(ahead <= SETTINGS.window_entries as u64, "{ahead} entries ahead");
        }
        connection.inbox.push_back(body);
    }

    // ------------------------------------------------------------ what can happen

    fn connect(&mut self, number: u64) {
        self.sessions += 1;
        let id = SessionId(self.sessions);
        let (inbox, began, last, acknowledged) = Default::default();
        // An older connection is half open as far as the server knows.
        self.devices.get_mut(&number).unwrap().session = Some(Connection { id, inbox, began, last, acknowledged });
        self.step(Event::Opened { session: id, account: account(number), device: device(number) });
    }

    fn disconnect(&mut self, number: u64) {
        if let Some(connection) = self.devices.get_mut(&number).unwrap().session.take() {
            self.step(Event::Closed(connection.id));
        }
    }

    fn create(&mut self, one: u64, two: u64) {
        let id = ConversationId(Uuid::from_u64_pair(one.min(two) + 10, one.max(two)));
        if one == two || self.conversations.contains_key(&id) {
            return;
        }
        let cursors = BTreeMap::from([(device(one), 0), (device(two), 0)]);
        let conversation =
            Conversation { members: [one, two], log: Vec::new(), cursors, joining: BTreeSet::from([device(two)]) };
        self.conversations.insert(id, conversation);
        self.devices.get_mut(&one).unwrap().joined.insert(id);
        let joinings = vec![(device(two), self.joining(id, two))];
        let membership = self.membership(id, one);
        self.answers.push(Event::Created { device: device(one), membership, joinings, closed: None });
    }

    fn submit(&mut self, number: u64) {
        let joined: Vec<ConversationId> = self.devices[&number].joined.iter().copied().collect();
        let Some(connection) = &self.devices[&number].session else { return };
        let session = connection.id;
        if joined.is_empty() {
            return;
        }
        let conversation = joined[self.random.below(joined.len())];
        let entries = (0..=self.random.below(3))
            .map(|_| {
                self.messages += 1;
                NewEntry {
                    message_id: MessageId(Uuid::from_u64_pair(2, self.messages)),
                    epoch: 1,
                    kind: Kind::Application,
                    payload: Bytes::from(vec![1; 1 + self.random.below(200)]),
                }
            })
            .collect();
        let (account, device) = (account(number), device(number));
        let append = Append { conversation, account, device, entries, now_ms: self.now_ms };
        self.step(Event::Submit { session, request: 1, append });
    }

    /// A device takes the next frame that came to it, and may acknowledge.
    fn take(&mut self, number: u64) {
        let acknowledges = self.random.below(3) > 0;
        let device = self.devices.get_mut(&number).unwrap();
        let Some(connection) = &mut device.session else { return };
        let session = connection.id;
        let Some(body) = connection.inbox.pop_front() else { return };
        let (conversation, seq) = match body {
            Body::Joining(joining) => {
                let id = ConversationId::from_wire(&joining.conversation).unwrap();
                device.joined.insert(id);
                (id, joining.start_seq)
            }
            Body::Deliver(deliver) => {
                let id = ConversationId::from_wire(&deliver.conversation).unwrap();
                assert!(device.joined.contains(&id), "an entry before its Joining");
                let has = device.has.entry(id).or_default();
                for entry in &deliver.entries {
                    assert!(entry.seq <= *has + 1, "a gap after {has}");
                    *has = entry.seq.max(*has);
                }
                (id, *has)
            }
            // A submit too many at once is refused: the model's devices leave it at that.
            Body::Accepted(_) | Body::Delivered(_) | Body::Failure(_) => return,
            other => panic!("unexpected: {other:?}"),
        };
        if acknowledges {
            connection.acknowledged.insert(conversation, seq);
            self.step(Event::Ack { session, conversation, seq });
        }
    }

    // ------------------------------------------------------------ the store

    fn membership(&self, id: ConversationId, number: u64) -> Membership {
        let conversation = &self.conversations[&id];
        let other = |number: &&u64| OtherDevice {
            account: account(**number),
            device: device(**number),
            cursor: conversation.cursors[&device(**number)],
        };
        Membership {
            conversation: id,
            cursor: conversation.cursors[&device(number)],
            head: conversation.log.len() as u64,
            closed: false,
            closed_by: None,
            others: conversation.members.iter().filter(|member| **member != number).map(|n| other(&n)).collect(),
        }
    }

    fn joining(&self, id: ConversationId, number: u64) -> Joining {
        Joining {
            creator: account(self.conversations[&id].members[0]),
            creator_identity_key: Bytes::new(),
            welcome: Bytes::new(),
            friend_key: Bytes::new(),
            start_seq: 0,
            replaces: None,
            time_ms: 0,
            membership: self.membership(id, number),
        }
    }

    /// Carries out one of the store calls under way. Writes in order, reads whenever.
    fn store(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let is_write = |action: &Action| matches!(action, Action::Append { .. } | Action::SaveCursors(_));
        let mut at = self.random.below(self.calls.len());
        if is_write(&self.calls[at]) {
            at = self.calls.iter().position(is_write).unwrap();
        }
        let answer = match self.calls.remove(at) {
            Action::ReadState { session, device, joinings } => {
                Event::StateRead { session, state: Ok(Some(self.state(device, joinings as usize))) }
            }
            Action::Append { session, request, append } => {
                let conversation = append.conversation;
                Event::Appended { session, request, conversation, outcome: Ok(self.append(append)) }
            }
            Action::ReadPage { session, conversation, after, bounds, .. } => {
                Event::PageRead { session, conversation, page: Ok(self.page(conversation, after, bounds)) }
            }
            Action::SaveCursors(moves) => {
                let saved = self.random.below(4) > 0;
                if saved {
                    moves.into_iter().for_each(|moved| self.save(moved));
                }
                Event::CursorsSaved { saved }
            }
            Action::Send(..) | Action::Close(..) => unreachable!("not a store call"),
        };
        self.answers.push(answer);
    }

    fn state(&self, of: DeviceId, limit: usize) -> DeviceState {
        let mut state = DeviceState::default();
        for (id, conversation) in &self.conversations {
            let Some(number) = conversation.members.iter().copied().find(|number| device(*number) == of) else {
                continue;
            };
            if !conversation.joining.contains(&of) {
                state.memberships.push(self.membership(*id, number));
            } else if state.joinings.len() < limit {
                state.joinings.push(self.joining(*id, number));
            } else {
                state.more_joinings = true;
            }
        }
        state
    }

    fn append(&mut self, append: Append) -> Appended {
        let log = &mut self.conversations.get_mut(&append.conversation).unwrap().log;
        let (mut seqs, mut new) = (Vec::new(), Vec::new());
        for entry in append.entries {
            let seq = log.len() as u64 + 1;
            let entry = Entry {
                seq,
                message_id: entry.message_id,
                account: append.account.clone(),
                device: append.device,
                epoch: entry.epoch,
                kind: entry.kind,
                payload: entry.payload,
                time_ms: append.now_ms,
            };
            log.push(entry.clone());
            seqs.push(seq);
            new.push(entry);
        }
        Appended::Accepted { seqs, time_ms: append.now_ms, new }
    }

    fn page(&self, conversation: ConversationId, after: u64, bounds: PageBounds) -> Page {
        let log = &self.conversations[&conversation].log;
        let (mut page, mut bytes) = (Page { head: log.len() as u64, ..Page::default() }, 0);
        for entry in log.iter().skip(usize::try_from(after).unwrap()).take(bounds.entries as usize) {
            bytes += entry.payload.len();
            if !page.entries.is_empty() && bytes > bounds.bytes {
                break;
            }
            page.entries.push(entry.clone());
        }
        // The model keeps payloads: the core has to leave out a device's own.
        page
    }

    fn save(&mut self, moved: CursorMove) {
        let has = self.devices.iter().find(|(number, _)| device(**number) == moved.device).unwrap().1;
        let durable = has.has.get(&moved.conversation).copied().unwrap_or(0);
        assert!(moved.seq <= durable, "a cursor ahead of what its device has");
        let conversation = self.conversations.get_mut(&moved.conversation).unwrap();
        let cursor = conversation.cursors.get_mut(&moved.device).unwrap();
        *cursor = moved.seq.max(*cursor);
        if moved.joined {
            conversation.joining.remove(&moved.device);
        }
    }

    /// One of the store's answers reaches the core.
    fn answer(&mut self) {
        if !self.answers.is_empty() {
            let at = self.random.below(self.answers.len());
            let event = self.answers.remove(at);
            self.step(event);
        }
    }

    fn anything(&mut self) {
        let number = self.random.below(usize::try_from(PEOPLE).unwrap()) as u64;
        self.now_ms += self.random.below(20) as u64;
        match self.random.below(40) {
            0 => self.connect(number),
            1 => self.disconnect(number),
            2 => {
                let other = self.random.below(usize::try_from(PEOPLE).unwrap()) as u64;
                self.create(number, other);
            }
            3..=8 => self.submit(number),
            9..=19 => self.take(number),
            20..=29 => self.store(),
            30..=38 => self.answer(),
            _ => self.step(Event::Timer),
        }
    }

    /// Everybody is there, nothing fails, nobody sends: until nothing happens any more.
    fn heal(&mut self) {
        for number in 0..PEOPLE {
            self.connect(number);
        }
        for _ in 0..20_000 {
            self.now_ms += 1;
            let frames = |device: &Device| device.session.as_ref().map_or(0, |connection| connection.inbox.len());
            let quiet = self.calls.is_empty() && self.answers.is_empty() && self.core.due_ms().is_none();
            if quiet && self.devices.values().all(|device| frames(device) == 0) {
                // A device that has not acknowledged everything would be asked to in reality; here it does so once
                // more.
                if !self.acknowledge_all() {
                    return;
                }
            }
            for number in 0..PEOPLE {
                self.take(number);
            }
            self.store();
            self.answer();
            self.step(Event::Timer);
        }
        panic!("it does not come to rest");
    }

    fn acknowledge_all(&mut self) -> bool {
        let mut any = false;
        for number in 0..PEOPLE {
            let device = self.devices.get_mut(&number).unwrap();
            let connection = device.session.as_mut().unwrap();
            let session = connection.id;
            let joined: Vec<_> = device.joined.iter().copied().collect();
            for conversation in joined {
                let device = self.devices.get_mut(&number).unwrap();
                let seq = device.has.get(&conversation).copied().unwrap_or(0);
                let acknowledged = &mut device.session.as_mut().unwrap().acknowledged;
                if acknowledged.insert(conversation, seq) != Some(seq) {
                    any = true;
                    self.step(Event::Ack { session, conversation, seq });
                }
            }
        }
        any
    }
}

#[test]
fn every_device_gets_every_entry_once_in_order_whatever_happens() {
    let mut entries = 0;
    for seed in 1..=300 {
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.anything();
        }
        world.heal();
        for (id, conversation) in &world.conversations {
            entries += conversation.log.len();
            for number in conversation.members {
                let has = world.devices[&number].has.get(id).copied().unwrap_or(0);
                assert_eq!(has, conversation.log.len() as u64, "seed {seed}: {number} lacks entries of {id}");
                let cursor = conversation.cursors[&device(number)];
                assert_eq!(cursor, has, "seed {seed}: the cursor of {number} in {id} was lost");
            }
        }
    }
    assert!(entries > 10_000, "the runs were too quiet: {entries} entries");
}
