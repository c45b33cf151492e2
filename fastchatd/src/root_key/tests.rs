//! Tests of making, finding and unlocking the root key. A real Secret Service is not among them: what is tested of it
//! is that nothing is put in its place.
//!
//! **Invariant**: every test has a data directory of its own.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_new_directory_has_nothing() {
    let data = directory();
    assert_eq!(find(data.path()).await.unwrap(), (Found::Nothing, KeyStore::Auto));
    assert_eq!(unlock(data.path(), "x").await.unwrap_err().code, ErrorCode::NoAccount);
}

#[tokio::test]
async fn a_key_file_is_found_again_and_is_the_users_alone() {
    let data = directory();
    let data = &data.path().join("made");
    let (key, kind) = create(data, KeyStore::File, "").await.unwrap();
    assert_eq!(kind, KeyStore::File);
    assert_eq!(find(data).await.unwrap(), (Found::Ready(key.clone()), KeyStore::File));
    assert_eq!(unlock(data, "").await.unwrap(), key);
    for name in ["root.key", "key.toml"] {
        assert_eq!(fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(data).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(data).unwrap().count(), 2, "nothing unfinished is left behind");
}

#[tokio::test]
async fn a_key_file_that_others_can_read_is_refused() {
    let data = directory();
    create(data.path(), KeyStore::File, "").await.unwrap();
    for name in ["root.key", "key.toml"] {
        let path = data.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = find(data.path()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Refused);
        assert!(error.hint.unwrap().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[tokio::test]
async fn a_symbolic_link_in_place_of_the_key_is_refused() {
    let (data, elsewhere) = (directory(), directory());
    create(data.path(), KeyStore::File, "").await.unwrap();
    let key = data.path().join("root.key");
    fs::rename(&key, elsewhere.path().join("root.key")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("root.key"), &key).unwrap();
    assert!(find(data.path()).await.is_err());
}

#[tokio::test]
async fn a_passphrase_opens_and_another_does_not() {
    let data = directory();
    let (key, kind) = create(data.path(), KeyStore::Passphrase, "open sesame").await.unwrap();
    assert_eq!(kind, KeyStore::Passphrase);
    assert_eq!(find(data.path()).await.unwrap(), (Found::NeedsPassphrase, KeyStore::Passphrase));
    assert_eq!(unlock(data.path(), "").await.unwrap_err().code, ErrorCode::Locked);
    let error = unlock(data.path(), "open barley").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(!error.message.contains("barley"));
    assert_eq!(unlock(data.path(), "open sesame").await.unwrap(), key);
}

#[tokio::test]
async fn the_passphrase_key_lies_nowhere_in_the_clear() {
    let data = directory();
    let (key, _) = create(data.path(), KeyStore::Passphrase, "open sesame").await.unwrap();
    let text = fs::read(data.path().join("key.toml")).unwrap();
    let hex = data_encoding::HEXLOWER.encode(key.as_bytes());
    assert!(!String::from_utf8(text).unwrap().contains(&hex));
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_empty_passphrase_is_refused_and_leaves_nothing() {
    let data = directory();
    let error = create(data.path(), KeyStore::Passphrase, "").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParams);
    assert_eq!(find(data.path()).await.unwrap().0, Found::Nothing);
}

#[tokio::test]
async fn a_key_store_is_chosen_once() {
    let data = directory();
    create(data.path(), KeyStore::Passphrase, "open sesame").await.unwrap();
    let error = create(data.path(), KeyStore::File, "").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Refused);
    assert_eq!(find(data.path()).await.unwrap().1, KeyStore::Passphrase);
}

#[tokio::test]
async fn a_key_that_a_crash_left_unrecorded_is_taken_over() {
    let data = directory();
    let (key, _) = create(data.path(), KeyStore::File, "").await.unwrap();
    fs::remove_file(data.path().join("key.toml")).unwrap();
    assert_eq!(create(data.path(), KeyStore::File, "").await.unwrap().0, key);
}

#[tokio::test]
async fn a_damaged_or_newer_record_is_not_taken_for_a_missing_one() {
    let data = directory();
    create(data.path(), KeyStore::File, "").await.unwrap();
    let path = data.path().join("key.toml");
    let good = fs::read_to_string(&path).unwrap();
    for bad in ["", "version = 1\n", &good.replace("version = 1", "version = 2"), &good.replace("file", "none")] {
        fs::write(&path, bad).unwrap();
        assert_eq!(find(data.path()).await.unwrap_err().code, ErrorCode::Internal, "{bad}");
        assert!(create(data.path(), KeyStore::File, "").await.is_err());
    }
    fs::write(&path, good).unwrap();
    fs::remove_file(data.path().join("root.key")).unwrap();
    assert!(find(data.path()).await.unwrap_err().message.contains("is gone"));
}

#[tokio::test]
async fn a_secret_service_that_is_away_leaves_the_store_locked() {
    let data = directory();
    let way = Way::SecretService { store: uuid::Uuid::now_v7().to_string() };
    record::write(data.path(), &Record::new(way)).unwrap();
    let (found, kind) = find(data.path()).await.unwrap();
    assert!(matches!(found, Found::NeedsSecretService(why) if !why.is_empty()));
    assert_eq!(kind, KeyStore::SecretService);
    assert_eq!(unlock(data.path(), "").await.unwrap_err().code, ErrorCode::Locked);
}

#[tokio::test]
async fn what_is_discarded_can_be_chosen_again_and_no_key_file_is_ever_lost() {
    let data = directory();
    let (key, _) = create(data.path(), KeyStore::File, "").await.unwrap();
    discard(data.path()).await;
    assert_eq!(find(data.path()).await.unwrap().0, Found::Nothing);
    assert_eq!(create(data.path(), KeyStore::File, "").await.unwrap().0, key);
    discard(data.path()).await;
    let (_, kind) = create(data.path(), KeyStore::Passphrase, "open sesame").await.unwrap();
    assert_eq!(kind, KeyStore::Passphrase);
}

// Not by `create`: on a desktop that would leave a key in somebody's keyring.
#[test]
fn when_the_secret_service_is_away_the_choice_is_the_persons() {
    for choice in [KeyStore::Auto, KeyStore::SecretService] {
        let error = cannot_keep(choice, "the default keyring is locked");
        assert_eq!(error.code, ErrorCode::Refused);
        assert!(error.message.contains("is locked"));
        let hint = error.hint.unwrap();
        assert!(hint.contains("--key-store passphrase") && hint.contains("--key-store file"));
    }
}
