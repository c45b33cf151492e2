//! The shell with a real store.

use bytes::Bytes;
use fastchat_store::{
    Accounts, AddDevice, AppendHandshake, Conversations, CreateGroup, Devices, HandshakeAppended, Handshakes, Kdf,
    KeyPackages, Kind, NewAccount, NewCommit, NewDevice, NewDirect, NewEntry, NewGroup, NewLeaf, NewWelcome,
    SqliteStore, TokenHash,
};
use fastchat_wire::{ConversationId, MessageId, v1::server_frame::Body};
use futures_util::future::try_join_all;

use super::*;

const CONVERSATIONS: usize = 2_500;

fn name(number: usize) -> AccountName {
    format!("p{number}").parse().unwrap()
}

fn new_device(device: DeviceId) -> NewDevice {
    let mut token = [0; 32];
    token[..16].copy_from_slice(device.as_bytes());
    let (certificate, name) = (Bytes::from_static(b"certificate"), "laptop".to_owned());
    NewDevice { device, signature_key: [9; 32], certificate, name, token: TokenHash(token), token_expires_ms: 1 << 40 }
}

fn account(number: usize) -> NewAccount {
    NewAccount {
        name: name(number),
        kdf: Kdf { salt: Bytes::from_static(&[1; 16]), memory_kib: 8, iterations: 1, parallelism: 1 },
        auth_hash: "hash".to_owned(),
        identity_key: "identity".into(),
        identity_backup: "backup".into(),
    }
}

fn leaf(number: usize, device: DeviceId) -> NewLeaf {
    let (identity_key, certificate) = ("identity".into(), "certificate".into());
    let signature_key = Bytes::from_static(&[9; 32]);
    NewLeaf { account: name(number), device, signature_key, identity_key, certificate }
}

fn direct(devices: &[DeviceId], with: usize) -> NewDirect {
    NewDirect {
        conversation: ConversationId::generate(),
        creator: name(0),
        device: devices[0],
        peer: name(with),
        epoch: 1,
        leaves: vec![leaf(0, devices[0]), leaf(with, devices[with])],
        welcomes: vec![NewWelcome { device: devices[with], welcome: "w".into(), join_key: "k".into() }],
        state: Bytes::new(),
        group_info: Bytes::new(),
        ratchet_tree: Bytes::new(),
        replaces: None,
        now_ms: 1,
    }
}

#[tokio::test]
async fn a_session_with_thousands_of_conversations_begins() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let devices: Vec<DeviceId> = (0..=CONVERSATIONS).map(|_| DeviceId::generate()).collect();
    let made = devices.iter().enumerate();
    let made = made.map(|(number, device)| store.create_account(account(number), new_device(*device), None, 1));
    try_join_all(made).await.unwrap();
    let offer = |device: &DeviceId| store.publish_key_packages(*device, Vec::new(), Some("last".into()), 1, 1);
    try_join_all(devices.iter().map(offer)).await.unwrap();
    try_join_all((1..=CONVERSATIONS).map(|with| store.create_direct(direct(&devices, with)))).await.unwrap();
    // All of them are closed by a new device: each is told.
    let another = DeviceId::generate();
    let second =
        AddDevice { account: name(0), device: new_device(another), identity: None, grant: None, most: 2, now_ms: 2 };
    store.add_device(second).await.unwrap();
    offer(&another).await.unwrap();
    let is_closed = |body: &Body| matches!(body, Body::Closed(_));
    frames_at_the_beginning(store, devices[0], CONVERSATIONS, is_closed).await;
}

/// Opens a session of the first account and waits for so many frames of a kind.
async fn frames_at_the_beginning(
    store: SqliteStore,
    device: DeviceId,
    expected: usize,
    is_one: impl Fn(&Body) -> bool,
) {
    let settings = Settings {
        window_entries: 8,
        window_bytes: 1 << 16,
        session_bytes: 1 << 18,
        page_bytes: 1 << 16,
        appends: 8,
        joinings: 32,
        cursor_wait_ms: 1_000,
        seed: 1,
    };
    let hub = Hub::start(store, settings, None);
    let (_, mut frames) = hub.open(name(0), device).await.unwrap();
    let mut count = 0;
    while count < expected {
        let outgoing = tokio::time::timeout(Duration::from_secs(20), frames.recv()).await.unwrap();
        let Some(Outgoing::Frames(batch)) = outgoing else { panic!("the session was ended after {count}") };
        count += batch.iter().filter_map(|frame| frame.body.as_ref()).filter(|body| is_one(body)).count();
    }
    assert_eq!(count, expected);
}

/// A group of all of them, in two steps.
fn group(devices: &[DeviceId]) -> (NewGroup, AppendHandshake) {
    let conversation = ConversationId::generate();
    let (creator, none) = (leaf(0, devices[0]), Bytes::new());
    let made = NewGroup { conversation, creator, state: none.clone(), group_info: none.clone(), now_ms: 1 };
    let others = || devices.iter().enumerate().skip(1);
    let welcome =
        |(_, device): (_, &DeviceId)| NewWelcome { device: *device, welcome: "w".into(), join_key: "k".into() };
    let commit = NewCommit {
        added: others().map(|(number, device)| leaf(number, *device)).collect(),
        welcomes: others().map(welcome).collect(),
        joined: others().map(|(number, _)| name(number)).collect(),
        ..NewCommit::default()
    };
    let entry = NewEntry { message_id: MessageId::generate(), epoch: 0, kind: Kind::Commit, payload: "commit".into() };
    let (account, device, commit) = (name(0), devices[0], Some(commit));
    (made, AppendHandshake { conversation, account, device, entry, pending: 0, state: none, commit, now_ms: 1 })
}

#[tokio::test]
async fn a_session_with_many_groups_begins() {
    const GROUPS: usize = 110;
    const PEOPLE: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path()).unwrap();
    let devices: Vec<DeviceId> = (0..PEOPLE).map(|_| DeviceId::generate()).collect();
    for (number, device) in devices.iter().enumerate() {
        store.create_account(account(number), new_device(*device), None, 1).await.unwrap();
    }
    // What is written takes effect in the order of the calls.
    let groups = (0..GROUPS).map(|_| group(&devices));
    let (made, added): (Vec<_>, Vec<_>) =
        groups.map(|(group, commit)| (store.create_group(group), store.append_handshake(commit))).unzip();
    assert!(try_join_all(made).await.unwrap().iter().all(|made| matches!(made, CreateGroup::Created(_))));
    let is_accepted = |added: &HandshakeAppended| matches!(added, HandshakeAppended::Accepted { .. });
    assert!(try_join_all(added).await.unwrap().iter().all(is_accepted));
    // Each is told how far each other member of each group has come.
    let is_delivered = |body: &Body| matches!(body, Body::Delivered(_));
    frames_at_the_beginning(store, devices[0], GROUPS * (PEOPLE - 1), is_delivered).await;
}
