//! Tests of backups, on a real file system.
//!
//! **Invariant**: a test that expects a refusal also looks at what is left in the directory.

use std::{fs, os::unix::fs::PermissionsExt};

use fastchat_ipc::{ContactState, MessageKind, MessageState};
use tempfile::TempDir;

use super::*;

const PASSPHRASE: &str = "a passphrase of some length";

fn cheap() -> KdfParams {
    KdfParams { memory_kib: 19 * 1024, iterations: 2, ..KdfParams::generate() }
}

fn header() -> Header {
    Header::new("alice@h:1".into(), 1_700_000_000_000, "ab".repeat(32))
}

fn message(number: u32, text: &str) -> Record {
    Record::Message(MessageRecord {
        id: uuid::Uuid::from_u128(number.into()).to_string(),
        mine: number.is_multiple_of(2),
        from: String::new(),
        sent_at_ms: 5,
        accepted_at_ms: 6,
        kind: MessageKind::Text,
        state: MessageState::Received,
        held: false,
        text: text.into(),
    })
}

/// Identity, two contacts, two chats, some messages, the last of which fills several segments.
fn records() -> Vec<Record> {
    let contact = |name: &str, identity| {
        let name = name.to_owned();
        let state = ContactState::Accepted;
        Record::Contact(ContactRecord { name, alias: "B".into(), state, identity, verified: true, removed: false })
    };
    let direct = ChatWith::Direct { contact: "bob".into() };
    let group = ChatWith::Group {
        conversation: "x".into(),
        name: "crew".into(),
        topic: "\u{1b}[31m \u{0}\n".into(),
        created_at_ms: 4,
    };
    let chat = |id: &str, with| Record::Chat(ChatRecord { id: id.into(), with, muted: true, last_at_ms: 9 });
    let mut records = vec![
        Record::Identity(IdentityRecord { pkcs8: Zeroizing::new(vec![0xa5; 1800]) }),
        contact("bob", Some(vec![0, 1, 255])),
        contact("carol", None),
        chat("one", direct),
    ];
    records.extend((0..300).map(|number| message(number, "hello")));
    records.extend([chat("two", group), message(900, &"long ".repeat(40_000))]);
    records
}

fn made(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("alice.backup");
    write_at_cost(&path, PASSPHRASE, &header(), records().into_iter().map(Ok), &cheap()).unwrap();
    path
}

fn names(directory: &TempDir) -> Vec<String> {
    fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_was_written_is_read_and_counted() {
    let directory = TempDir::new().unwrap();
    let path = made(&directory);
    let mut backup = Backup::open(&path, PASSPHRASE).unwrap();
    let info = backup.info.clone();
    assert_eq!((info.contacts, info.chats, info.messages), (2, 2, 301));
    assert_eq!((info.account.as_str(), info.created_at_ms), ("alice@h:1", 1_700_000_000_000));
    assert_eq!((info.fingerprint, info.bytes), ("ab".repeat(32), fs::metadata(&path).unwrap().len()));
    for _ in 0..2 {
        let read: Vec<Record> = backup.records().unwrap().map(Result::unwrap).collect();
        assert_eq!(read, records());
    }
}

#[test]
fn a_backup_is_its_owners_alone_and_leaves_nothing_beside_it() {
    let directory = TempDir::new().unwrap();
    let path = made(&directory);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(&directory), ["alice.backup"]);
    let bytes = fs::read(&path).unwrap();
    for word in ["hello", "alice", "pkcs8", "record"] {
        assert!(!bytes.windows(word.len()).any(|part| part == word.as_bytes()), "{word} can be read");
    }
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("mine");
    fs::write(&path, "precious").unwrap();
    let refused = write(&path, PASSPHRASE, &header(), []).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Refused);
    // Not even through a link that leads nowhere, nor when it comes while the backup is being written.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
    assert_eq!(write(&link, PASSPHRASE, &header(), []).unwrap_err().code, ErrorCode::Refused);
    let late = directory.path().join("late");
    let coming = records().into_iter().inspect(|_| fs::write(&late, "precious").unwrap()).map(Ok);
    let refused = write_at_cost(&late, PASSPHRASE, &header(), coming, &cheap()).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Refused);
    assert_eq!(fs::read_to_string(&late).unwrap(), "precious");
    let mut left = names(&directory);
    left.sort();
    assert_eq!(left, ["late", "link", "mine"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_backup_that_fails_half_way_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("half");
    let broken = records().into_iter().map(Ok).chain([Err(ApiError::new(ErrorCode::Internal, "the disk broke"))]);
    let error = write_at_cost(&path, PASSPHRASE, &header(), broken, &cheap()).unwrap_err();
    assert_eq!(error.message, "the disk broke");
    assert!(names(&directory).is_empty());
}

#[test]
fn a_path_or_passphrase_that_will_not_do_says_why() {
    let directory = TempDir::new().unwrap();
    let error = |path: &Path, passphrase| write(path, passphrase, &header(), []).unwrap_err();
    assert!(error(Path::new("backup"), PASSPHRASE).message.contains("absolute"));
    assert_eq!(error(Path::new("/"), PASSPHRASE).code, ErrorCode::InvalidParams);
    assert_eq!(error(&directory.path().join("no/such"), PASSPHRASE).code, ErrorCode::NotFound);
    assert!(error(&directory.path().join("a"), "seven77").message.contains("fewer than 8"));
    assert_eq!(verify(&directory.path().join("none"), PASSPHRASE).unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(verify(directory.path(), PASSPHRASE).unwrap_err().code, ErrorCode::Refused);
    assert_eq!(verify(Path::new("/dev/zero"), PASSPHRASE).unwrap_err().code, ErrorCode::Refused);
    assert!(names(&directory).is_empty());
}

#[test]
fn a_wrong_passphrase_is_called_that() {
    let directory = TempDir::new().unwrap();
    let error = verify(&made(&directory), "another one altogether").unwrap_err();
    assert_eq!(error.code, ErrorCode::WrongPassword);
}

#[test]
fn a_damaged_backup_gives_nothing_wherever_the_damage_is() {
    let directory = TempDir::new().unwrap();
    let path = made(&directory);
    let whole = fs::read(&path).unwrap();
    let damaged = directory.path().join("damaged");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&damaged, bytes).unwrap();
        assert!(Backup::open(&damaged, PASSPHRASE).is_err(), "{what}");
    };
    let (header, segment) = (fastchat_e2ee::ARCHIVE_HEADER_BYTES, fastchat_e2ee::ARCHIVE_SEGMENT_BYTES);
    assert!(whole.len() > header + 3 * segment, "several segments are needed");
    for position in [0, 20, 30, 40, 50, header, header + 100, header + segment, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[position] ^= 1;
        refused(&altered, &format!("byte {position}"));
    }
    for length in [0, 10, header, header + 1, header + segment, header + 2 * segment, whole.len() - 1] {
        refused(&whole[..length], &format!("cut to {length}"));
    }
    refused(&[whole.as_slice(), b"x"].concat(), "one byte more");
    refused(&[&whole[..header], &whole[header + segment..]].concat(), "a segment is missing");
}

#[test]
fn a_file_that_changes_between_the_two_readings_is_noticed() {
    let directory = TempDir::new().unwrap();
    let path = made(&directory);
    let mut backup = Backup::open(&path, PASSPHRASE).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let read: Vec<_> = backup.records().unwrap().collect();
    assert!(read.last().unwrap().is_err());
    assert_eq!(read.iter().filter(|record| record.is_err()).count(), 1, "after an error comes nothing");
}

/// An archive with these lines.
fn lines(directory: &TempDir, lines: &[&str]) -> PathBuf {
    let path = directory.path().join("lines");
    let mut bytes = Vec::new();
    let mut sealer = ArchiveSealer::begin(PASSPHRASE, &cheap(), &mut bytes).unwrap();
    for line in lines {
        sealer.seal(line.as_bytes(), &mut bytes).unwrap();
    }
    sealer.finish(&mut bytes).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

const HEAD: &str = r#"{"header":{"format":1,"account":"alice@h:1","created_at_ms":5,"fingerprint":"ab","later":true}}"#;
const CONTACT: &str = r#"{"record":{"contact":{"name":"bob","state":"accepted","later":[1]}}}"#;
const END: &str = r#"{"end":{"contacts":1,"chats":0,"messages":0}}"#;

#[test]
fn fields_that_a_later_version_adds_do_no_harm() {
    let directory = TempDir::new().unwrap();
    let info = verify(&lines(&directory, &[HEAD, CONTACT, END]), PASSPHRASE).unwrap();
    assert_eq!((info.contacts, info.account.as_str()), (1, "alice@h:1"));
}

#[test]
fn an_archive_that_is_no_backup_is_refused_though_it_opens() {
    let directory = TempDir::new().unwrap();
    let newer = HEAD.replace("\"format\":1", "\"format\":2");
    for wrong in [
        &[][..],
        &[HEAD],
        &[HEAD, CONTACT],
        &[CONTACT, END],
        &[HEAD, END],
        &[HEAD, CONTACT, CONTACT, END],
        &[HEAD, CONTACT, END, CONTACT],
        &[HEAD, HEAD, CONTACT, END],
        &[HEAD, r#"{"record":{"spell":{}}}"#, END],
        &[HEAD, "nonsense", END],
        &[&newer, CONTACT, END],
    ] {
        assert_eq!(verify(&lines(&directory, wrong), PASSPHRASE).unwrap_err().code, ErrorCode::Refused, "{wrong:?}");
    }
}

#[test]
fn an_identity_in_a_backup_does_not_print() {
    assert!(!format!("{:?}", records()[0]).contains("165"));
    assert!(format!("{:?}", records()[0]).contains("hidden"));
}
