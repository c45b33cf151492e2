//! A model of the server: accounts, devices, key packages, sessions. It does what the wire schema promises, one frame at
//! a time, and nothing else.
//!
//! **Invariant**: everything it says follows from the frames that it took and its seed; ids decide nothing.

mod deliver;
mod direct;
mod group;
mod shown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use fastchat_e2ee::Device;
use fastchat_wire::{ConversationId, DeviceId, v1};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use v1::{client_frame::Body as Ask, server_frame::Body as Said};

/// One-time key packages that are kept for friends: few, so that packages of last resort get used.
const FOR_FRIENDS: usize = 3;
/// One-time key packages that are kept of a device.
const KEPT: usize = 200;

/// A defect of the server that the check has to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Every third message is left out of what one device gets.
    Withholds,
    /// Every third message is put into the log a second time, under another id.
    Doubles,
    /// Devices that were removed get what comes after.
    KeepsTheRemoved,
    /// The answer to a Submit is given without the entries being there.
    Forgets,
}

pub(super) struct Server {
    pub(super) now: u64,
    pub(super) random: StdRng,
    pub(super) accounts: Vec<Account>,
    /// By the number of the daemon that is this device.
    pub(super) devices: Vec<Registered>,
    /// In the order in which they were made.
    pub(super) conversations: Vec<Conversation>,
    /// What it says, in order, and to which device.
    pub(super) out: Vec<(usize, v1::ServerFrame)>,
    /// Entries that it sends ahead of the Ack.
    pub(super) window: u64,
    /// Nobody may append.
    pub(super) refuses: bool,
    pub(super) bug: Option<Bug>,
}

pub(super) struct Account {
    pub(super) name: String,
    pub(super) identity: Bytes,
}

pub(super) struct Registered {
    pub(super) id: DeviceId,
    pub(super) account: usize,
    pub(super) gone: bool,
    name: String,
    added_ms: u64,
    signature_key: Bytes,
    certificate: Bytes,
    one_time: VecDeque<Bytes>,
    last_resort: Option<Bytes>,
    session: Option<Session>,
}

/// What a connected device was told.
#[derive(Default)]
struct Session {
    follows: BTreeMap<usize, Follows>,
    unjoined: BTreeSet<usize>,
}

struct Follows {
    sent: u64,
    closed: bool,
}

pub(super) struct Conversation {
    pub(super) id: ConversationId,
    pub(super) group: bool,
    /// The two accounts of a direct conversation, the lower number first.
    pair: (usize, usize),
    creator: usize,
    /// The public state, as bytes; that of the last epoch when nothing goes in any more.
    pub(super) state: Vec<u8>,
    pub(super) epoch: u64,
    group_info: Bytes,
    pub(super) log: Vec<Record>,
    pub(super) expired_through: u64,
    /// Ids up to here are forgotten.
    trimmed: u64,
    pub(super) members: BTreeMap<usize, Member>,
    /// The accounts that are in a group.
    pub(super) roster: BTreeSet<usize>,
    pub(super) abandoned: bool,
    closed_by: Option<usize>,
    /// Which device was a member when: for the check alone.
    pub(super) spans: Vec<Span>,
    /// Devices that came too late for what retention took.
    pub(super) missed: BTreeSet<usize>,
}

pub(super) struct Record {
    pub(super) entry: v1::Entry,
    pub(super) by: usize,
}

#[derive(Clone)]
pub(super) struct Member {
    cursor: u64,
    pub(super) ends_at: Option<u64>,
    joining: Option<v1::Joining>,
}

/// A device gets what comes after `after`, up to `through`.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) device: usize,
    pub(super) after: u64,
    pub(super) through: Option<u64>,
    /// The seq of the commit that took its leaf out.
    pub(super) removed_at: Option<u64>,
    /// It ended by the device's own coming back.
    pub(super) rejoined: bool,
}

pub(super) fn failure(code: v1::Code, text: &str) -> Said {
    Said::Failure(v1::Failure::new(code, text))
}

impl Server {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5EED);
        let window = random.random_range(2..64);
        Self {
            now: 0,
            random,
            accounts: Vec::new(),
            devices: Vec::new(),
            conversations: Vec::new(),
            out: Vec::new(),
            window,
            refuses: false,
            bug: None,
        }
    }

    pub(super) fn register(&mut self, name: &str, identity: &[u8]) -> usize {
        self.accounts.push(Account { name: name.into(), identity: Bytes::copy_from_slice(identity) });
        self.accounts.len() - 1
    }

    /// A device logs in: the account's direct conversations close.
    pub(super) fn add_device(&mut self, account: usize, device: &Device) -> usize {
        let closed = self.close_directs(account);
        let number = self.devices.len();
        self.devices.push(Registered {
            id: DeviceId(device.id()),
            account,
            gone: false,
            name: format!("device {number}"),
            added_ms: self.now,
            signature_key: Bytes::copy_from_slice(device.signature_key()),
            certificate: Bytes::copy_from_slice(device.certificate()),
            one_time: VecDeque::new(),
            last_resort: None,
            session: None,
        });
        self.devices_changed(account, &closed, number);
        number
    }

    fn devices_changed(&mut self, account: usize, closed: &[usize], by: usize) {
        for conversation in closed {
            for device in self.followers(*conversation) {
                self.tell_closed(device, *conversation);
            }
        }
        for device in self.devices_of(account) {
            if device != by {
                self.say(device, Said::DevicesChanged(v1::DevicesChanged {}));
            }
        }
    }

    fn revoke(&mut self, by: usize, ask: &v1::RevokeDevice) -> Said {
        let account = self.devices[by].account;
        let found =
            self.devices_of(account).into_iter().find(|device| self.devices[*device].id.to_wire() == ask.device);
        let Some(device) = found.filter(|device| *device != by) else {
            return failure(v1::Code::NotFound, "no such device");
        };
        self.remove(device, by);
        Said::Done(v1::Done {})
    }

    /// A device goes, and with it its places in conversations; its leaves stay until somebody commits them out.
    pub(super) fn remove(&mut self, device: usize, by: usize) {
        let account = self.devices[device].account;
        let closed = self.close_directs(account);
        self.say(device, failure(v1::Code::Unauthenticated, "this device is no longer logged in: log in again"));
        let registered = &mut self.devices[device];
        (registered.gone, registered.session) = (true, None);
        for conversation in &mut self.conversations {
            let head = conversation.log.len() as u64;
            conversation.members.remove(&device);
            for span in conversation.spans.iter_mut().filter(|span| span.device == device) {
                span.through.get_or_insert(head);
            }
        }
        self.devices_changed(account, &closed, by);
    }

    /// The devices of an account that are there.
    pub(super) fn devices_of(&self, account: usize) -> Vec<usize> {
        let of = |device: &usize| self.devices[*device].account == account && !self.devices[*device].gone;
        (0..self.devices.len()).filter(of).collect()
    }

    fn account_named(&self, name: &str) -> Option<usize> {
        self.accounts.iter().position(|account| account.name == name)
    }

    pub(super) fn say(&mut self, device: usize, body: Said) {
        if self.devices[device].session.is_some() {
            self.out.push((device, v1::ServerFrame { request: 0, body: Some(body) }));
        }
    }

    pub(super) fn packages_left(&self, device: usize) -> u32 {
        u32::try_from(self.devices[device].one_time.len()).unwrap()
    }

    pub(super) fn end_session(&mut self, device: usize) {
        self.devices[device].session = None;
    }

    /// One frame of a device.
    pub(super) fn take(&mut self, from: usize, frame: v1::ClientFrame) {
        let Some(body) = frame.body else { return };
        if self.devices[from].gone {
            return;
        }
        let mark = self.out.len();
        // A handshake's answer comes before what follows from it; other answers may come later.
        let mut at_once = matches!(body, Ask::Handshake(_));
        let answer = match body {
            Ask::PublishKeyPackages(publish) => self.publish(from, publish),
            Ask::GetAccount(get) => self.account_info(get.account),
            Ask::ClaimKeyPackages(claim) => self.claim(from, &claim.account),
            Ask::CreateDirect(create) => self.create_direct(from, create),
            Ask::CreateGroup(create) => self.create_group(from, &create),
            Ask::Handshake(handshake) => self.handshake(from, handshake),
            Ask::FetchGroup(fetch) => self.fetch_group(from, &fetch),
            Ask::ListDevices(_) => self.list_devices(from),
            Ask::RevokeDevice(revoke) => self.revoke(from, &revoke),
            Ask::Submit(submit) => self.submit(from, submit),
            Ask::Ack(ack) => return self.acked(from, &ack),
            _ => Said::Done(v1::Done {}),
        };
        at_once |= self.random.random::<bool>();
        let at = if at_once { mark } else { self.out.len() };
        self.out.insert(at, (from, v1::ServerFrame { request: frame.request, body: Some(answer) }));
    }

    fn publish(&mut self, from: usize, publish: v1::PublishKeyPackages) -> Said {
        let device = &mut self.devices[from];
        device.one_time.extend(publish.one_time);
        while device.one_time.len() > KEPT {
            device.one_time.pop_front();
        }
        if !publish.last_resort.is_empty() {
            device.last_resort = Some(publish.last_resort);
        }
        Said::KeyPackageCount(v1::KeyPackageCount { one_time: self.packages_left(from) })
    }

    fn account_info(&self, account: String) -> Said {
        match self.account_named(&account) {
            Some(number) => {
                let identity_key = self.accounts[number].identity.clone();
                Said::AccountInfo(v1::AccountInfo { account, identity_key })
            }
            None => failure(v1::Code::NotFound, "no such account"),
        }
    }

    fn claim(&mut self, from: usize, name: &str) -> Said {
        let Some(account) = self.account_named(name) else { return failure(v1::Code::NotFound, "no such account") };
        let own = self.devices[from].account == account;
        let reserve = if own || self.are_acquainted(self.devices[from].account, account) { 0 } else { FOR_FRIENDS };
        let devices: Vec<usize> = self.devices_of(account).into_iter().filter(|device| *device != from).collect();
        let ready = |device: &usize| {
            let device = &self.devices[*device];
            device.one_time.len() > reserve || device.last_resort.is_some()
        };
        if !devices.iter().all(ready) || (devices.is_empty() && !own) {
            return failure(v1::Code::NoKeyPackages, "a device is not ready for a conversation");
        }
        let mut packages = Vec::new();
        for number in devices {
            let device = &mut self.devices[number];
            let one_time = if device.one_time.len() > reserve { device.one_time.pop_front() } else { None };
            let Some(key_package) = one_time.or_else(|| device.last_resort.clone()) else { continue };
            packages.push(v1::KeyPackage { device: device.id.to_wire(), key_package });
        }
        let identity_key = self.accounts[account].identity.clone();
        Said::KeyPackages(v1::KeyPackages { account: name.into(), identity_key, packages })
    }

    fn are_acquainted(&self, one: usize, other: usize) -> bool {
        let pair = (one.min(other), one.max(other));
        self.conversations.iter().any(|conversation| match conversation.group {
            true => conversation.roster.contains(&one) && conversation.roster.contains(&other),
            false => conversation.pair == pair,
        })
    }

    fn list_devices(&self, from: usize) -> Said {
        let info = |number: usize| {
            let device = &self.devices[number];
            v1::DeviceInfo {
                device: device.id.to_wire(),
                name: device.name.clone(),
                added_ms: device.added_ms,
                seen_ms: 0,
                connected: device.session.is_some(),
                certificate: device.certificate.clone(),
            }
        };
        let devices = self.devices_of(self.devices[from].account).into_iter().map(info).collect();
        Said::Devices(v1::Devices { devices })
    }

    /// Whether a leaf is what is known of a device that is there.
    fn is_leaf(&self, leaf: &fastchat_mls::Leaf) -> bool {
        self.devices.iter().any(|device| {
            !device.gone
                && device.id.0 == leaf.device
                && self.accounts[device.account].name == leaf.account
                && self.accounts[device.account].identity == leaf.identity
                && device.signature_key == leaf.signature_key
                && device.certificate == leaf.certificate
        })
    }

    fn number_of(&self, device: uuid::Uuid) -> Option<usize> {
        self.devices.iter().position(|known| known.id.0 == device)
    }

    pub(super) fn find(&self, id: &Bytes) -> Option<usize> {
        self.conversations.iter().position(|conversation| conversation.id.to_wire() == *id)
    }
}
