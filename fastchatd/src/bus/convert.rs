//! Between JSON, which the API speaks, and D-Bus values.
//!
//! Objects are `a{sv}`, lists of texts `as`, lists of objects `aa{sv}`, integers `t` (negative ones `x`), other numbers
//! `d`; what is null is left out. The way back takes every integer type.
//!
//! **Invariant**: a field has the same D-Bus type whatever its value is.

use fastchat_ipc::{ApiError, ErrorCode};
use serde_json::Value as Json;
use zbus::zvariant::{self, OwnedValue, Value};

use super::call::Dict;

/// Lists of texts, by the name of their field; all other lists are lists of objects. An empty list does not tell.
const TEXT_LISTS: &[&str] = &["capabilities", "muted", "pending"];

/// A result as `a{sv}`; anything but an object is a defect.
pub(super) fn to_dict(result: Json) -> Result<Dict, ApiError> {
    let defect = |reason: &str| ApiError::new(ErrorCode::Internal, format!("the result does not fit D-Bus: {reason}"));
    let Json::Object(fields) = result else { return Err(defect("it is not an object")) };
    let mut dict = Dict::with_capacity(fields.len());
    for (name, value) in fields {
        let Some(value) = to_value(&name, value).map_err(|error| defect(&error.to_string()))? else { continue };
        dict.insert(name, OwnedValue::try_from(value).map_err(|error| defect(&error.to_string()))?);
    }
    Ok(dict)
}

fn to_value(name: &str, value: Json) -> zvariant::Result<Option<Value<'static>>> {
    Ok(Some(match value {
        Json::Null => return Ok(None),
        Json::Bool(value) => value.into(),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text_value(text),
        Json::Array(items) if TEXT_LISTS.contains(&name) || items.first().is_some_and(Json::is_string) => {
            let texts = items.into_iter().filter_map(|item| item.as_str().map(without_nul));
            texts.collect::<Vec<String>>().into()
        }
        Json::Array(items) => items.into_iter().map(to_fields).collect::<zvariant::Result<Vec<Fields>>>()?.into(),
        object @ Json::Object(_) => to_fields(object)?.into(),
    }))
}

type Fields = std::collections::HashMap<String, Value<'static>>;

fn to_fields(value: Json) -> zvariant::Result<Fields> {
    let Json::Object(fields) = value else { return Err(zvariant::Error::IncorrectType) };
    let mut dict = Fields::with_capacity(fields.len());
    for (name, value) in fields {
        if let Some(value) = to_value(&name, value)? {
            dict.insert(name, value);
        }
    }
    Ok(dict)
}

/// D-Bus strings hold no NUL; the text of a message may.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn text_value(text: String) -> Value<'static> {
    if text.contains('\0') { without_nul(&text).into() } else { text.into() }
}

/// The API's name of a state or kind.
pub(super) fn name_of(named: &impl serde::Serialize) -> String {
    serde_json::to_value(named).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// An option as JSON; `None` for a type that JSON does not have.
pub(super) fn to_json(value: &Value<'_>) -> Option<Json> {
    Some(match value {
        Value::Bool(value) => (*value).into(),
        Value::U8(number) => (*number).into(),
        Value::I16(number) => (*number).into(),
        Value::U16(number) => (*number).into(),
        Value::I32(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        Value::U64(number) => (*number).into(),
        Value::F64(number) => serde_json::Number::from_f64(*number)?.into(),
        Value::Str(text) => text.as_str().into(),
        Value::ObjectPath(path) => path.as_str().into(),
        Value::Value(inner) => to_json(inner)?,
        Value::Array(items) => Json::Array(items.inner().iter().map(to_json).collect::<Option<_>>()?),
        Value::Dict(entries) => {
            let entries = entries.iter().map(|(name, value)| match name {
                Value::Str(name) => Some((name.to_string(), to_json(value)?)),
                _ => None,
            });
            Json::Object(entries.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_have_the_documented_types() {
        let result = json!({
            "text": "a\0b", "flag": true, "count": 3, "below": -1, "nothing": null, "share": 0.5,
            "capabilities": [], "muted": ["x"], "pending": [], "members": [], "accounts": [], "chats": [{"id": "1", "last": null}],
            "object": {"inner": {"n": 1}},
        });
        let dict = to_dict(result).unwrap();
        let type_of = |name: &str| dict[name].value_signature().to_string();
        let expected = [
            ("text", "s"),
            ("flag", "b"),
            ("count", "t"),
            ("below", "x"),
            ("share", "d"),
            ("capabilities", "as"),
            ("muted", "as"),
            ("pending", "as"),
            ("members", "aa{sv}"),
            ("accounts", "aa{sv}"),
            ("chats", "aa{sv}"),
            ("object", "a{sv}"),
        ];
        for (name, signature) in expected {
            assert_eq!(type_of(name), signature, "{name}");
        }
        assert_eq!(dict.len(), expected.len(), "null is left out");
        assert_eq!(to_json(&dict["text"]), Some(json!("a\u{fffd}b")));
    }

    #[test]
    fn what_went_to_d_bus_comes_back_as_it_was() {
        let result = json!({
            "a": "x", "n": 7, "list": ["x", "y"], "objects": [{"k": true}], "deep": {"er": {"m": 1}}, "muted": [],
        });
        let back: serde_json::Map<_, _> =
            to_dict(result.clone()).unwrap().iter().map(|(k, v)| (k.clone(), to_json(v).unwrap())).collect();
        assert_eq!(Json::Object(back), result);
    }
}
