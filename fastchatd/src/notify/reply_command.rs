//! Starts the configured program with which somebody answers a chat.
//!
//! **Invariant**: no shell is involved, and what starts outlives the daemon's sandbox: the user's systemd starts it
//! where there is one.

use std::{collections::HashMap, env, io, path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};
use zbus::{
    Connection,
    zvariant::{OwnedObjectPath, Value},
};

use super::board::Key;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const DEADLINE: Duration = Duration::from_secs(5);
/// Passed on where the daemon has them: a user manager may not know the display.
const DISPLAY: &[&str] = &["DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"];

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The setting is empty.
    #[error("the reply command is empty")]
    Empty,
    /// There is no such program.
    #[error("there is no program `{0}`")]
    NotFound(String),
    /// systemd refused.
    #[error("systemd did not start it: {0}")]
    Systemd(#[from] zbus::Error),
    /// The system refused.
    #[error("it did not start: {0}")]
    System(#[from] io::Error),
}

/// The command's words with `%c`, `%a`, `%t` and `%%` replaced.
pub(super) fn fill(command: &[String], key: &Key, token: &str) -> Vec<String> {
    command.iter().map(|word| fill_word(word, key, token)).collect()
}

fn fill_word(word: &str, key: &Key, token: &str) -> String {
    let mut filled = String::with_capacity(word.len());
    let mut rest = word.chars();
    while let Some(c) = rest.next() {
        match (c, if c == '%' { rest.next() } else { None }) {
            ('%', Some('c')) => filled.push_str(&key.chat),
            ('%', Some('a')) => filled.push_str(&key.account),
            ('%', Some('t')) => filled.push_str(token),
            ('%', Some('%')) => filled.push('%'),
            (c, other) => filled.extend([c].into_iter().chain(other)),
        }
    }
    filled
}

/// Starts `words`, by the user's systemd where one is on this bus, else as a child.
pub(super) async fn start(bus: Option<Connection>, words: Vec<String>, token: String) -> Result<(), StartError> {
    let program = words.first().ok_or(StartError::Empty)?;
    let path = find(program).ok_or_else(|| StartError::NotFound(program.clone()))?;
    let mut environment: Vec<(&str, String)> = Vec::new();
    environment.extend(DISPLAY.iter().filter_map(|name| Some((*name, env::var(name).ok()?))));
    if !token.is_empty() {
        environment.extend([("XDG_ACTIVATION_TOKEN", token.clone()), ("DESKTOP_STARTUP_ID", token)]);
    }
    match bus {
        Some(bus) if has_systemd(&bus).await => start_unit(&bus, path, &words, &environment).await,
        _ => start_child(path, &words, environment),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths).map(|directory| directory.join(program)).find(|path| path.is_file())
}

async fn has_systemd(bus: &Connection) -> bool {
    let dbus = "org.freedesktop.DBus";
    let asked = bus.call_method(Some(dbus), "/org/freedesktop/DBus", Some(dbus), "NameHasOwner", &SYSTEMD);
    let answer = timeout(DEADLINE, asked).await.ok().and_then(Result::ok);
    answer.and_then(|answer| answer.body().deserialize().ok()).unwrap_or(false)
}

async fn start_unit(
    bus: &Connection,
    path: PathBuf,
    words: &[String],
    environment: &[(&str, String)],
) -> Result<(), StartError> {
    let path = path.to_string_lossy().into_owned();
    let environment: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    // `no-env-expand`: the words are meant as they are.
    let start = vec![(path, words.to_vec(), vec!["no-env-expand".to_owned()])];
    let properties: Vec<(&str, Value<'_>)> = vec![
        ("Description", "Reply to a FastChat message".into()),
        ("Type", "exec".into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("Environment", environment.into()),
        ("ExecStartEx", Value::from(start)),
    ];
    let name = format!("app-fastchat-reply-{}.service", uuid::Uuid::now_v7().simple());
    let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
    let manager = "org.freedesktop.systemd1.Manager";
    let arguments = (name, "fail", properties, auxiliary);
    let path = "/org/freedesktop/systemd1";
    let asked = bus.call_method(Some(SYSTEMD), path, Some(manager), "StartTransientUnit", &arguments);
    let late = |_| zbus::Error::Failure("it did not answer in time".to_owned());
    let _job: OwnedObjectPath = timeout(DEADLINE, asked).await.map_err(late)??.body().deserialize()?;
    Ok(())
}

fn start_child(path: PathBuf, words: &[String], environment: Vec<(&str, String)>) -> Result<(), StartError> {
    let mut command = Command::new(path);
    command.args(words.iter().skip(1)).envs(environment.into_iter().collect::<HashMap<_, _>>());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn()?;
    // Ends with the child, and leaves no zombie.
    tokio::spawn(async move { child.wait().await });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_nothing_else_is() {
        let key = Key { account: "alice@h:1".into(), chat: "0190-c".into() };
        let command = ["foot", "%c", "a=%a;t=%t", "100%%", "%x", "%", "$HOME"].map(str::to_owned);
        let filled = fill(&command, &key, "tok%c");
        assert_eq!(filled, ["foot", "0190-c", "a=alice@h:1;t=tok%c", "100%", "%x", "%", "$HOME"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_not_found() {
        assert_eq!(find("/nonexistent/program"), None);
        assert!(find("sh").is_some());
    }
}
