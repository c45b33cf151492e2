//! Two cores and a model of the server, driven by a seeded random number generator: frames in flight get lost with their
//! connection, daemons crash between any two steps, both sides write at once. In the end nothing may be lost, doubled or
//! out of order.
//!
//! The model is small on purpose: it does what the protocol promises, one thing at a time, and nothing else.

use std::collections::{BTreeMap, VecDeque};

use fastchat_e2ee::{Device, Identity};
use fastchat_ipc::{History, HistoryResult, KeyStore, Message, MessageKind, MessageState, Preview, Request, Send};
use fastchat_wire::{ConversationId, DeviceId, v1};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use v1::{client_frame::Body as Ask, server_frame::Body as Said};

use crate::{
    link::{AccountKey, FromLink, ToLink, Token, Up},
    sign_in::SignedIn,
    store::Store,
};

use super::{Action, AlertDefaults, CallId, Core, Input, Process};

mod cases;

const NAMES: [&str; 2] = ["alice", "bob"];
const STEPS: usize = 400;
const SEEDS: u64 = 12;

#[test]
fn nothing_is_lost_doubled_or_out_of_order_whatever_breaks() {
    // `FASTCHAT_SEEDS=1000` looks longer.
    let seeds = std::env::var("FASTCHAT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.something_happens();
        }
        world.heal();
        world.check();
    }
}

/// A member of a conversation, as the model knows it.
#[derive(Clone)]
struct Member {
    name: usize,
    acked: u64,
    joining: Option<v1::Joining>,
}

#[derive(Clone)]
struct Conversation {
    id: ConversationId,
    members: [Member; 2],
    log: Vec<(usize, v1::Entry)>,
}

/// The server.
#[derive(Default)]
struct Server {
    packages: [VecDeque<bytes::Bytes>; 2],
    direct: Option<Conversation>,
    /// Nobody may append.
    refuses: bool,
}

/// A daemon and its connection.
struct Peer {
    directory: tempfile::TempDir,
    core: Option<Core>,
    /// The session's number while it is connected.
    up: Option<u64>,
    sessions: u64,
    to_server: VecDeque<v1::ClientFrame>,
    to_client: VecDeque<v1::ServerFrame>,
}

struct World {
    seed: u64,
    random: StdRng,
    now: u64,
    server: Server,
    peers: [Peer; 2],
    keys: [(Vec<u8>, DeviceId); 2],
    next_call: u64,
    /// Texts by sender; whether the daemon said that it has them.
    written: BTreeMap<String, (usize, bool)>,
    asked: BTreeMap<CallId, String>,
    histories: BTreeMap<CallId, HistoryResult>,
}

impl World {
    fn new(seed: u64) -> Self {
        let peer = || Peer {
            directory: tempfile::tempdir().unwrap(),
            core: None,
            up: None,
            sessions: 0,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        };
        let mut world = Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            now: 1_000_000,
            server: Server::default(),
            peers: [peer(), peer()],
            keys: NAMES.map(|_| (Vec::new(), DeviceId::generate())),
            next_call: 1,
            written: BTreeMap::new(),
            asked: BTreeMap::new(),
            histories: BTreeMap::new(),
        };
        for who in 0..2 {
            world.sign_in(who);
        }
        world
    }

    fn sign_in(&mut self, who: usize) {
        let identity = identity(who);
        let device = Device::issue(&identity, NAMES[who], self.keys[who].1.0).unwrap();
        self.keys[who].0 = identity.public().to_der().to_vec();
        self.start(who);
        let signed = SignedIn {
            account: NAMES[who].parse().unwrap(),
            server: "model:1".parse().unwrap(),
            pin: None,
            identity,
            device,
            device_name: "model".into(),
            token: Token::from_bytes(&[7; 32]).unwrap(),
            new_identity: false,
        };
        self.step(who, Input::SignedIn(CallId(0), Box::new(signed)));
        self.connect(who);
    }

    fn start(&mut self, who: usize) {
        // sled lets go of its lock a moment after it was dropped.
        let open = || Store::open(self.peers[who].directory.path(), &[9; 32], KeyStore::File);
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let store = loop {
            match open() {
                Err(_) if std::time::Instant::now() < patience => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let alerts = AlertDefaults { enabled: false, preview: Preview::Full };
        let process = Process { started_at_ms: self.now, key_store: KeyStore::File, alerts };
        self.peers[who].core = Some(Core::new(store, process, self.now).unwrap());
    }

    fn something_happens(&mut self) {
        self.now += self.random.random_range(0..200);
        let who = self.random.random_range(0..2);
        match self.random.random_range(0..100) {
            0..20 => self.write(who),
            20..55 => self.server_takes(who),
            55..90 => self.client_takes(who),
            90..94 => self.disconnect(who),
            94..97 if self.peers[who].up.is_none() => self.connect(who),
            97..98 => self.crash(who),
            _ => self.step(who, Input::Tick),
        }
    }

    fn write(&mut self, who: usize) {
        // Calls under way at the same time have no order among themselves.
        if self.asked.values().any(|text| text.starts_with(NAMES[who])) {
            return;
        }
        let text = format!("{} says {}", NAMES[who], self.written.len());
        self.written.insert(text.clone(), (who, false));
        let send = Send { to: vec![NAMES[1 - who].into()], text: text.clone(), ..Send::default() };
        let call = self.call_id();
        self.asked.insert(call, text);
        self.step(who, Input::Call(call, Request::SendMessage(send)));
    }

    fn call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// One step of a daemon. It may crash after any part of it.
    fn step(&mut self, who: usize, input: Input) {
        let crash = self.random.random_range(0..200);
        let Some(core) = self.peers[who].core.as_mut() else { return };
        core.step(self.now, input).unwrap();
        if crash == 0 && self.peers[who].sessions > 0 {
            return self.crash(who);
        }
        let actions = core.sync().unwrap();
        if crash == 1 && self.peers[who].sessions > 0 {
            return self.crash(who);
        }
        for action in actions {
            self.carry_out(who, action);
        }
    }

    fn carry_out(&mut self, who: usize, action: Action) {
        match action {
            Action::Answer(call, outcome) => {
                if let Some(text) = self.asked.remove(&call) {
                    outcome.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
                    self.written.insert(text, (who, true));
                } else if let Ok(history) = serde_json::from_value(outcome.unwrap_or_default()) {
                    self.histories.insert(call, history);
                }
            }
            Action::Link(AccountKey(_), ToLink::Frame { up, frame }) if self.peers[who].up == Some(up) => {
                self.peers[who].to_server.push_back(frame);
            }
            _ => {}
        }
    }

    fn disconnect(&mut self, who: usize) {
        let Some(_) = self.peers[who].up.take() else { return };
        self.lose_frames(who);
        let error = fastchat_ipc::ApiError::new(fastchat_ipc::ErrorCode::Unreachable, "cut");
        let down = crate::link::Down { error, retry_in: None };
        self.step(who, Input::Link(AccountKey(1), FromLink::Down(down)));
    }

    /// The connection breaks: the server has got only the first of what is in flight, the client nothing more.
    fn lose_frames(&mut self, who: usize) {
        let arrive = self.random.random_range(0..=self.peers[who].to_server.len());
        self.peers[who].to_server.truncate(arrive);
        while !self.peers[who].to_server.is_empty() {
            self.server_takes(who);
        }
        self.peers[who].to_client.clear();
    }

    fn crash(&mut self, who: usize) {
        self.peers[who].up = None;
        self.lose_frames(who);
        self.peers[who].core = None;
        self.asked.retain(|_, text| !text.starts_with(NAMES[who]));
        self.start(who);
    }

    fn connect(&mut self, who: usize) {
        self.peers[who].sessions += 1;
        let number = self.peers[who].sessions;
        self.peers[who].up = Some(number);
        let left = u32::try_from(self.server.packages[who].len()).unwrap();
        let limits = v1::Limits {
            frame_bytes: 1 << 20,
            payload_bytes: 1 << 18,
            submit_entries: 4,
            window_entries: 64,
            ping_seconds: 60,
        };
        let session = v1::Session { key_packages_left: left, ..v1::Session::default() };
        let ready = v1::Ready { limits: Some(limits), ..v1::Ready::default() };
        self.step(who, Input::Link(AccountKey(1), FromLink::Up(Box::new(Up { number, session, ready }))));
        self.catch_up(who);
    }

    fn client_takes(&mut self, who: usize) {
        if self.peers[who].up.is_some()
            && let Some(frame) = self.peers[who].to_client.pop_front()
        {
            self.step(who, Input::Link(AccountKey(1), FromLink::Frame(Box::new(frame))));
        }
    }

    fn say(&mut self, who: usize, request: u64, body: Said) {
        if self.peers[who].up.is_some() {
            self.peers[who].to_client.push_back(v1::ServerFrame { request, body: Some(body) });
        }
    }

    fn server_takes(&mut self, who: usize) {
        let Some(frame) = self.peers[who].to_server.pop_front() else { return };
        let Some(body) = frame.body else { return };
        let answer = match body {
            Ask::PublishKeyPackages(publish) => {
                self.server.packages[who].extend(publish.one_time);
                let one_time = u32::try_from(self.server.packages[who].len()).unwrap();
                Said::KeyPackageCount(v1::KeyPackageCount { one_time })
            }
            Ask::GetAccount(get) => {
                let identity_key = self.keys[index(&get.account)].0.clone().into();
                Said::AccountInfo(v1::AccountInfo { account: get.account, identity_key })
            }
            Ask::ClaimKeyPackages(claim) => self.claim(&claim.account),
            Ask::CreateDirect(create) => self.create(who, create),
            Ask::Submit(submit) => self.submit(who, submit),
            Ask::Ack(ack) => return self.acked(who, &ack),
            _ => Said::Done(v1::Done {}),
        };
        self.say(who, frame.request, answer);
    }

    fn claim(&mut self, account: &str) -> Said {
        let other = index(account);
        let Some(package) = self.server.packages[other].pop_front() else {
            return Said::Failure(v1::Failure::new(v1::Code::NoKeyPackages, "none"));
        };
        let package = v1::KeyPackage { device: self.keys[other].1.to_wire(), key_package: package };
        Said::KeyPackages(v1::KeyPackages {
            account: account.into(),
            identity_key: self.keys[other].0.clone().into(),
            packages: vec![package],
        })
    }

    fn create(&mut self, who: usize, create: v1::CreateDirect) -> Said {
        let id = ConversationId::from_wire(&create.conversation).unwrap();
        if let Some(direct) = &self.server.direct {
            let created = direct.id == id;
            return Said::Direct(v1::Direct { conversation: direct.id.to_wire(), created, member: true });
        }
        let joining = v1::Joining {
            conversation: create.conversation.clone(),
            creator: NAMES[who].into(),
            creator_identity_key: self.keys[who].0.clone().into(),
            welcome: create.welcomes.into_iter().next(),
            start_seq: 0,
            replaces: bytes::Bytes::new(),
            server_time_ms: self.now,
        };
        let member = |name: usize| Member { name, acked: 0, joining: (name != who).then(|| joining.clone()) };
        self.server.direct = Some(Conversation { id, members: [member(0), member(1)], log: Vec::new() });
        self.say(1 - who, 0, Said::Joining(joining));
        Said::Direct(v1::Direct { conversation: id.to_wire(), created: true, member: true })
    }

    fn submit(&mut self, who: usize, submit: v1::Submit) -> Said {
        let Some(direct) = self.server.direct.as_mut().filter(|direct| direct.id.to_wire() == submit.conversation)
        else {
            return Said::Failure(v1::Failure::new(v1::Code::NotAMember, "no"));
        };
        let known = |new: &v1::NewEntry| direct.log.iter().any(|(_, entry)| entry.message_id == new.message_id);
        if self.server.refuses && !submit.entries.iter().all(known) {
            return Said::Failure(v1::Failure::new(v1::Code::Refused, "blocked"));
        }
        let mut seqs = Vec::new();
        let first = direct.log.len();
        for new in submit.entries {
            if let Some((_, known)) = direct.log.iter().find(|(_, entry)| entry.message_id == new.message_id) {
                assert_eq!(known.payload, new.payload, "seed {}: a retry sends other bytes", self.seed);
                seqs.push(known.seq);
                continue;
            }
            let seq = direct.log.len() as u64 + 1;
            seqs.push(seq);
            let entry = v1::Entry {
                seq,
                message_id: new.message_id,
                sender: NAMES[who].into(),
                device: self.keys[who].1.to_wire(),
                epoch: new.epoch,
                kind: new.kind,
                payload: new.payload,
                server_time_ms: self.now,
            };
            direct.log.push((who, entry));
        }
        let fresh = direct.log[first..].to_vec();
        for member in 0..2 {
            self.deliver(member, &fresh);
        }
        Said::Accepted(v1::Accepted { seqs, server_time_ms: self.now })
    }

    fn deliver(&mut self, who: usize, entries: &[(usize, v1::Entry)]) {
        let Some(direct) = &self.server.direct else { return };
        // Before its Joining is acknowledged, a member gets no entries.
        if direct.members[who].joining.is_some() || entries.is_empty() {
            return;
        }
        let conversation = direct.id.to_wire();
        let shown = entries.iter().map(|(sender, entry)| {
            let mut entry = entry.clone();
            if *sender == who {
                entry.payload.clear();
            }
            entry
        });
        let deliver = v1::Deliver { conversation, entries: shown.collect(), expired_through: 0 };
        self.say(who, 0, Said::Deliver(deliver));
    }

    fn acked(&mut self, who: usize, ack: &v1::Ack) {
        let Some(direct) = self.server.direct.as_mut() else { return };
        let member = &mut direct.members[who];
        assert_eq!(member.name, who);
        member.acked = member.acked.max(ack.seq);
        let (acked, conversation) = (member.acked, direct.id.to_wire());
        if member.joining.take().is_some() {
            let all = direct.log.clone();
            self.deliver(who, &all);
        }
        self.say(1 - who, 0, Said::Delivered(v1::Delivered { conversation, account: NAMES[who].into(), seq: acked }));
    }

    /// What a session begins with.
    fn catch_up(&mut self, who: usize) {
        let Some(direct) = self.server.direct.clone() else { return };
        if let Some(joining) = direct.members[who].joining.clone() {
            return self.say(who, 0, Said::Joining(joining));
        }
        let skip = usize::try_from(direct.members[who].acked).unwrap();
        self.deliver(who, &direct.log[skip..]);
        let (conversation, seq) = (direct.id.to_wire(), direct.members[1 - who].acked);
        let account = NAMES[1 - who].into();
        self.say(who, 0, Said::Delivered(v1::Delivered { conversation, account, seq }));
    }

    /// Everything works again, for as long as it takes.
    fn heal(&mut self) {
        for _ in 0..200 {
            for who in 0..2 {
                if self.peers[who].up.is_none() {
                    self.connect(who);
                }
                self.now += 2_000;
                self.step(who, Input::Tick);
                while !self.peers[who].to_server.is_empty() || !self.peers[who].to_client.is_empty() {
                    self.server_takes(who);
                    self.client_takes(who);
                }
            }
        }
    }

    fn history(&mut self, who: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut before = 0;
        loop {
            let call = self.call_id();
            let params = History { chat: NAMES[1 - who].into(), limit: 1000, before, ..History::default() };
            while !self.histories.contains_key(&call) {
                self.step(who, Input::Call(call, Request::ReadHistory(params.clone())));
            }
            let page = self.histories.remove(&call).unwrap();
            before = page.messages.first().map_or(0, |message| message.position);
            messages.splice(0..0, page.messages);
            if !page.more {
                return messages;
            }
        }
    }

    fn check(&mut self) {
        let seed = self.seed;
        if self.written.is_empty() {
            return;
        }
        let histories = [self.history(0), self.history(1)];
        let ids = |messages: &[Message]| messages.iter().map(|message| message.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&histories[0]), ids(&histories[1]), "seed {seed}: both see one order");
        for (who, history) in histories.iter().enumerate() {
            for message in history {
                assert_eq!(message.kind, MessageKind::Text, "seed {seed}: {} sees: {}", NAMES[who], message.text);
                let expected = if message.mine { MessageState::Delivered } else { MessageState::Received };
                assert_eq!(message.state, expected, "seed {seed}: {}", message.text);
            }
        }
        for (text, (sender, confirmed)) in &self.written {
            let count = histories[1 - sender].iter().filter(|message| message.text == *text).count();
            assert!(count == 1 || (count == 0 && !confirmed), "seed {seed}: `{text}` shows {count} times");
        }
        for sender in NAMES {
            let own = histories[0].iter().filter(|message| message.from == sender);
            let numbers: Vec<usize> =
                own.map(|message| message.text.rsplit(' ').next().unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "seed {seed}: {sender} wrote in another order: {numbers:?}");
        }
    }
}

fn index(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap()
}

/// Making an RSA key takes long: one for each name.
fn identity(who: usize) -> Identity {
    static KEYS: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    let keys = KEYS.get_or_init(|| NAMES.map(|_| Identity::generate().unwrap().to_bytes().unwrap().to_vec()));
    Identity::from_bytes(&keys[who]).unwrap()
}
