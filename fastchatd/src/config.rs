//! The daemon's settings: `config.toml`, and what holds where it says nothing.
//!
//! **Invariant**: a file with a key that is not known, or a value that cannot be used, is refused with file, line and
//! column; a file that is not there is the same as an empty one.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use fastchat_ipc::{Preview, socket_path};
use fastchat_service::logging;
use serde::Deserialize;

/// The longest file that is read.
const LONGEST: u64 = 1 << 20;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the store and the key record are.
    pub data_dir: PathBuf,
    /// The Unix socket of the API.
    pub socket: PathBuf,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// Notifications.
    pub notify: NotifyConfig,
}

/// Settings of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// Whether there are any.
    pub enabled: bool,
    /// How much they show, until `notify.preview` says otherwise.
    pub preview: Preview,
    /// The command that Reply starts where the notification service has no inline reply; empty for none.
    /// `%c` is the chat, `%a` the account, `%t` the activation token.
    pub reply_command: Vec<String>,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { enabled: true, preview: Preview::Full, reply_command: Vec::new() }
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    data_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    log: Option<String>,
    notify: NotifyConfig,
}

/// Why there are no settings. The program should exit with 78 (EX_CONFIG).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file does not say what it should.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// There is nowhere to put things.
    #[error(
        "there is no home directory: neither ${variable} nor $HOME is set to an absolute path; set one of them, or give \
         --config and a `data_dir` in it"
    )]
    NoHome {
        /// The variable that would do instead.
        variable: &'static str,
    },
}

impl Config {
    /// Reads `file`, or where none is given `$XDG_CONFIG_HOME/fastchat/config.toml`, which need not exist.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(file, &Directories::from_environment())
    }

    fn load_with(file: Option<&Path>, directories: &Directories) -> Result<Self, ConfigError> {
        let written = match (file, &directories.config) {
            (Some(file), _) => Written::parse(file, &read(file)?)?,
            (None, None) => Written::default(),
            (None, Some(directory)) => {
                let file = directory.join("fastchat/config.toml");
                match read(&file) {
                    Err(ConfigError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                        Written::default()
                    }
                    read => Written::parse(&file, &read?)?,
                }
            }
        };
        let default_data = || {
            let directory = directories.data.clone().ok_or(ConfigError::NoHome { variable: "XDG_DATA_HOME" })?;
            Ok(directory.join("fastchat"))
        };
        Ok(Self {
            data_dir: written.data_dir.map_or_else(default_data, Ok)?,
            socket: written.socket.unwrap_or_else(socket_path),
            log: written.log.unwrap_or_else(|| "info".to_owned()),
            notify: written.notify,
        })
    }
}

impl Written {
    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let at = |offset: usize, message: String| {
            let (line, column) = position(text, offset);
            ConfigError::Parse { path: path.to_owned(), line, column, message }
        };
        let written: Self = toml::from_str(text)
            .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().trim().to_owned()))?;
        for (key, path) in [("data_dir", &written.data_dir), ("socket", &written.socket)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                return Err(at(offset_of(text, key), format!("`{key}` must be an absolute path")));
            }
        }
        if let Some(Err(error)) = written.log.as_deref().map(logging::check) {
            return Err(at(offset_of(text, "log"), format!("`log` is not a filter: {error}")));
        }
        Ok(written)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |error| ConfigError::Read { path: path.to_owned(), error };
    let meta = fs::metadata(path).map_err(fail)?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(fail(io::Error::other("it is not a file of at most 1 MiB")));
    }
    fs::read_to_string(path).map_err(fail)
}

/// Where a key of the top level stands: at the beginning of a line.
fn offset_of(text: &str, key: &str) -> usize {
    text.split_inclusive('\n').take_while(|line| !line.trim_start().starts_with(key)).map(str::len).sum()
}

/// Line and column of a byte, both counted from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The base directories (XDG Base Directory Specification); `None` where there is no home either.
#[derive(Debug)]
struct Directories {
    config: Option<PathBuf>,
    data: Option<PathBuf>,
}

impl Directories {
    fn from_environment() -> Self {
        Self::of(env::var_os("HOME"), env::var_os("XDG_CONFIG_HOME"), env::var_os("XDG_DATA_HOME"))
    }

    /// Paths that are not absolute count as not set, as the specification asks.
    fn of(home: Option<OsString>, config: Option<OsString>, data: Option<OsString>) -> Self {
        let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute(home);
        let or_home = |path, below: &str| absolute(path).or_else(|| home.as_ref().map(|home| home.join(below)));
        Self { config: or_home(config, ".config"), data: or_home(data, ".local/share") }
    }
}

#[cfg(test)]
mod tests;
