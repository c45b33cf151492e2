//! Events as D-Bus signals.
//!
//! **Invariant**: a signal carries ids, counts and states; no text that somebody wrote.

use fastchat_ipc::{Event, EventKind, ROOT_PATH, account_path, conversation_path};
use serde_json::{Map, Value};
use zbus::{Connection, object_server::SignalEmitter, zvariant::ObjectPath};

use super::{
    account::AccountObject,
    call::Dict,
    convert::{self, name_of},
    daemon::DaemonObject,
};

/// Fields of events that may go over the bus.
const IDS: &[&str] = &["chat", "id", "state", "unread", "contact", "active", "since_ms", "request", "group", "device"];

/// Sends the signals of an event: `Event` for each, and those of the account for messages, groups and devices.
pub(super) async fn emit(connection: &Connection, event: &Event) -> zbus::Result<()> {
    let (kind, ids) = describe(&event.kind);
    let root = SignalEmitter::new(connection, ROOT_PATH)?;
    DaemonObject::event(&root, &event.cursor, &event.account, &kind, ids).await?;
    if event.account.is_empty() {
        return Ok(());
    }
    let account = SignalEmitter::new(connection, account_path(&event.account))?;
    let conversation = |chat: &str| ObjectPath::try_from(conversation_path(&event.account, chat));
    let cursor = &event.cursor;
    match &event.kind {
        EventKind::MessageReceived { chat, id, .. } => {
            AccountObject::message_received(&account, cursor, conversation(chat)?, id).await
        }
        EventKind::MessageState { chat, id, state } => {
            AccountObject::message_state_changed(&account, cursor, conversation(chat)?, id, &name_of(state)).await
        }
        EventKind::GroupChanged { chat, .. } => {
            AccountObject::group_changed(&account, cursor, conversation(chat)?).await
        }
        EventKind::DevicesChanged {} => AccountObject::devices_changed(&account, cursor).await,
        EventKind::NewDevice { device, .. } => AccountObject::new_device(&account, cursor, device).await,
        _ => Ok(()),
    }
}

/// The event's name and the fields that may be told.
fn describe(kind: &EventKind) -> (String, Dict) {
    let fields = match serde_json::to_value(kind) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let name = fields.get("event").and_then(Value::as_str).unwrap_or_default().to_owned();
    let told: Map<_, _> = fields.into_iter().filter(|(field, _)| IDS.contains(&field.as_str())).collect();
    (name, convert::to_dict(Value::Object(told)).unwrap_or_default())
}
