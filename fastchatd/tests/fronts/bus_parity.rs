//! Both transports have the same methods, and do the same.
//!
//! **Invariant**: a method that is added to one side only turns a test here red.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fastchat_ipc::{
    ApiError, BUS_NAME, ErrorCode, METHODS, ROOT_PATH, Request, account_path, contact_path, conversation_path,
};
use fastchatd::bus;
use serde_json::{Value as Json, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use zbus::{
    Connection, Message,
    zvariant::{OwnedValue, StructureBuilder, Value},
};

use crate::{
    engine::{ACCOUNT, Engine, chat, group},
    private_bus::PrivateBus,
};

const INTERFACES: &str = "org.fastchat.FastChat1.";

pub(crate) struct Served {
    pub(crate) bus: PrivateBus,
    pub(crate) engine: Engine,
    pub(crate) client: Connection,
    _stop: DropGuard,
}

pub(crate) async fn serve() -> Served {
    serve_engine(Engine::start()).await
}

/// With a group beside the direct chat.
pub(crate) async fn serve_group() -> Served {
    let engine = Engine::start();
    engine.answer("chats", Ok(json!({"chats": [chat("c1", 1), group_chat("c2")]})));
    engine.answer("group.list", Ok(json!({"groups": [group("c2", "ops")]})));
    serve_engine(engine).await
}

pub(crate) fn group_chat(id: &str) -> Json {
    let mut chat = chat(id, 0);
    (chat["kind"], chat["group"], chat["title"], chat["contact"]) =
        (json!("group"), json!("active"), json!("ops"), json!(""));
    chat
}

async fn serve_engine(mut engine: Engine) -> Served {
    let (bus, stop) = (PrivateBus::start(), CancellationToken::new());
    tokio::spawn(bus::run(engine.api.clone(), bus.address(), stop.clone()));
    engine.found(|found| found.bus).await;
    let client = bus.connect().await;
    Served { bus, engine, client, _stop: stop.drop_guard() }
}

/// The object that has an interface.
fn path_of(interface: &str) -> String {
    match interface {
        "Account" => account_path(ACCOUNT),
        "Conversation" => conversation_path(ACCOUNT, "c1"),
        "Group" => conversation_path(ACCOUNT, "c2"),
        "Contact" => contact_path(ACCOUNT, "bob"),
        _ => ROOT_PATH.to_owned(),
    }
}

/// Attribute `name` of an XML tag.
fn attribute<'a>(tag: &'a str, name: &str) -> &'a str {
    let rest = tag.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default()
}

/// Our methods on an object: `Interface.Member` with its arguments as `direction name:type`.
async fn introspect(client: &Connection, path: &str) -> BTreeMap<String, Vec<String>> {
    let interface = "org.freedesktop.DBus.Introspectable";
    let answer = client.call_method(Some(BUS_NAME), path, Some(interface), "Introspect", &()).await.unwrap();
    let xml: String = answer.body().deserialize().unwrap();
    let (mut interface, mut member, mut methods) = (String::new(), None, BTreeMap::new());
    for tag in xml.split('<') {
        match tag.split_whitespace().next().unwrap_or_default() {
            "interface" => interface = attribute(tag, "name").to_owned(),
            "method" => {
                let name = interface.strip_prefix(INTERFACES);
                member = name.map(|name| format!("{name}.{}", attribute(tag, "name")));
                member.iter().for_each(|member| drop(methods.insert(member.clone(), Vec::new())));
            }
            "signal" => member = None,
            "arg" => {
                if let Some(arguments) = member.as_ref().and_then(|member| methods.get_mut(member)) {
                    let (direction, name) = (attribute(tag, "direction"), attribute(tag, "name"));
                    arguments.push(format!("{direction} {name}:{}", attribute(tag, "type")));
                }
            }
            _ => {}
        }
    }
    methods
}

#[tokio::test]
async fn every_method_is_on_the_bus_and_nothing_else_is() {
    let served = serve_group().await;
    let mut found = BTreeMap::new();
    for interface in ["Daemon", "Account", "Conversation", "Group", "Contact"] {
        found.extend(introspect(&served.client, &path_of(interface)).await);
    }
    let names: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = METHODS.iter().map(|method| method.dbus).collect();
    assert_eq!(names, listed);
    for (name, arguments) in found {
        let out: Vec<&String> = arguments.iter().filter(|argument| argument.starts_with("out ")).collect();
        assert_eq!(out, ["out :a{sv}"], "{name}");
        let last_in = arguments.iter().rfind(|argument| argument.starts_with("in "));
        assert_eq!(last_in.map(String::as_str), Some("in options:a{sv}"), "{name}");
    }
}

/// A call on the bus, and the parameters of the same call on the socket.
struct Sample {
    arguments: Vec<Value<'static>>,
    options: Json,
    params: Json,
}

/// A sample for each method; what the object's path gives is added to the parameters.
fn sample(dbus: &str) -> Sample {
    let s = |text: &'static str| Value::from(text);
    let (arguments, given, options) = match dbus {
        "Daemon.Unlock" => (vec![], json!({}), json!({"passphrase": "p"})),
        "Daemon.Register" | "Daemon.Login" => (
            vec![s("bob@h:1"), s("secret")],
            json!({"address": "bob@h:1", "password": "secret"}),
            json!({"accept_new": true, "pin": "sha256:00", "key_store": "file"}),
        ),
        "Daemon.BeginLink" => (
            vec![s("h:1")],
            json!({"address": "h:1"}),
            json!({"device_name": "tablet", "pin": "sha256:00", "accept_new": true, "key_store": "file", "passphrase": "p"}),
        ),
        "Daemon.AwaitLink" => (vec![s("l1")], json!({"link": "l1"}), json!({"timeout_ms": 9})),
        "Daemon.FinishLink" | "Account.ConfirmDeviceLink" => {
            (vec![s("l1"), Value::from(true)], json!({"link": "l1", "accept": true}), json!({}))
        }
        "Daemon.VerifyBackup" | "Account.CreateBackup" | "Account.RestoreBackup" => {
            (vec![s("/x/b"), s("secret")], json!({"path": "/x/b", "passphrase": "secret"}), json!({}))
        }
        "Account.ChangePassword" => {
            (vec![s("a"), s("b")], json!({"old": "a", "new": "b"}), json!({"end_other_devices": true}))
        }
        "Account.RenameDevice" => (vec![s("d1"), s("x")], json!({"device": "d1", "name": "x"}), json!({})),
        "Account.RevokeDevice" => (vec![s("d1")], json!({"device": "d1"}), json!({})),
        "Account.LinkDevice" => (vec![s("code")], json!({"code": "code"}), json!({})),
        "Account.RotateKey" => (vec![s("secret")], json!({"password": "secret"}), json!({})),
        "Account.CreateGroup" => (
            vec![s("ops"), Value::from(vec!["bob", "eve"])],
            json!({"name": "ops", "members": ["bob", "eve"]}),
            json!({"topic": "t"}),
        ),
        "Group.Rename" => (vec![s("lab")], json!({"name": "lab"}), json!({})),
        "Group.SetTopic" => (vec![s("t")], json!({"topic": "t"}), json!({})),
        "Group.Add" | "Group.Remove" | "Group.Promote" | "Group.Demote" => {
            (vec![Value::from(vec!["bob", "eve"])], json!({"members": ["bob", "eve"]}), json!({}))
        }
        "Contact.TrustKey" => (vec![], json!({}), json!({"safety_number": "12345"})),
        "Daemon.Subscribe" => (vec![], json!({}), json!({"since": "0"})),
        "Daemon.ReadEvents" => (vec![], json!({}), json!({"since": "7", "limit": 3, "wait_ms": 4})),
        "Account.Logout" => (vec![], json!({}), json!({"force": true})),
        "Account.Send" => (
            vec![Value::from(vec!["bob", "eve"]), s("hi")],
            json!({"to": ["bob", "eve"], "text": "hi"}),
            json!({"wait": "sent", "timeout_ms": 9, "idempotency_key": "k"}),
        ),
        "Account.AddContact" => (vec![s("eve")], json!({"contact": "eve"}), json!({})),
        "Account.ShowKey" => (vec![], json!({}), json!({"contact": "bob"})),
        "Account.RetryOutbox" | "Account.CancelOutbox" => (vec![], json!({}), json!({"id": "m1"})),
        "Conversation.History" => (vec![], json!({}), json!({"limit": 5, "before": 70})),
        "Conversation.MarkRead" => (vec![], json!({}), json!({"up_to": 12})),
        "Contact.SetAlias" => (vec![s("Bobby")], json!({"alias": "Bobby"}), json!({})),
        "Contact.VerifyKey" => (vec![], json!({}), json!({"safety_number": "12345"})),
        "Notifications.SetDoNotDisturb" => (vec![Value::from(true)], json!({"on": true}), json!({"for_ms": 60})),
        "Notifications.SetPreview" => (vec![s("sender")], json!({"preview": "sender"}), json!({})),
        _ => (vec![], json!({}), json!({})),
    };
    let mut params = match dbus.split('.').next() {
        Some("Account") => json!({"account": ACCOUNT}),
        Some("Conversation") => json!({"account": ACCOUNT, "chat": "c1"}),
        Some("Group") => json!({"account": ACCOUNT, "group": "g-c2"}),
        Some("Contact") => json!({"account": ACCOUNT, "contact": "bob"}),
        _ => json!({}),
    };
    for more in [given, options.clone()] {
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    Sample { arguments, options, params }
}

fn option_value(value: &Json) -> Value<'static> {
    match value {
        Json::Bool(value) => (*value).into(),
        // A client takes whichever integer type is at hand.
        Json::Number(number) => i32::try_from(number.as_i64().unwrap()).unwrap().into(),
        Json::String(text) => text.clone().into(),
        other => panic!("{other} is in no sample"),
    }
}

pub(crate) async fn call(
    client: &Connection,
    dbus: &str,
    arguments: Vec<Value<'_>>,
    options: &Json,
) -> zbus::Result<Message> {
    let (interface, member) = dbus.split_once('.').unwrap();
    let options: HashMap<String, Value<'_>> =
        options.as_object().unwrap().iter().map(|(name, value)| (name.clone(), option_value(value))).collect();
    let mut body = StructureBuilder::new();
    for argument in arguments {
        body = body.append_field(argument);
    }
    let body = body.add_field(options).build().unwrap();
    let name = format!("{INTERFACES}{interface}");
    client.call_method(Some(BUS_NAME), path_of(interface).as_str(), Some(name.as_str()), member, &body).await
}

#[tokio::test]
async fn a_call_on_the_bus_is_the_same_request_as_on_the_socket() {
    let mut served = serve_group().await;
    for method in METHODS {
        let sample = sample(method.dbus);
        while served.engine.asked.try_recv().is_ok() {}
        let answered = call(&served.client, method.dbus, sample.arguments, &sample.options).await;
        let answer = answered.unwrap_or_else(|error| panic!("{}: {error}", method.dbus));
        assert_eq!(answer.body().signature().to_string(), "a{sv}", "{}", method.dbus);
        let expected = Request::parse(method.name, sample.params).unwrap_or_else(|error| panic!("{error}"));
        let mut same = served.engine.expect(method.name).await == expected;
        // The object tree may have asked the same method for itself just before.
        while let Ok(request) = served.engine.asked.try_recv() {
            same |= request == expected;
        }
        assert!(same, "{} arrived as another request", method.dbus);
    }
}

#[tokio::test]
async fn a_subscription_on_the_bus_tells_where_the_signals_begin() {
    let served = serve().await;
    let answer = call(&served.client, "Daemon.Subscribe", vec![], &json!({"since": "0"})).await.unwrap();
    let answer: HashMap<String, OwnedValue> = answer.body().deserialize().unwrap();
    assert_eq!(String::try_from(answer["cursor"].clone()).unwrap(), "0");
    served.engine.answer("events.subscribe", Err(ApiError::new(ErrorCode::Locked, "the store is locked")));
    let error = call(&served.client, "Daemon.Subscribe", vec![], &json!({})).await.unwrap_err();
    assert!(error.to_string().contains("the store is locked"), "{error}");
}

#[tokio::test]
async fn a_failure_has_its_code_as_name_and_says_what_to_do() {
    let served = serve().await;
    let failure =
        ApiError::new(ErrorCode::UntrustedServer, "not known").hint("compare the pin").with("pin", "sha256:00");
    served.engine.answer("account.login", Err(failure));
    let error = call(&served.client, "Daemon.Login", vec!["a@h:1".into(), "secret".into()], &json!({})).await;
    let Err(zbus::Error::MethodError(name, Some(text), _)) = error else { panic!("{error:?}") };
    assert_eq!(name.as_str(), "org.fastchat.FastChat1.Error.UntrustedServer");
    assert_eq!(text, "not known\ncompare the pin\npin: sha256:00");
}

#[tokio::test]
async fn an_option_that_is_unknown_or_given_already_is_refused_by_its_name() {
    let served = serve().await;
    for (options, reason) in [
        (json!({"lmit": 3}), "unknown field `lmit`"),
        (json!({"chat": "c2"}), "option `chat` is given by the object"),
        (json!({"account": "eve@h:1"}), "option `account` is given by the object"),
    ] {
        let error = call(&served.client, "Conversation.History", vec![], &options).await;
        let Err(zbus::Error::MethodError(name, Some(text), _)) = error else { panic!("{error:?}") };
        assert_eq!(name.as_str(), "org.fastchat.FastChat1.Error.InvalidParams");
        assert!(text.contains(reason), "{text}");
    }
}
