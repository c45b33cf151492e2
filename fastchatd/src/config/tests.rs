//! Tests of reading settings.
//!
//! **Invariant**: no test depends on the environment it runs in.

use std::fs;

use super::*;

fn home() -> Directories {
    Directories::of(Some("/home/alice".into()), None, None)
}

fn load(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("c.toml");
    fs::write(&file, text).unwrap();
    Config::load_with(Some(&file), &home())
        .map_err(|error| error.to_string().replace(&directory.path().display().to_string(), ""))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("").unwrap();
    assert_eq!(config.data_dir, Path::new("/home/alice/.local/share/fastchat"));
    assert_eq!(config.log, "info");
    assert_eq!(config.notify, NotifyConfig::default());
}

#[test]
fn the_usual_file_need_not_exist_but_a_named_one_must() {
    assert!(Config::load_with(None, &Directories::of(Some("/nowhere".into()), None, None)).is_ok());
    let error = Config::load_with(Some(Path::new("/nowhere/c.toml")), &home()).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/c.toml: cannot be read"), "{error}");
}

#[test]
fn errors_name_file_line_and_column() {
    assert!(
        load("log = \"info\"\n[notify]\nprewiev = \"full\"\n").unwrap_err().starts_with("/c.toml:3:1: unknown field")
    );
    assert!(load("[notify]\npreview = \"some\"\n").unwrap_err().starts_with("/c.toml:2:11: unknown variant"));
    assert!(load("log = \n").unwrap_err().starts_with("/c.toml:1:"));
    assert!(load("# x\r\n\r\nlog = \"info,a=loud\"\n").unwrap_err().starts_with("/c.toml:3:1: `log` is not a filter"));
    assert_eq!(
        load("log = \"info\"\nsocket = \"x.sock\"\n").unwrap_err(),
        "/c.toml:2:1: `socket` must be an absolute path"
    );
}

#[test]
fn without_a_home_directory_the_error_says_what_to_set() {
    let nowhere = Directories::of(None, None, Some("relative".into()));
    let error = Config::load_with(None, &nowhere).unwrap_err().to_string();
    assert!(error.contains("$XDG_DATA_HOME") && error.contains("$HOME"), "{error}");
}

#[test]
fn the_documented_file_is_valid_and_shows_the_defaults() {
    let text = include_str!("../../../etc/fastchatd.toml");
    assert_eq!(load(text).unwrap(), load("").unwrap());

    let uncommented: Vec<&str> =
        text.lines().map(|line| line.strip_prefix('#').filter(|l| is_setting(l)).unwrap_or(line)).collect();
    let shown = load(&uncommented.join("\n")).unwrap();
    assert_eq!(shown.log, "info");
    assert_eq!(shown.notify, NotifyConfig::default());
    assert_eq!(shown.data_dir, Path::new("/home/you/.local/share/fastchat"));
    assert_eq!(shown.socket, Path::new("/run/user/1000/fastchat/fastchatd.sock"));
}

fn is_setting(line: &str) -> bool {
    line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'))
}
