//! What every backend must do, as a test suite: `run(&store)` on an empty store.
//!
//! **Invariant**: the suite uses the traits alone, so that it says the same of every backend.

mod access;
mod conversations;
mod devices;
mod groups;
mod links;
mod log;

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId};

use crate::{
    AddDevice, Append, Appended, CreateAccount, CreateDirect, DeviceAdded, Entry, Kdf, Kind, NewAccount, NewDevice,
    NewDirect, NewEntry, NewLeaf, NewWelcome, PageBounds, Store, StoreError, TokenHash,
};

/// A wide page.
const WIDE: PageBounds = PageBounds { entries: 1_000, bytes: 1 << 20 };

/// Runs the whole suite on an empty store. Panics where the store is wrong.
///
/// # Errors
/// A call failed that must not.
pub async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    access::run(store).await?;
    devices::run(store).await?;
    links::run(store).await?;
    conversations::run(store).await?;
    groups::run(store).await?;
    log::run(store).await
}

/// An account with a device, under a name that no other check uses.
struct Person {
    name: AccountName,
    device: DeviceId,
}

fn name(text: &str) -> AccountName {
    match text.parse() {
        Ok(name) => name,
        Err(error) => unreachable!("{text}: {error}"),
    }
}

fn token(device: DeviceId, number: u8) -> TokenHash {
    let mut hash = [number; 32];
    hash[..16].copy_from_slice(device.as_bytes());
    TokenHash(hash)
}

fn account_of(text: &str) -> NewAccount {
    NewAccount {
        name: name(text),
        kdf: Kdf { salt: Bytes::from_static(&[1; 16]), memory_kib: 65_536, iterations: 3, parallelism: 1 },
        auth_hash: format!("hash of {text}"),
        identity_key: format!("key of {text}").into(),
        identity_backup: format!("backup of {text}").into(),
    }
}

fn device_of(device: DeviceId) -> NewDevice {
    NewDevice {
        device,
        signature_key: [9; 32],
        certificate: "certificate".into(),
        name: "laptop".into(),
        token: token(device, 0),
        token_expires_ms: 1_000_000,
    }
}

async fn person<S: Store>(store: &S, text: &str) -> Result<Person, StoreError> {
    let device = DeviceId::generate();
    let made = store.create_account(account_of(text), device_of(device), None, 1).await?;
    assert_eq!(made, CreateAccount::Created);
    let person = Person { name: name(text), device };
    offer(store, &person, 1).await?;
    Ok(person)
}

/// Publishes a key package of last resort: others can write to the device from now on. Answers what that closes.
async fn offer<S: Store>(store: &S, person: &Person, now_ms: u64) -> Result<Option<Vec<ConversationId>>, StoreError> {
    let published = store.publish_key_packages(person.device, Vec::new(), Some("last".into()), 10, now_ms).await?;
    let change = published.and_then(|published| published.change);
    assert!(change.iter().all(|change| change.account == person.name && change.removed.is_empty()), "{change:?}");
    Ok(change.map(|change| change.closed))
}

/// Another device of the account.
async fn log_in<S: Store>(store: &S, account: &Person) -> Result<Person, StoreError> {
    let device = DeviceId::generate();
    let added = store.add_device(login(&account.name, device)).await?;
    assert!(matches!(added, DeviceAdded::Done(_)), "{added:?}");
    let person = Person { name: account.name.clone(), device };
    offer(store, &person, 2).await?;
    Ok(person)
}

fn login(account: &AccountName, device: DeviceId) -> AddDevice {
    let (account, device) = (account.clone(), device_of(device));
    AddDevice { account, device, identity: None, grant: None, most: 4, now_ms: 2 }
}

/// As the store knows it.
fn leaf(person: &Person) -> NewLeaf {
    NewLeaf {
        account: person.name.clone(),
        device: person.device,
        signature_key: Bytes::from_static(&[9; 32]),
        identity_key: format!("key of {}", person.name).into(),
        certificate: "certificate".into(),
    }
}

fn welcome(person: &Person) -> NewWelcome {
    NewWelcome { device: person.device, welcome: "welcome".into(), join_key: "join key".into() }
}

fn direct(creator: &Person, peer: &Person) -> NewDirect {
    direct_of(creator, peer, &[peer])
}

/// With these other devices.
fn direct_of(creator: &Person, peer: &Person, others: &[&Person]) -> NewDirect {
    NewDirect {
        conversation: ConversationId::generate(),
        creator: creator.name.clone(),
        device: creator.device,
        peer: peer.name.clone(),
        epoch: 1,
        leaves: [creator].iter().chain(others).map(|person| leaf(person)).collect(),
        welcomes: others.iter().map(|person| welcome(person)).collect(),
        state: "state".into(),
        group_info: "group info".into(),
        ratchet_tree: "tree".into(),
        replaces: None,
        now_ms: 5,
    }
}

async fn talk<S: Store>(store: &S, creator: &Person, peer: &Person) -> Result<ConversationId, StoreError> {
    let direct = direct(creator, peer);
    let conversation = direct.conversation;
    let made = store.create_direct(direct).await?;
    assert!(matches!(made, CreateDirect::Created { .. }), "{made:?}");
    Ok(conversation)
}

fn entry(payload: &str) -> NewEntry {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    NewEntry { message_id: MessageId::generate(), epoch: 1, kind: Kind::Application, payload }
}

fn append(conversation: ConversationId, sender: &Person, entries: Vec<NewEntry>, now_ms: u64) -> Append {
    Append { conversation, account: sender.name.clone(), device: sender.device, entries, now_ms }
}

fn seqs(appended: &Appended) -> &[u64] {
    match appended {
        Appended::Accepted { seqs, .. } => seqs,
        _ => &[],
    }
}

async fn payloads<S: Store>(
    store: &S,
    conversation: ConversationId,
    reader: &Person,
    after: u64,
) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let page = store.read_after(conversation, reader.device, after, WIDE).await?;
    Ok(page.entries.into_iter().map(|Entry { seq, payload, .. }| (seq, payload)).collect())
}
