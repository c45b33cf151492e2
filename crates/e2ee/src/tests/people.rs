//! People for the tests: an identity, a device, and a map that stands for the durable store.
//!
//! **Invariant**: a person's store changes only by the applied changes of a successful call.

use std::{cell::Cell, collections::BTreeMap, sync::OnceLock};

use fastchat_mls::PublicConversation;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Changes, Content, Created, Device, Identity, Join, JoinError, OpenError, Opened, PeerPackages, Roster, Sealed,
    StateStore, StoreError, Transaction,
};

pub(super) const ALICE: &str = "alice@chat.example:8887";
pub(super) const BOB: &str = "bob@chat.example:8887";
pub(super) const MALLORY: &str = "mallory@chat.example:8887";
pub(super) const CAROL: &str = "carol";
pub(super) const DAVE: &str = "dave";
/// What alice has after she rotated her identity.
pub(super) const ALICE_ROTATED: &str = "alice rotated";
pub(super) const CONVERSATION: Uuid = Uuid::from_u128(0xC0);

/// RSA keys are dear: these serve all tests.
pub(super) fn identity_of(account: &str) -> &'static Identity {
    const ACCOUNTS: [&str; 6] = [ALICE, BOB, MALLORY, CAROL, DAVE, ALICE_ROTATED];
    static IDENTITIES: [OnceLock<Identity>; 6] = [const { OnceLock::new() }; 6];
    let index = ACCOUNTS.iter().position(|name| *name == account).expect("one of those above");
    IDENTITIES[index].get_or_init(|| Identity::generate().unwrap())
}

/// The durable store of a device, which can be made to fail.
#[derive(Clone, Default)]
pub(super) struct Map {
    pub(super) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) broken: Cell<bool>,
}

impl StateStore for Map {
    fn read(&self, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        if self.broken.get() {
            return Err(StoreError::new("the disk is gone"));
        }
        Ok(self.rows.get(key).cloned().map(Zeroizing::new))
    }
}

impl Map {
    pub(super) fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.rows.insert(key, value.to_vec()),
                None => self.rows.remove(&key),
            };
        }
    }
}

/// A person with one device. Every call is a transaction of its own on what the map holds, as after a restart.
pub(super) struct Person {
    pub(super) account: &'static str,
    pub(super) identity: &'static Identity,
    pub(super) device: Device,
    pub(super) store: Map,
    /// How far the log was read.
    pub(super) cursor: usize,
}

impl Person {
    pub(super) fn new(account: &'static str) -> Self {
        Self::with_device(account, 1)
    }

    pub(super) fn with_device(account: &'static str, device: u128) -> Self {
        let identity = identity_of(account);
        let device = Device::issue(identity, account, Uuid::from_u128(device)).unwrap();
        Self { account, identity, device, store: Map::default(), cursor: 0 }
    }

    /// Runs a call; applies its changes if it succeeds, and asserts that there are none if it does not.
    pub(super) fn run<T, E>(
        &mut self,
        call: impl FnOnce(&mut Transaction<'_>, &Device) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut transaction = Transaction::new(&self.store);
        let result = call(&mut transaction, &self.device);
        let changes = transaction.into_changes();
        match &result {
            Ok(_) => self.store.apply(changes),
            Err(_) => assert!(changes.is_empty(), "a failed call changed something"),
        }
        result
    }

    pub(super) fn key_package(&mut self) -> Vec<u8> {
        self.run(|transaction, device| transaction.key_packages(device, 1)).unwrap().remove(0)
    }

    pub(super) fn create(&mut self, conversation: Uuid, peer: &mut Person) -> Created {
        let package = peer.key_package();
        let packages = [(peer.device.id(), package.as_slice())];
        let peer = PeerPackages { account: peer.account, identity: peer.identity.public(), packages: &packages };
        let identity = self.identity;
        self.run(|transaction, device| transaction.create_direct(identity, device, conversation, &peer, &[])).unwrap()
    }

    /// Joins a direct conversation with the Welcome for this device.
    pub(super) fn join(
        &mut self,
        conversation: Uuid,
        creator: &'static str,
        created: &Created,
    ) -> Result<Roster, JoinError> {
        let welcome = welcome_for(created, self);
        self.join_with(conversation, creator, &welcome.welcome, &welcome.join_key, &tree_of(conversation, created))
    }

    /// Joins a direct conversation with whatever there is.
    pub(super) fn join_with(
        &mut self,
        conversation: Uuid,
        creator: &'static str,
        welcome: &[u8],
        join_key: &[u8],
        ratchet_tree: &[u8],
    ) -> Result<Roster, JoinError> {
        let adder = (creator, identity_of(creator).public());
        let identity = self.identity;
        let join = Join { adder, welcome, join_key, ratchet_tree, group: false };
        self.run(|transaction, device| transaction.join(identity, device, conversation, &join))
    }

    pub(super) fn seal(&mut self, message_id: Uuid, text: &str) -> Sealed {
        let content = Content::text(1_700_000_000_000, 1, text);
        self.run(|transaction, device| transaction.seal(device, CONVERSATION, message_id, &content)).unwrap()
    }

    pub(super) fn open(&mut self, message_id: Uuid, payload: &[u8]) -> Result<Opened, OpenError> {
        self.run(|transaction, _| transaction.open(CONVERSATION, message_id, payload))
    }
}

/// The Welcome for a person's device.
pub(super) fn welcome_for<'a>(created: &'a Created, person: &Person) -> &'a crate::WelcomeFor {
    created.welcomes.iter().find(|welcome| welcome.device == person.device.id()).unwrap_or(&created.welcomes[0])
}

/// The tree that the server takes from a new conversation.
pub(super) fn tree_of(conversation: Uuid, created: &Created) -> Vec<u8> {
    PublicConversation::open(conversation, &created.group_info).unwrap().ratchet_tree().unwrap()
}

/// Alice has made [`CONVERSATION`] and bob has joined it.
pub(super) fn friends() -> (Person, Person) {
    let (mut alice, mut bob) = (Person::new(ALICE), Person::new(BOB));
    let created = alice.create(CONVERSATION, &mut bob);
    bob.join(CONVERSATION, ALICE, &created).unwrap();
    (alice, bob)
}

/// Message ids 1, 2, 3 …
pub(super) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// The text of an opened message.
pub(super) fn text(opened: &Opened) -> &str {
    match &opened.content.body {
        Some(crate::Body::Text(text)) => &text.text,
        other => panic!("no text: {other:?}"),
    }
}
