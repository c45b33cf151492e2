//! What the made-up server knows: accounts, key packages, conversations, who is connected.
//!
//! **Invariant**: entries of a conversation stand in one order, the same for both members.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fastchat_mls::PublicConversation;
use fastchat_wire::{
    FRAME_LIMIT,
    v1::{self, ServerFrame, client_frame::Body as Ask, server_frame::Body},
};
use tokio::sync::mpsc;

use super::groups::{By, ForAccount, Group};

/// A frame and the connection that it is for.
type Addressed = (u64, ServerFrame);

#[derive(Default)]
struct Account {
    identity_key: Bytes,
    device: Bytes,
    token: Bytes,
    one_time: VecDeque<Bytes>,
    last_resort: Bytes,
    connection: Option<u64>,
}

struct Conversation {
    creator: String,
    peer: String,
    welcome: v1::Welcome,
    ratchet_tree: Bytes,
    is_joined: bool,
    entries: Vec<v1::Entry>,
    cursors: BTreeMap<String, u64>,
}

impl Conversation {
    fn other(&self, account: &str) -> &str {
        if self.creator == account { &self.peer } else { &self.creator }
    }
}

struct Connection {
    outbox: mpsc::Sender<ServerFrame>,
    account: String,
}

#[derive(Default)]
pub(super) struct Books {
    accounts: BTreeMap<String, Account>,
    conversations: BTreeMap<Bytes, Conversation>,
    groups: BTreeMap<Bytes, Group>,
    /// Up to where accounts have acknowledged groups.
    read: BTreeMap<(String, Bytes), u64>,
    connections: BTreeMap<u64, Connection>,
}

impl Books {
    pub(super) fn opened(&mut self, connection: u64, outbox: mpsc::Sender<ServerFrame>) -> Vec<Addressed> {
        self.connections.insert(connection, Connection { outbox, account: String::new() });
        Vec::new()
    }

    pub(super) fn closed(&mut self, connection: u64) -> Vec<Addressed> {
        self.connections.remove(&connection);
        for account in self.accounts.values_mut() {
            account.connection = account.connection.filter(|own| *own != connection);
        }
        Vec::new()
    }

    /// Whose connection it is; empty before there is a session.
    pub(super) fn name(&self, connection: u64) -> &str {
        self.connections.get(&connection).map_or("", |connection| &connection.account)
    }

    pub(super) fn send_to(&self, connection: u64, frame: ServerFrame) {
        if let Some(connection) = self.connections.get(&connection) {
            // A device that takes nothing gets nothing.
            let _ = connection.outbox.try_send(frame);
        }
    }

    pub(super) fn send(&self, account: &str, frame: ServerFrame) {
        if let Some(connection) = self.accounts.get(account).and_then(|account| account.connection) {
            self.send_to(connection, frame);
        }
    }

    /// Takes what a device said; gives what there is to say to whom.
    pub(super) fn said(&mut self, connection: u64, frame: v1::ClientFrame) -> Vec<Addressed> {
        let name = self.name(connection).to_owned();
        let mut out = Vec::new();
        let answer = match frame.body {
            Some(Ask::Hello(_)) => Body::Ready(ready()),
            Some(Ask::Ping(_)) => Body::Pong(v1::Pong { server_time_ms: 1 }),
            Some(Ask::Register(ask)) => self.register(ask),
            Some(Ask::Resume(ask)) => self.resume(connection, &ask, &mut out),
            Some(Ask::GetAccount(ask)) => match self.accounts.get(&ask.account) {
                Some(account) => Body::AccountInfo(v1::AccountInfo {
                    account: ask.account,
                    identity_key: account.identity_key.clone(),
                }),
                None => failure(v1::Code::NotFound),
            },
            Some(Ask::PublishKeyPackages(ask)) => self.publish(&name, ask),
            Some(Ask::ClaimKeyPackages(ask)) => self.claim(&ask.account),
            Some(Ask::CreateDirect(ask)) => self.create(&name, ask, &mut out),
            Some(Ask::CreateGroup(ask)) => match Group::open(&name, &ask) {
                Some(group) => {
                    self.groups.insert(ask.conversation, group);
                    Body::Done(v1::Done {})
                }
                None => failure(v1::Code::Invalid),
            },
            Some(Ask::Handshake(ask)) => {
                self.in_group(&name, &ask.conversation.clone(), |group, by| group.handshake(by, ask))
            }
            Some(Ask::FetchGroup(ask)) => match self.groups.get(&ask.conversation) {
                Some(group) => Body::GroupState(group.state(&ask.conversation)),
                None => failure(v1::Code::NotAMember),
            },
            Some(Ask::ListDevices(_)) => self.devices(&name),
            Some(Ask::Submit(ask)) if self.groups.contains_key(&ask.conversation) => {
                self.in_group(&name, &ask.conversation.clone(), |group, by| group.submit(by, ask))
            }
            Some(Ask::Submit(ask)) => self.submit(&name, ask, &mut out),
            Some(Ask::Ack(ask)) => {
                if let Some(group) = self.groups.get_mut(&ask.conversation) {
                    self.read.insert((name.clone(), ask.conversation.clone()), ask.seq);
                    let said = group.acknowledge(&name, &ask);
                    self.address(said, &mut out);
                    self.tell_groups(&mut out);
                } else {
                    self.acknowledge(&name, &ask, &mut out);
                }
                return out;
            }
            _ => Body::Done(v1::Done {}),
        };
        // The answer comes first, as the real server has it.
        out.insert(0, (connection, ServerFrame { request: frame.request, body: Some(answer) }));
        self.tell_groups(&mut out);
        out
    }

    /// The state of the group that was made last, as a device would fetch it.
    pub(super) fn group_state(&self) -> Option<v1::GroupState> {
        self.groups.iter().next_back().map(|(id, group)| group.state(id))
    }

    fn in_group(&mut self, name: &str, id: &Bytes, call: impl FnOnce(&mut Group, &By<'_>) -> Body) -> Body {
        let (Some(account), Some(group)) = (self.accounts.get(name), self.groups.get_mut(id)) else {
            return failure(v1::Code::NotAMember);
        };
        let (device, identity_key) = (account.device.clone(), account.identity_key.clone());
        call(group, &By { account: name, device, identity_key })
    }

    /// Sends members what they have not got yet.
    fn tell_groups(&mut self, out: &mut Vec<Addressed>) {
        let mut said = Vec::new();
        for (id, group) in &mut self.groups {
            let accounts = &self.accounts;
            said.extend(group.due(id, |name| {
                accounts.get(name).filter(|account| account.connection.is_some()).map(|a| a.device.clone())
            }));
        }
        self.address(said, out);
    }

    fn address(&self, said: Vec<ForAccount>, out: &mut Vec<Addressed>) {
        for (account, frame) in said {
            if let Some(connection) = self.accounts.get(&account).and_then(|account| account.connection) {
                out.push((connection, frame));
            }
        }
    }

    fn devices(&self, name: &str) -> Body {
        let own = self.accounts.get(name).map(|account| account.device.clone()).unwrap_or_default();
        let device = v1::DeviceInfo { device: own, name: "one".into(), connected: true, ..v1::DeviceInfo::default() };
        Body::Devices(v1::Devices { devices: vec![device] })
    }

    fn register(&mut self, ask: v1::Register) -> Body {
        let device = ask.device.unwrap_or_default().device;
        let token = Bytes::copy_from_slice(&[device.as_ref(), device.as_ref()].concat());
        let account = Account {
            identity_key: ask.identity_key,
            device: device.clone(),
            token: token.clone(),
            ..Account::default()
        };
        self.accounts.insert(ask.account.clone(), account);
        Body::Session(v1::Session { account: ask.account, device, token, ..v1::Session::default() })
    }

    fn resume(&mut self, connection: u64, ask: &v1::Resume, out: &mut Vec<Addressed>) -> Body {
        let found = self.accounts.iter_mut().find(|(_, account)| account.token == ask.token);
        let Some((name, account)) = found else { return failure(v1::Code::Unauthenticated) };
        account.connection = Some(connection);
        let session = v1::Session {
            account: name.clone(),
            device: account.device.clone(),
            key_packages_left: u32::try_from(account.one_time.len()).unwrap_or(u32::MAX),
            ..v1::Session::default()
        };
        let name = name.clone();
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.account.clone_from(&name);
        }
        for (id, group) in &mut self.groups {
            group.resume(&name, self.read.get(&(name.clone(), id.clone())).copied().unwrap_or_default());
        }
        let mine = self.conversations.iter().filter(|(_, c)| c.creator == name || c.peer == name);
        for (id, conversation) in mine {
            if conversation.peer == name && !conversation.is_joined {
                out.push((connection, self.joining(id, conversation)));
            }
            let after = conversation.cursors.get(&name).copied().unwrap_or(0);
            let entries = conversation.entries.iter().filter(|entry| entry.seq > after).cloned().collect();
            out.push((connection, deliver(id, entries, &session.device)));
        }
        Body::Session(session)
    }

    fn publish(&mut self, name: &str, ask: v1::PublishKeyPackages) -> Body {
        let Some(account) = self.accounts.get_mut(name) else { return failure(v1::Code::Unauthenticated) };
        account.one_time.extend(ask.one_time);
        if !ask.last_resort.is_empty() {
            account.last_resort = ask.last_resort;
        }
        Body::KeyPackageCount(v1::KeyPackageCount { one_time: u32::try_from(account.one_time.len()).unwrap_or(0) })
    }

    fn claim(&mut self, name: &str) -> Body {
        let Some(account) = self.accounts.get_mut(name) else { return failure(v1::Code::NotFound) };
        let key_package = account.one_time.pop_front().unwrap_or_else(|| account.last_resort.clone());
        if key_package.is_empty() {
            return failure(v1::Code::NoKeyPackages);
        }
        Body::KeyPackages(v1::KeyPackages {
            account: name.to_owned(),
            identity_key: account.identity_key.clone(),
            packages: vec![v1::KeyPackage { device: account.device.clone(), key_package }],
        })
    }

    fn create(&mut self, name: &str, ask: v1::CreateDirect, out: &mut Vec<Addressed>) -> Body {
        let conversation = Conversation {
            creator: name.to_owned(),
            peer: ask.peer.clone(),
            welcome: ask.welcomes.into_iter().next().unwrap_or_default(),
            ratchet_tree: ratchet_tree(&ask.conversation, &ask.group_info),
            is_joined: false,
            entries: Vec::new(),
            cursors: BTreeMap::new(),
        };
        if let Some(connection) = self.accounts.get(&ask.peer).and_then(|peer| peer.connection) {
            out.push((connection, self.joining(&ask.conversation, &conversation)));
        }
        self.conversations.insert(ask.conversation.clone(), conversation);
        Body::Direct(v1::Direct { conversation: ask.conversation, created: true, member: true })
    }

    fn submit(&mut self, name: &str, ask: v1::Submit, out: &mut Vec<Addressed>) -> Body {
        let Some(conversation) = self.conversations.get_mut(&ask.conversation) else {
            return failure(v1::Code::NotAMember);
        };
        let device = self.accounts.get(name).map(|account| account.device.clone()).unwrap_or_default();
        let mut seqs = Vec::new();
        for entry in ask.entries {
            let seq = conversation.entries.len() as u64 + 1;
            seqs.push(seq);
            conversation.entries.push(v1::Entry {
                seq,
                message_id: entry.message_id,
                sender: name.to_owned(),
                device: device.clone(),
                epoch: entry.epoch,
                kind: entry.kind,
                payload: entry.payload,
                server_time_ms: 1_700_000_000_000,
            });
        }
        let fresh = conversation.entries.iter().filter(|entry| seqs.contains(&entry.seq)).cloned().collect::<Vec<_>>();
        for member in [&conversation.creator, &conversation.peer] {
            let joined = *member == conversation.creator || conversation.is_joined;
            let Some(account) = self.accounts.get(member).filter(|_| joined) else { continue };
            if let Some(connection) = account.connection {
                out.push((connection, deliver(&ask.conversation, fresh.clone(), &account.device)));
            }
        }
        Body::Accepted(v1::Accepted { seqs, server_time_ms: 1_700_000_000_000 })
    }

    fn acknowledge(&mut self, name: &str, ask: &v1::Ack, out: &mut Vec<Addressed>) {
        let Some(conversation) = self.conversations.get_mut(&ask.conversation) else { return };
        let first = conversation.peer == name && !std::mem::replace(&mut conversation.is_joined, true);
        conversation.cursors.insert(name.to_owned(), ask.seq);
        let connection = |account: &str| self.accounts.get(account).and_then(|account| account.connection);
        if let Some(connection) = connection(conversation.other(name)) {
            let delivered =
                v1::Delivered { conversation: ask.conversation.clone(), account: name.to_owned(), seq: ask.seq };
            out.push((connection, ServerFrame { request: 0, body: Some(Body::Delivered(delivered)) }));
        }
        if let (true, Some(own), Some(account)) = (first, connection(name), self.accounts.get(name)) {
            out.push((own, deliver(&ask.conversation, conversation.entries.clone(), &account.device)));
        }
    }

    fn joining(&self, id: &Bytes, conversation: &Conversation) -> ServerFrame {
        let creator = self.accounts.get(&conversation.creator);
        let body = Body::Joining(v1::Joining {
            conversation: id.clone(),
            creator: conversation.creator.clone(),
            creator_identity_key: creator.map(|creator| creator.identity_key.clone()).unwrap_or_default(),
            welcome: Some(conversation.welcome.clone()),
            start_seq: 0,
            replaces: Bytes::new(),
            server_time_ms: 1_700_000_000_000,
            ratchet_tree: conversation.ratchet_tree.clone(),
            group: false,
            peer: conversation.peer.clone(),
        });
        ServerFrame { request: 0, body: Some(body) }
    }
}

pub(super) fn deliver(conversation: &Bytes, mut entries: Vec<v1::Entry>, to: &Bytes) -> ServerFrame {
    for entry in entries.iter_mut().filter(|entry| entry.device == *to) {
        entry.payload = Bytes::new();
    }
    let deliver = v1::Deliver { conversation: conversation.clone(), entries, expired_through: 0 };
    ServerFrame { request: 0, body: Some(Body::Deliver(deliver)) }
}

/// The tree of a conversation, as its maker has sent it; empty if it sent none.
fn ratchet_tree(conversation: &[u8], group_info: &[u8]) -> Bytes {
    let id = uuid::Uuid::from_slice(conversation).unwrap_or_default();
    let public = PublicConversation::open(id, group_info).and_then(|public| public.ratchet_tree());
    public.map_or_else(|_| Bytes::new(), Bytes::from)
}

fn failure(code: v1::Code) -> Body {
    Body::Failure(v1::Failure::new(code, "the made-up server says no"))
}

fn ready() -> v1::Ready {
    v1::Ready {
        version: fastchat_wire::VERSION,
        server: "made-up".into(),
        registration: v1::Registration::Open.into(),
        limits: Some(v1::Limits {
            frame_bytes: u32::try_from(FRAME_LIMIT).unwrap_or(u32::MAX),
            payload_bytes: 64 << 10,
            submit_entries: 64,
            window_entries: 256,
            ping_seconds: 120,
            handshake_bytes: 8 << 20,
        }),
        server_time_ms: 1_700_000_000_000,
    }
}
