//! The object tree: what is there, what it tells, and when.
//!
//! **Invariant**: every wait here ends with a signal of the bus, or fails within a bound.

use std::{collections::HashMap, future::Future};

use fastchat_ipc::{BUS_NAME, EventKind, MessageState, ROOT_PATH, account_path, contact_path, conversation_path};
use fastchatd::bus;
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zbus::{
    MatchRule, Message, MessageStream,
    fdo::{ObjectManagerProxy, PropertiesProxy},
    message::Type,
    names::InterfaceName,
    zvariant::{OwnedObjectPath, OwnedValue},
};

use crate::{
    bus_parity::{Served, group_chat, serve, serve_group},
    engine::{ACCOUNT, Engine, SOON, account, chat, contact, group, message_received},
    private_bus::PrivateBus,
};

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it happens in time")
}

async fn objects(served: &Served) -> ObjectManagerProxy<'static> {
    let builder = ObjectManagerProxy::builder(&served.client).destination(BUS_NAME).unwrap();
    builder.path(ROOT_PATH).unwrap().build().await.unwrap()
}

/// The objects with an interface of ours; those in between are there for the path alone.
async fn managed(objects: &ObjectManagerProxy<'_>) -> Vec<String> {
    let managed = objects.get_managed_objects().await.unwrap();
    let ours = managed.iter().filter(|(_, interfaces)| interfaces.keys().any(|name| name.starts_with("org.fastchat.")));
    let mut paths: Vec<String> = ours.map(|(path, _)| path.to_string()).collect();
    paths.sort();
    paths
}

async fn properties(served: &Served, path: &str, interface: &str) -> HashMap<String, OwnedValue> {
    let builder = PropertiesProxy::builder(&served.client).destination(BUS_NAME).unwrap();
    let proxy = builder.path(path.to_owned()).unwrap().build().await.unwrap();
    let name = format!("org.fastchat.FastChat1.{interface}");
    proxy.get_all(InterfaceName::try_from(name).unwrap()).await.unwrap()
}

async fn signals(served: &Served, interface: &str) -> MessageStream {
    let rule = MatchRule::builder().msg_type(Type::Signal).interface(interface.to_owned()).unwrap().build();
    MessageStream::for_match_rule(rule, &served.client, Some(64)).await.unwrap()
}

/// The properties that a `PropertiesChanged` tells of.
fn changed(message: &Message) -> (String, HashMap<String, OwnedValue>) {
    let body = message.body();
    let (_, changed, _): (String, HashMap<String, OwnedValue>, Vec<String>) = body.deserialize().unwrap();
    (message.header().path().unwrap().to_string(), changed)
}

#[tokio::test]
async fn accounts_chats_and_contacts_are_objects_with_properties() {
    let served = serve().await;
    let paths = managed(&objects(&served).await).await;
    let expected = [account_path(ACCOUNT), contact_path(ACCOUNT, "bob"), conversation_path(ACCOUNT, "c1")];
    assert_eq!(paths, expected);
    let account = properties(&served, &account_path(ACCOUNT), "Account").await;
    assert_eq!(account["State"], OwnedValue::try_from(zbus::zvariant::Value::from("online")).unwrap());
    assert_eq!(account["UnreadDirect"], OwnedValue::from(1_u64));
    let chat = properties(&served, &conversation_path(ACCOUNT, "c1"), "Conversation").await;
    let path = OwnedObjectPath::try_from(chat["Contact"].clone()).unwrap();
    assert_eq!(path.as_str(), contact_path(ACCOUNT, "bob"));
    let daemon = properties(&served, ROOT_PATH, "Daemon").await;
    assert_eq!(
        Vec::<OwnedObjectPath>::try_from(daemon["Accounts"].clone()).unwrap()[0].as_str(),
        account_path(ACCOUNT)
    );
}

#[tokio::test]
async fn a_property_that_changed_is_announced_and_the_others_are_not() {
    let served = serve().await;
    let mut announced = signals(&served, "org.freedesktop.DBus.Properties").await;
    served.engine.answer("chats", Ok(json!({"chats": [chat("c1", 2)]})));
    served.engine.happen(EventKind::ChatRead { chat: "c1".into(), unread: 2 });
    let (path, now) = changed(&soon(announced.next()).await.unwrap().unwrap());
    assert_eq!(path, conversation_path(ACCOUNT, "c1"));
    assert_eq!((now.len(), &now["Unread"]), (1, &OwnedValue::from(2_u64)));
    assert_eq!(properties(&served, &path, "Conversation").await["Unread"], OwnedValue::from(2_u64));
    served.engine.happen(EventKind::Presence { contact: "bob".into(), active: true, since_ms: 77 });
    let (path, now) = changed(&soon(announced.next()).await.unwrap().unwrap());
    assert_eq!(path, contact_path(ACCOUNT, "bob"));
    assert_eq!((&now["Active"], &now["ActiveSince"]), (&OwnedValue::from(true), &OwnedValue::from(77_u64)));
}

#[tokio::test]
async fn every_property_that_can_be_read_can_be_announced() {
    let served = serve().await;
    let mut announced = signals(&served, "org.freedesktop.DBus.Properties").await;
    let (mut other_chat, mut other_contact, mut other_account) = (chat("c1", 8), contact("bob"), account());
    for (field, value) in
        [("title", "B".into()), ("muted", true.into()), ("request", true.into()), ("held", true.into())]
    {
        other_chat[field] = value;
    }
    other_chat["verified"] = json!(true);
    for (field, value) in [
        ("alias", json!("B")),
        ("state", json!("blocked")),
        ("fingerprint", json!("ef")),
        ("verified", json!(true)),
        ("key_changed", json!(true)),
        ("active", json!(true)),
        ("active_since_ms", json!(9)),
    ] {
        other_contact[field] = value;
    }
    for (field, value) in [("state", json!("offline")), ("reason", json!("no network")), ("outbox", json!(3))] {
        other_account[field] = value;
    }
    served.engine.answer("contact.list", Ok(json!({"contacts": [other_contact]})));
    served.engine.answer("chats", Ok(json!({"chats": [other_chat]})));
    served.engine.answer("unread", Ok(json!({"direct": 5, "group": 6, "requests": 7})));
    let status = json!({
        "version": "10", "pid": 1, "uptime_ms": 1, "locked": true, "key_store": "file", "bus": true, "cursor": "0",
        "accounts": [other_account],
    });
    served.engine.answer("daemon.status", Ok(status));
    served.engine.happen(EventKind::EventsLost {});
    // What names an object for as long as it is there cannot change.
    let fixed = |name: &&String| !["Address", "Id", "Kind", "Contact", "Name", "Accounts"].contains(&name.as_str());
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    for (path, interface) in [
        (account_path(ACCOUNT), "Account"),
        (contact_path(ACCOUNT, "bob"), "Contact"),
        (conversation_path(ACCOUNT, "c1"), "Conversation"),
        (ROOT_PATH.to_owned(), "Daemon"),
    ] {
        let all = properties(&served, &path, interface).await;
        let mut expected: Vec<String> = all.keys().filter(fixed).cloned().collect();
        expected.sort();
        while seen.get(&path).is_none_or(|names| names.len() < expected.len()) {
            let (path, now) = changed(&soon(announced.next()).await.unwrap().unwrap());
            seen.entry(path).or_default().extend(now.into_keys());
        }
        seen.values_mut().for_each(|names| names.sort());
        assert_eq!(seen[&path], expected, "{interface}");
    }
}

#[tokio::test]
async fn a_group_is_an_interface_on_its_chat_and_every_property_of_it_can_be_announced() {
    let served = serve_group().await;
    let path = conversation_path(ACCOUNT, "c2");
    let before = properties(&served, &path, "Group").await;
    assert_eq!(Vec::<String>::try_from(before["Members"].clone()).unwrap(), ["alice", "bob"]);
    assert_eq!(Vec::<String>::try_from(before["Admins"].clone()).unwrap(), ["alice"]);
    assert_eq!(before["Epoch"], OwnedValue::from(3_u64));
    let mut announced = signals(&served, "org.freedesktop.DBus.Properties").await;
    let mut of_account = signals(&served, "org.fastchat.FastChat1.Account").await;
    let mut other = group("c2", "lab");
    for (field, value) in [
        ("topic", json!("t")),
        ("members", json!([])),
        ("admin", json!(false)),
        ("state", json!("left")),
        ("epoch", json!(4)),
        ("authenticator", json!("cd")),
        ("pending", json!(["leaving"])),
        ("created_at_ms", json!(2)),
    ] {
        other[field] = value;
    }
    served.engine.answer("group.list", Ok(json!({"groups": [other]})));
    let cursor = served.engine.happen(EventKind::GroupChanged { group: "g-c2".into(), chat: "c2".into() });
    let signal = soon(of_account.next()).await.unwrap().unwrap();
    assert_eq!(signal.header().member().unwrap().as_str(), "GroupChanged");
    let (at, conversation): (String, OwnedObjectPath) = signal.body().deserialize().unwrap();
    assert_eq!((at, conversation.as_str()), (cursor, path.as_str()));
    let (of, now) = changed(&soon(announced.next()).await.unwrap().unwrap());
    let (mut names, mut expected): (Vec<String>, Vec<String>) =
        (now.into_keys().collect(), before.into_keys().filter(|name| name != "Id").collect());
    names.sort();
    expected.sort();
    assert_eq!((of, names), (path, expected));
}

#[tokio::test]
async fn a_group_comes_before_the_signal_that_names_it_and_goes_with_its_account() {
    let served = serve().await;
    let objects = objects(&served).await;
    let mut of_account = signals(&served, "org.fastchat.FastChat1.Account").await;
    served.engine.answer("chats", Ok(json!({"chats": [chat("c1", 1), group_chat("c2")]})));
    served.engine.answer("group.list", Ok(json!({"groups": [group("c2", "ops")]})));
    served.engine.happen(EventKind::GroupChanged { group: "g-c2".into(), chat: "c2".into() });
    soon(of_account.next()).await.unwrap().unwrap();
    let path = conversation_path(ACCOUNT, "c2");
    assert_eq!(String::try_from(properties(&served, &path, "Group").await["Name"].clone()).unwrap(), "ops");
    let mut removed = objects.receive_interfaces_removed().await.unwrap();
    let status = json!({
        "version": "9.9.9", "pid": 1, "uptime_ms": 1, "locked": false, "key_store": "file", "bus": true, "cursor": "0",
        "accounts": [],
    });
    served.engine.answer("daemon.status", Ok(status));
    served.engine.happen(EventKind::AccountChanged {});
    for _ in 0..5 {
        soon(removed.next()).await.unwrap();
    }
    assert!(managed(&objects).await.is_empty());
}

#[tokio::test]
async fn signals_of_devices_carry_ids_and_no_name() {
    let served = serve().await;
    let mut all = signals(&served, "org.fastchat.FastChat1.Daemon").await;
    let mut of_account = signals(&served, "org.fastchat.FastChat1.Account").await;
    served.engine.happen(EventKind::NewDevice { device: "d2".into(), name: "the secret text".into() });
    let event = soon(all.next()).await.unwrap().unwrap();
    let (_, _, kind, ids): (String, String, String, HashMap<String, OwnedValue>) = event.body().deserialize().unwrap();
    assert_eq!((kind.as_str(), ids.len(), ids.contains_key("device")), ("new_device", 1, true));
    let signal = soon(of_account.next()).await.unwrap().unwrap();
    let (_, device): (String, String) = signal.body().deserialize().unwrap();
    assert_eq!((signal.header().member().unwrap().as_str(), device.as_str()), ("NewDevice", "d2"));
    assert!(!event.data().bytes().windows(6).any(|window| window == b"secret"), "the name is in the signal");
    served.engine.happen(EventKind::DevicesChanged {});
    let signal = soon(of_account.next()).await.unwrap().unwrap();
    assert_eq!(signal.header().member().unwrap().as_str(), "DevicesChanged");
}

#[tokio::test]
async fn objects_come_and_go_with_what_they_stand_for() {
    let served = serve().await;
    let objects = objects(&served).await;
    let (mut added, mut removed) =
        (objects.receive_interfaces_added().await.unwrap(), objects.receive_interfaces_removed().await.unwrap());
    served.engine.answer("chats", Ok(json!({"chats": [chat("c2", 1)]})));
    served.engine.happen(EventKind::ChatChanged { chat: "c2".into() });
    let new = soon(added.next()).await.unwrap();
    assert_eq!(new.args().unwrap().object_path.as_str(), conversation_path(ACCOUNT, "c2"));
    let gone = soon(removed.next()).await.unwrap();
    assert_eq!(gone.args().unwrap().object_path.as_str(), conversation_path(ACCOUNT, "c1"));
    let status = json!({
        "version": "9.9.9", "pid": 1, "uptime_ms": 1, "locked": false, "key_store": "file", "bus": true, "cursor": "0",
        "accounts": [],
    });
    served.engine.answer("daemon.status", Ok(status));
    served.engine.happen(EventKind::AccountChanged {});
    for _ in 0..3 {
        soon(removed.next()).await.unwrap();
    }
    assert!(managed(&objects).await.is_empty());
}

#[tokio::test]
async fn signals_name_objects_that_are_there_and_hold_no_text() {
    let served = serve().await;
    let mut all = signals(&served, "org.fastchat.FastChat1.Daemon").await;
    let mut of_account = signals(&served, "org.fastchat.FastChat1.Account").await;
    served.engine.answer("chats", Ok(json!({"chats": [chat("c1", 1), chat("c9", 1)]})));
    let cursor = served.engine.happen(message_received("c9", "m5"));
    let event = soon(all.next()).await.unwrap().unwrap();
    let body = event.body();
    let (at, account, kind, ids): (String, String, String, HashMap<String, OwnedValue>) = body.deserialize().unwrap();
    assert_eq!((at, account.as_str(), kind.as_str()), (cursor, ACCOUNT, "message_received"));
    let mut names: Vec<&String> = ids.keys().collect();
    names.sort();
    assert_eq!(names, ["chat", "id", "request"]);
    let bytes = event.data().bytes().to_vec();
    assert!(!bytes.windows(6).any(|window| window == b"secret"), "the text is in the signal");
    let signal = soon(of_account.next()).await.unwrap().unwrap();
    let (_, conversation, id): (String, OwnedObjectPath, String) = signal.body().deserialize().unwrap();
    assert_eq!((conversation.as_str(), id.as_str()), (conversation_path(ACCOUNT, "c9").as_str(), "m5"));
    let chat = properties(&served, conversation.as_str(), "Conversation").await;
    assert_eq!(String::try_from(chat["Id"].clone()).unwrap(), "c9");
    served.engine.happen(EventKind::MessageState { chat: "c1".into(), id: "m1".into(), state: MessageState::Sent });
    let signal = soon(of_account.next()).await.unwrap().unwrap();
    assert_eq!(signal.header().member().unwrap().as_str(), "MessageStateChanged");
    let (_, _, _, state): (String, OwnedObjectPath, String, String) = signal.body().deserialize().unwrap();
    assert_eq!(state, "sent");
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_fought_for() {
    let bus = PrivateBus::start();
    let other = bus.connect().await;
    other.request_name(BUS_NAME).await.unwrap();
    let (engine, stop) = (Engine::start(), CancellationToken::new());
    let running = tokio::spawn(bus::run(engine.api.clone(), bus.address(), stop.clone()));
    assert!(!engine.surroundings.borrow().bus);
    stop.cancel();
    soon(running).await.unwrap();
    assert_eq!(other.unique_name().map(|name| name.to_string()), owner(&other).await);
}

async fn owner(client: &zbus::Connection) -> Option<String> {
    let proxy = zbus::fdo::DBusProxy::new(client).await.unwrap();
    proxy.get_name_owner(BUS_NAME.try_into().unwrap()).await.ok().map(|name| name.to_string())
}

#[tokio::test]
async fn the_daemon_outlives_its_bus() {
    let mut served = serve().await;
    served.bus.stop();
    served.engine.found(|found| !found.bus).await;
    assert!(served.engine.api.feed("").await.is_ok());
}
