//! The shell with a real store.

use bytes::Bytes;
use fastchat_store::{
    Accounts, AddDevice, Conversations, Devices, Kdf, NewAccount, NewDevice, NewDirect, NewLeaf, NewWelcome,
    SqliteStore, TokenHash,
};
use fastchat_wire::ConversationId;
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
    try_join_all((1..=CONVERSATIONS).map(|with| store.create_direct(direct(&devices, with)))).await.unwrap();
    // All of them are closed by a new device: each is told.
    let second = AddDevice {
        account: name(0),
        device: new_device(DeviceId::generate()),
        identity: None,
        grant: None,
        most: 2,
        now_ms: 2,
    };
    store.add_device(second).await.unwrap();
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
    let (_, mut frames) = hub.open(name(0), devices[0]).await.unwrap();
    let is_closed = |frame: &&v1::ServerFrame| matches!(frame.body, Some(v1::server_frame::Body::Closed(_)));
    let mut closed = 0;
    while closed < CONVERSATIONS {
        let outgoing = tokio::time::timeout(Duration::from_secs(20), frames.recv()).await.unwrap();
        let Some(Outgoing::Frames(batch)) = outgoing else { panic!("the session was ended after {closed}") };
        closed += batch.iter().filter(is_closed).count();
    }
    assert_eq!(closed, CONVERSATIONS);
}
