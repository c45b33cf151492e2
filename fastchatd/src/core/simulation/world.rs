//! The world of a simulation: daemons, the model server, and the connections between them.
//!
//! **Invariant**: the seed decides everything that happens; what the daemons draw themselves decides nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastchat_e2ee::{Device, Identity, Transaction};
use fastchat_ipc::{ApiError, ErrorCode, History, KeyStore, Message, Preview, Request, Send, SendResult};
use fastchat_wire::{ConversationId, v1};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use v1::server_frame::Body as Said;

use super::{
    disk::{copy_files, memory_directory, open_store},
    server::Server,
};
use crate::{
    core::{Action, AlertDefaults, CallId, Core, Input, Process},
    link::{AccountKey, Down, FromLink, ToLink, Token, Up},
    sign_in::SignedIn,
    store::Write,
};

pub(super) const NAMES: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
/// The number that a daemon gives to its first account.
pub(super) const ACCOUNT: u32 = 1;
/// Decisions that a failure shows.
const SHOWN: usize = 40;
/// When it begins: far enough from zero that nothing looks as if it had just been done.
const START_MS: u64 = 1_800_000_000_000;

/// A daemon, which is one device of a user, and its connection.
pub(super) struct Peer {
    pub(super) user: usize,
    pub(super) core: Option<Core>,
    pub(super) to_server: VecDeque<v1::ClientFrame>,
    pub(super) to_client: VecDeque<v1::ServerFrame>,
    /// The session's number while it is connected.
    pub(super) up: Option<u64>,
    /// Its device was revoked, and it knows.
    pub(super) logged_out: bool,
    /// An older copy of its store took the store's place.
    pub(super) restored: bool,
    /// Conversations whose state was taken from it.
    pub(super) wiped: BTreeSet<ConversationId>,
    /// Copies of its store, the oldest first.
    pub(super) copies: Vec<TempDir>,
    directory: TempDir,
    sessions: u64,
    /// Takes so many frames when its turn comes.
    pub(super) pace: usize,
}

/// Where somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chat {
    Direct(usize),
    Group(ConversationId),
}

/// A text, and what became of the call that sent it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) peer: usize,
    pub(super) chat: Chat,
    /// The message's id, once the daemon has said that it has it.
    pub(super) confirmed: Option<String>,
    pub(super) refused: bool,
}

/// What a call was for.
enum Asked {
    Text(usize),
    Change,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) random: StdRng,
    pub(super) now: u64,
    pub(super) server: Server,
    pub(super) peers: Vec<Peer>,
    pub(super) written: Vec<Written>,
    /// Nothing breaks any more.
    pub(super) calm: bool,
    asked: BTreeMap<CallId, (usize, Asked)>,
    next_call: u64,
    decisions: VecDeque<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the last decisions of seed {} (replay with FASTCHAT_SEED={}):", self.seed, self.seed);
            self.decisions.iter().for_each(|decision| eprintln!("  {decision}"));
        }
    }
}

impl World {
    /// So many users with one device each, who know nothing of each other.
    pub(super) fn new(seed: u64, users: usize) -> Self {
        Self::make(seed, users, false)
    }

    /// A world in which nothing breaks by itself.
    pub(super) fn calm(seed: u64, users: usize) -> Self {
        Self::make(seed, users, true)
    }

    fn make(seed: u64, users: usize, calm: bool) -> Self {
        let mut world = Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            now: START_MS,
            server: Server::new(seed),
            peers: Vec::new(),
            written: Vec::new(),
            calm,
            asked: BTreeMap::new(),
            next_call: 1,
            decisions: VecDeque::new(),
        };
        for (user, name) in NAMES.iter().enumerate().take(users) {
            world.server.register(name, identity(user).public().to_der());
            world.sign_in(user);
        }
        world
    }

    pub(super) fn decide(&mut self, decision: impl FnOnce() -> String) {
        if self.calm && std::env::var_os("FASTCHAT_TRACE").is_none() {
            return;
        }
        if self.decisions.len() == SHOWN {
            self.decisions.pop_front();
        }
        let decision = format!("{:>9} {}", self.now - START_MS, decision());
        if std::env::var_os("FASTCHAT_TRACE").is_some() {
            eprintln!("{decision}");
        }
        self.decisions.push_back(decision);
    }

    /// A device of a user logs in, on a daemon of its own.
    pub(super) fn sign_in(&mut self, user: usize) -> usize {
        let identity = identity(user);
        let id = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
        let device = Device::issue(&identity, NAMES[user], id).unwrap();
        self.server.now = self.now;
        let who = self.server.add_device(user, &device);
        self.dispatch();
        self.peers.push(Peer {
            user,
            core: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            up: None,
            logged_out: false,
            restored: false,
            wiped: BTreeSet::new(),
            copies: Vec::new(),
            directory: memory_directory(),
            sessions: 0,
            pace: self.random.random_range(1..6),
        });
        self.start(who);
        let signed = SignedIn {
            account: NAMES[user].parse().unwrap(),
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
        who
    }

    fn start(&mut self, who: usize) {
        let store = open_store(self.peers[who].directory.path());
        let alerts = AlertDefaults { enabled: false, preview: Preview::Full };
        let process = Process { started_at_ms: self.now, key_store: KeyStore::File, alerts };
        self.peers[who].core = Some(Core::new(store, process, self.now).unwrap());
    }

    pub(super) fn core(&self, who: usize) -> &Core {
        self.peers[who].core.as_ref().unwrap()
    }

    /// Those whose devices are logged in.
    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.peers.len()).filter(|who| !self.server.devices[*who].gone).collect()
    }

    pub(super) fn label(&self, who: usize) -> String {
        format!("{}.{who}", NAMES[self.peers[who].user])
    }

    // ------------------------------------------------------------ steps and crashes

    /// One step of a daemon. It may crash after any part of it.
    pub(super) fn step(&mut self, who: usize, input: Input) {
        let fate = if self.calm || self.peers[who].sessions == 0 { u32::MAX } else { self.random.random_range(0..500) };
        // What a step has written is lost if the power goes before it is synced.
        let before = (fate == 0).then(|| self.copy_store(who));
        let now = self.now;
        let core = self.peers[who].core.as_mut().unwrap();
        core.step(now, input).unwrap();
        if let Some(before) = before {
            self.decide(|| format!("{who} loses its power before the step is durable"));
            return self.crash_into(who, Some(before));
        }
        if fate == 1 {
            self.decide(|| format!("{who} crashes before it syncs"));
            return self.crash(who);
        }
        let actions = core.sync().unwrap();
        if fate == 2 {
            self.decide(|| format!("{who} crashes before it acts"));
            return self.crash(who);
        }
        for action in actions {
            self.carry_out(who, action);
        }
    }

    fn carry_out(&mut self, who: usize, action: Action) {
        match action {
            Action::Answer(call, outcome) => self.answered(call, outcome),
            Action::Link(AccountKey(_), ToLink::Frame { up, frame }) if self.peers[who].up == Some(up) => {
                self.peers[who].to_server.push_back(frame);
            }
            Action::StopLink(_) => self.cut(who),
            _ => {}
        }
    }

    fn answered(&mut self, call: CallId, outcome: Result<serde_json::Value, ApiError>) {
        let Some((_, asked)) = self.asked.remove(&call) else { return };
        let internal = outcome.as_ref().err().filter(|error| error.code == ErrorCode::Internal);
        assert!(internal.is_none(), "seed {}: {internal:?}", self.seed);
        if let Asked::Text(number) = asked {
            match outcome {
                Ok(result) => {
                    let result: SendResult = serde_json::from_value(result).unwrap();
                    self.written[number].confirmed = Some(result.messages[0].id.clone());
                }
                Err(_) => self.written[number].refused = true,
            }
        }
    }

    pub(super) fn crash(&mut self, who: usize) {
        self.crash_into(who, None);
    }

    /// The daemon ends and begins again, perhaps on another store.
    pub(super) fn crash_into(&mut self, who: usize, store: Option<TempDir>) {
        self.cut(who);
        self.peers[who].core = None;
        self.asked.retain(|_, (peer, _)| *peer != who);
        if let Some(store) = store {
            // The lock goes a moment after the store.
            drop(open_store(self.peers[who].directory.path()));
            self.peers[who].directory = store;
        }
        self.start(who);
    }

    /// A copy of a daemon's store, as the disk has it after the last sync.
    pub(super) fn copy_store(&self, who: usize) -> TempDir {
        let copy = memory_directory();
        copy_files(self.peers[who].directory.path(), copy.path());
        copy
    }

    /// A conversation's encryption state is lost.
    pub(super) fn wipe(&mut self, who: usize, id: ConversationId) {
        let core = self.peers[who].core.as_mut().unwrap();
        let state = core.store.state(ACCOUNT);
        let mut transaction = Transaction::new(&state);
        transaction.forget(id.0).unwrap();
        let mut write = Write::default();
        write.state(ACCOUNT, transaction.into_changes());
        core.store.commit(write).unwrap();
        core.store.sync().unwrap();
        self.peers[who].wiped.insert(id);
        self.crash(who);
    }

    // ------------------------------------------------------------ connections

    pub(super) fn connect(&mut self, who: usize) {
        if self.server.devices[who].gone {
            return self.log_out(who);
        }
        self.peers[who].sessions += 1;
        let number = self.peers[who].sessions;
        self.peers[who].up = Some(number);
        let limits = v1::Limits {
            frame_bytes: 1 << 20,
            payload_bytes: 1 << 18,
            submit_entries: 4,
            window_entries: u32::try_from(self.server.window).unwrap(),
            ping_seconds: 60,
            handshake_bytes: 1 << 20,
        };
        let session = v1::Session { key_packages_left: self.server.packages_left(who), ..v1::Session::default() };
        let ready = v1::Ready { limits: Some(limits), ..v1::Ready::default() };
        self.server.now = self.now;
        self.server.begin_session(who);
        self.dispatch();
        self.step(who, Input::Link(AccountKey(ACCOUNT), FromLink::Up(Box::new(Up { number, session, ready }))));
    }

    fn log_out(&mut self, who: usize) {
        if !std::mem::replace(&mut self.peers[who].logged_out, true) {
            self.down(who, ErrorCode::LoggedOut);
        }
    }

    pub(super) fn disconnect(&mut self, who: usize) {
        if self.peers[who].up.is_some() {
            self.cut(who);
            self.down(who, ErrorCode::Unreachable);
        }
    }

    fn down(&mut self, who: usize, code: ErrorCode) {
        let down = Down { error: ApiError::new(code, "cut"), retry_in: None };
        self.step(who, Input::Link(AccountKey(ACCOUNT), FromLink::Down(down)));
    }

    /// The connection breaks: the server gets only the first of what is in flight, the client nothing more.
    fn cut(&mut self, who: usize) {
        if self.peers[who].up.take().is_none() {
            return;
        }
        let arrive = match self.calm {
            true => self.peers[who].to_server.len(),
            false => self.random.random_range(0..=self.peers[who].to_server.len()),
        };
        self.peers[who].to_server.truncate(arrive);
        while !self.peers[who].to_server.is_empty() {
            self.server_takes(who);
        }
        self.peers[who].to_client.clear();
        self.server.end_session(who);
    }

    pub(super) fn server_takes(&mut self, who: usize) {
        let Some(frame) = self.peers[who].to_server.pop_front() else { return };
        if std::env::var_os("FASTCHAT_TRACE").is_some() && frame.request > 0 {
            eprintln!("{:>9}     {who} asks {}", self.now - START_MS, self.server.shown_ask(&frame));
        }
        self.server.now = self.now;
        self.server.take(who, frame);
        self.dispatch();
    }

    /// What the server has said goes on its way.
    pub(super) fn dispatch(&mut self) {
        for (who, frame) in std::mem::take(&mut self.server.out) {
            if let Some(peer) = self.peers.get_mut(who).filter(|peer| peer.up.is_some()) {
                peer.to_client.push_back(frame);
            }
        }
    }

    pub(super) fn client_takes(&mut self, who: usize) {
        if self.peers[who].up.is_none() {
            return;
        }
        let Some(frame) = self.peers[who].to_client.pop_front() else { return };
        if std::env::var_os("FASTCHAT_TRACE").is_some() {
            eprintln!("{:>9}     {who} gets {}", self.now - START_MS, self.server.shown(&frame));
        }
        if let (0, Some(Said::Failure(_))) = (frame.request, &frame.body) {
            self.peers[who].up = None;
            self.peers[who].to_client.clear();
            self.peers[who].to_server.clear();
            return self.log_out(who);
        }
        self.step(who, Input::Link(AccountKey(ACCOUNT), FromLink::Frame(Box::new(frame))));
    }

    // ------------------------------------------------------------ what people do

    /// A person writes, unless an earlier text of this device is not answered: calls at one time have no order.
    pub(super) fn write(&mut self, who: usize, chat: Chat) {
        if self.asked.values().any(|(peer, asked)| *peer == who && matches!(asked, Asked::Text(_))) {
            return;
        }
        let text = format!("{} says {}", self.label(who), self.written.len());
        let to = match chat {
            Chat::Direct(user) => NAMES[user].to_owned(),
            Chat::Group(id) => id.to_string(),
        };
        self.decide(|| format!("{who} writes to {}: {text}", if to.len() == 36 { "a group" } else { &to }));
        let number = self.written.len();
        self.written.push(Written { text: text.clone(), peer: who, chat, confirmed: None, refused: false });
        let call = self.call_id();
        self.asked.insert(call, (who, Asked::Text(number)));
        self.step(who, Input::Call(call, Request::SendMessage(Send { to: vec![to], text, ..Send::default() })));
    }

    /// A person wants something else.
    pub(super) fn ask(&mut self, who: usize, request: Request) {
        let call = self.call_id();
        self.asked.insert(call, (who, Asked::Change));
        self.step(who, Input::Call(call, request));
    }

    pub(super) fn call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// Calls that were not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.asked.len()
    }

    /// The history of a chat, as the API shows it.
    pub(super) fn history(&self, who: usize, chat: &str) -> Vec<Message> {
        let params = History { chat: chat.into(), limit: 1000, ..History::default() };
        self.core(who).history(&params).unwrap().unwrap().messages
    }

    // ------------------------------------------------------------ healing

    /// Everything works again, for as long as it takes.
    pub(super) fn heal(&mut self) {
        const ROUNDS: usize = 600;
        const QUIET: usize = 4;
        self.calm = true;
        let mut quiet = 0;
        for round in 1..=ROUNDS {
            // What waits for somebody's next keys gets them.
            self.now += if round % (ROUNDS / 3) == 0 { super::dice::WEEK_MS } else { 2_500 };
            for who in 0..self.peers.len() {
                if self.peers[who].up.is_none() && !self.peers[who].logged_out {
                    self.connect(who);
                }
                self.step(who, Input::Tick);
            }
            quiet = if self.exchange() > 0 || self.is_waiting() { 0 } else { quiet + 1 };
            if quiet == QUIET {
                break;
            }
        }
    }

    /// All frames arrive, and those that follow from them. Gives how many.
    pub(super) fn exchange(&mut self) -> usize {
        const MOST: usize = 20_000;
        let mut count = 0;
        loop {
            let busy = |peer: &Peer| !peer.to_server.is_empty() || (peer.up.is_some() && !peer.to_client.is_empty());
            let Some(who) = self.peers.iter().position(busy) else { return count };
            for who in who..self.peers.len() {
                self.server_takes(who);
                self.client_takes(who);
            }
            count += 1;
            assert!(count < MOST, "seed {}: the frames have no end", self.seed);
        }
    }

    /// Whether a daemon has something to do that it has not done.
    fn is_waiting(&self) -> bool {
        self.alive().into_iter().any(|who| !self.core(who).simulated_work().is_empty())
    }
}

/// Making an RSA key takes long: one for each name.
pub(super) fn identity(user: usize) -> Identity {
    static KEYS: [std::sync::OnceLock<Vec<u8>>; NAMES.len()] = [const { std::sync::OnceLock::new() }; NAMES.len()];
    let key = KEYS[user].get_or_init(|| Identity::generate().unwrap().to_bytes().unwrap().to_vec());
    Identity::from_bytes(key).unwrap()
}
