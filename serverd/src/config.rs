//! The server's configuration: what can be set, within which bounds, and what holds when nothing is.
//!
//! **Invariant**: a [`Config`] that exists is valid: bounds are part of the types, unknown keys are errors.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use fastchat_wire::ServerAddress;
use serde::Deserialize;

use crate::rates::Rate;

/// The largest frame of a session, unless a Handshake may be larger: 128 key packages of 16 KiB fit.
const FRAME: usize = 2 << 20;

/// Where the packages put it.
pub const SYSTEM_CONFIG: &str = "/etc/fastchat/server.toml";

/// A whole number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Within<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Within<MIN, MAX> {
    const fn new(value: u64) -> Self {
        assert!(MIN <= value && value <= MAX, "a default must be within its bounds");
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a count.
    #[must_use]
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number as a protocol field.
    #[must_use]
    pub fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// The number as seconds.
    #[must_use]
    pub const fn seconds(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<i64> for Within<MIN, MAX> {
    type Error = String;
    fn try_from(value: i64) -> Result<Self, String> {
        match u64::try_from(value) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("{value} is not between {MIN} and {MAX}")),
        }
    }
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Everybody.
    #[default]
    Open,
    /// Those who have an invite.
    Invite,
    /// Nobody.
    Closed,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to listen on; port 0 takes any free one.
    pub listen: String,
    /// What the printed link names.
    pub public_address: Option<ServerAddress>,
    /// Where the database and the certificate are.
    pub data_dir: Option<PathBuf>,
    /// Who may make an account.
    pub registration: Registration,
    /// How long a stop waits for what is under way.
    pub drain_seconds: Within<1, 600>,
    /// Which log lines to write, as in `RUST_LOG`.
    pub log: String,
    /// The certificate.
    pub tls: Tls,
    /// Passwords and tokens.
    pub auth: Auth,
    /// How much of what.
    pub limits: Limits,
    /// What is kept how long.
    pub storage: Storage,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// bcrypt's cost: each step doubles the time of a login.
    pub bcrypt_cost: Within<4, 18>,
    /// How long a session token is good.
    pub token_days: Within<1, 3_650>,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in all.
    pub connections: Within<1, 1_000_000>,
    /// Connections of one IP address (IPv6: of one /64).
    pub connections_per_ip: Within<1, 1_000_000>,
    /// From TCP accept to Hello.
    pub handshake_seconds: Within<1, 300>,
    /// From Hello to a session.
    pub auth_seconds: Within<1, 600>,
    /// Bytes read from a connection before it has a session.
    pub pre_session_bytes: Within<1_024, 16_777_216>,
    /// A connection silent for longer is closed.
    pub ping_seconds: Within<5, 3_600>,
    /// Logins of one account per minute.
    pub logins_per_account_per_minute: Within<1, 1_000_000>,
    /// Logins of one IP address per minute.
    pub logins_per_ip_per_minute: Within<1, 1_000_000>,
    /// New accounts of one IP address per hour.
    pub registrations_per_ip_per_hour: Within<1, 1_000_000>,
    /// Key packages that one account claims per hour.
    pub claims_per_hour: Within<1, 1_000_000>,
    /// One-time key packages of one account that strangers get per hour; then the one of last resort.
    pub strangers_per_hour: Within<0, 1_000_000>,
    /// Commits and proposals of one account per conversation and hour, in the long run.
    pub handshakes_per_hour: Within<1, 1_000_000>,
    /// Of these at once.
    pub handshakes_at_once: Within<1, 1_000_000>,
    /// The largest Handshake, Welcomes included.
    pub handshake_bytes: Within<65_536, 8_388_608>,
    /// Groups whose state one account fetches per hour.
    pub group_fetches_per_hour: Within<1, 1_000_000>,
    /// Messages into and out of link mailboxes, of one IP address per hour.
    pub link_requests_per_ip_per_hour: Within<1, 1_000_000>,
    /// Link mailboxes at a time.
    pub links: Within<1, 1_000_000>,
    /// Entries that one device submits per second, in the long run.
    pub entries_per_second: Within<1, 1_000_000>,
    /// The largest payload of one entry.
    pub payload_bytes: Within<1_024, 524_288>,
    /// Entries in one Submit.
    pub submit_entries: Within<1, 1_024>,
    /// Entries sent ahead of the Ack, per conversation.
    pub window_entries: Within<1, 4_096>,
    /// Bytes sent ahead of the Ack, per conversation.
    pub window_bytes: Within<4_096, 16_777_216>,
}

impl Limits {
    /// How often an account may commit in a conversation.
    #[must_use]
    pub fn handshake_rate(&self) -> Rate {
        let per = Duration::from_secs(3_600);
        Rate { count: self.handshakes_per_hour.get(), per, at_once: self.handshakes_at_once.get() }
    }

    /// The largest frame of a session.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        const ENVELOPE: usize = 4 << 10;
        (self.handshake_bytes.count() + ENVELOPE).max(FRAME)
    }
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// An entry that somebody has not fetched goes after so many days.
    pub retention_days: Within<1, 3_650>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: format!("[::]:{}", fastchat_wire::DEFAULT_PORT),
            public_address: None,
            data_dir: None,
            registration: Registration::Open,
            drain_seconds: Within::new(20),
            log: "info".to_owned(),
            tls: Tls::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            storage: Storage::default(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self { bcrypt_cost: Within::new(12), token_days: Within::new(90) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Within::new(20_000),
            connections_per_ip: Within::new(256),
            handshake_seconds: Within::new(10),
            auth_seconds: Within::new(60),
            pre_session_bytes: Within::new(256 << 10),
            ping_seconds: Within::new(120),
            logins_per_account_per_minute: Within::new(10),
            logins_per_ip_per_minute: Within::new(60),
            registrations_per_ip_per_hour: Within::new(100),
            claims_per_hour: Within::new(2_000),
            strangers_per_hour: Within::new(30),
            handshakes_per_hour: Within::new(240),
            handshakes_at_once: Within::new(60),
            handshake_bytes: Within::new(8 << 20),
            group_fetches_per_hour: Within::new(2_000),
            link_requests_per_ip_per_hour: Within::new(600),
            links: Within::new(10_000),
            entries_per_second: Within::new(200),
            payload_bytes: Within::new(64 << 10),
            submit_entries: Within::new(64),
            window_entries: Within::new(256),
            window_bytes: Within::new(512 << 10),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { retention_days: Within::new(30) }
    }
}

/// Why there is no configuration, with the place in the file.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
    text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a file; without one, the system's if it is there, else the defaults.
    ///
    /// # Errors
    /// The file cannot be read or is not valid; the text names file, line and column.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(SYSTEM_CONFIG), false),
        };
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if !required && error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(ConfigError { path: path.to_owned(), place: None, text: error.to_string() }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError {
            path: path.to_owned(),
            place: error.span().map(|span| place(text, span.start)),
            text: error.message().to_owned(),
        })?;
        let wrong = |key: &str, problem: String| {
            let at = text.lines().position(|line| line.trim_start().starts_with(key));
            Err(ConfigError { path: path.to_owned(), place: at.map(|line| (line + 1, 1)), text: problem })
        };
        if let Err(problem) = listen_address(&config.listen) {
            return wrong("listen", problem);
        }
        if config.tls.certificate.is_some() != config.tls.key.is_some() {
            return wrong("[tls]", "tls.certificate and tls.key belong together: give both or none".to_owned());
        }
        if let Err(problem) = fastchat_service::logging::check(&config.log) {
            return wrong("log", format!("log: {problem}"));
        }
        Ok(config)
    }
}

/// Reads `address:port`.
///
/// # Errors
/// A text for people.
pub fn listen_address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| format!("listen: {text:?} is not ADDRESS:PORT, as in \"[::]:8887\" or \"127.0.0.1:8887\""))
}

/// Line and column of a byte, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or("").chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(Path::new("s.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse(Path::new("s.toml"), "").unwrap(), Config::default());
    }

    #[test]
    fn every_error_names_file_line_and_column() {
        assert!(error("\nlisten_on = 1").starts_with("s.toml:2:1: unknown field"), "{}", error("\nlisten_on = 1"));
        let text = "[auth]\nbcrypt_cost = 3";
        assert_eq!(error(text), "s.toml:2:15: 3 is not between 4 and 18");
        assert!(error("registration = \"maybe\"").starts_with("s.toml:1:16: "));
        assert!(error("listen = [").starts_with("s.toml:1:"));
        assert!(error("a = 1\nlisten = \"x\"").starts_with("s.toml:1:1"));
        assert!(error("listen = \"nowhere\"").starts_with("s.toml:1:1: listen:"));
        assert!(error("[tls]\nkey = \"k\"").starts_with("s.toml:1:1: tls.certificate"));
        assert!(error("[limits]\nconnections = -1").contains("s.toml:2:15: -1 is not between"));
    }

    #[test]
    fn the_shipped_file_has_every_key_and_changes_nothing() {
        let shipped = include_str!("../../etc/server.toml");
        assert_eq!(Config::parse(Path::new("s.toml"), shipped).unwrap(), Config::default());
        let uncommented: String = shipped
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line)))
            .collect();
        Config::parse(Path::new("s.toml"), &uncommented).unwrap();
        let keys = |debug: String| debug.matches(": ").count();
        let set = uncommented.lines().filter(|line| line.contains(" = ")).count();
        // Debug prints a field for every key, and one more for each of the four tables; no value has a ": " of its
        // own.
        assert_eq!(set, keys(format!("{:?}", Config::default())) - 4);
    }
}
