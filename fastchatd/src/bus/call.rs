//! From a D-Bus call to a request of the API, and back.
//!
//! **Invariant**: only programs of this user (and root) call the engine, and at most [`CALLS`] of their calls wait for
//! it at once.

use std::{collections::HashMap, sync::Arc};

use fastchat_ipc::{ApiError, ERROR_PREFIX, ErrorCode, Method, Request};
use serde_json::{Map, Value};
use tokio::sync::{Notify, Semaphore, watch};
use zbus::{
    Connection, DBusError,
    message::{Header, Message},
    names::{BusName, ErrorName},
    zvariant::OwnedValue,
};

use super::convert;
use crate::api::Api;

/// Calls under way at once over all callers; one more is refused with `RateLimited`.
const CALLS: usize = 64;

/// `a{sv}`: the optional parameters by their JSON names, or a result.
pub(super) type Dict = HashMap<String, OwnedValue>;
/// Who called: the bus and the call's header.
pub(super) type Caller<'a> = (&'a Connection, Header<'a>);

/// What the objects share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) api: Api,
    room: Arc<Semaphore>,
    /// Where the signals stand: every event after this cursor is still to be sent. Empty while none are sent.
    pub(super) position: watch::Sender<String>,
    /// Rung when the store may have been unlocked.
    pub(super) unlocked: Arc<Notify>,
}

impl Front {
    pub(super) fn new(api: Api) -> Self {
        let room = Arc::new(Semaphore::new(CALLS));
        Self { api, room, position: watch::Sender::default(), unlocked: Arc::default() }
    }

    /// Calls `M` with what the object and the arguments give (a JSON object) and the caller's options.
    pub(super) async fn call<M: Method>(
        &self,
        caller: Caller<'_>,
        given: Value,
        options: Dict,
    ) -> Result<Dict, Failure> {
        check_user(caller).await?;
        let request = Request::parse(M::NAME, Value::Object(merge(M::NAME, given, options)?))?;
        let too_many = || ApiError::new(ErrorCode::RateLimited, format!("{CALLS} calls are under way already"));
        let _permit = self.room.try_acquire().map_err(|_| too_many().hint("wait for their answers"))?;
        Ok(convert::to_dict(self.api.request(request).await?)?)
    }
}

fn merge(method: &str, given: Value, options: Dict) -> Result<Map<String, Value>, ApiError> {
    let mut params = match given {
        Value::Object(params) => params,
        _ => Map::new(),
    };
    for (name, value) in options {
        let wrong = |reason: &str| {
            ApiError::new(ErrorCode::InvalidParams, format!("{method}: option `{}` {reason}", name.escape_default()))
        };
        let value = convert::to_json(&value).ok_or_else(|| wrong("has a type that no parameter has"))?;
        if params.contains_key(&name) {
            return Err(wrong("is given by the object or an argument of the call already"));
        }
        params.insert(name, value);
    }
    Ok(params)
}

/// The session bus lets in this user and root; this holds on a bus that is set up otherwise, too.
async fn check_user((bus, header): Caller<'_>) -> Result<(), ApiError> {
    let refused = |reason: String| ApiError::new(ErrorCode::Refused, reason);
    let sender = header.sender().ok_or_else(|| refused("the call does not say where it comes from".to_owned()))?;
    let sender = BusName::from(sender.clone());
    let asked = bus.call_method(
        Some("org.freedesktop.DBus"),
        "/org/freedesktop/DBus",
        Some("org.freedesktop.DBus"),
        "GetConnectionUnixUser",
        &sender,
    );
    let uid = asked.await.and_then(|answer| answer.body().deserialize::<u32>());
    let uid = uid.map_err(|error| refused(format!("the bus does not tell which user the caller is: {error}")))?;
    if uid == rustix::process::geteuid().as_raw() || uid == 0 {
        return Ok(());
    }
    Err(refused(format!("the caller runs as user {uid}; this daemon serves its own user alone")))
}

/// A failed call, as D-Bus carries it: the name is the code, the text has the message, then, each on its own line, the
/// hint and the details (`pin: sha256:…`).
#[derive(Debug)]
pub(super) struct Failure {
    code: ErrorCode,
    text: String,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let mut text = error.message;
        if let Some(hint) = error.hint {
            text = format!("{text}\n{hint}");
        }
        for (name, value) in error.data {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = format!("{text}\n{name}: {value}");
        }
        // D-Bus strings hold no NUL.
        Self { code: error.code, text: text.replace('\0', "\u{fffd}") }
    }
}

impl DBusError for Failure {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name())?.build(&self.text)
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_string_unchecked(format!("{ERROR_PREFIX}.{}", self.code.dbus()))
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}
