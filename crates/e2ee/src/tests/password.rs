//! Password keys and identity backups.
//!
//! **Invariant**: see [`super`].

use super::people::{ALICE, BOB, identity_of};
use crate::{BackupError, KdfParams, PasswordError, PasswordKeys};

/// The cheapest that is accepted.
fn cheap() -> KdfParams {
    KdfParams { salt: (0..16).collect(), memory_kib: 19 * 1024, iterations: 2, parallelism: 1 }
}

fn keys(password: &str, account: &str) -> PasswordKeys {
    PasswordKeys::derive(password, account, &cheap()).unwrap()
}

#[test]
fn a_known_password_gives_its_known_auth_secret() {
    let auth = keys("correct horse battery staple", ALICE).auth;
    assert_eq!(*auth, "b4b69b224c2e4f68f6c12cfaef0b6e8fca2e08116c9318cceec5b15906e1123c");
}

#[test]
fn the_auth_secret_is_bound_to_account_salt_and_password() {
    let auth = keys("password", ALICE).auth;
    assert_ne!(auth, keys("password", BOB).auth);
    assert_ne!(auth, keys("Password", ALICE).auth);
    let other_salt = KdfParams { salt: vec![9; 16], ..cheap() };
    assert_ne!(auth, PasswordKeys::derive("password", ALICE, &other_salt).unwrap().auth);
}

#[test]
fn parameters_that_are_weak_costly_or_malformed_are_refused() {
    cheap().validate().unwrap();
    let generated = KdfParams::generate();
    generated.validate().unwrap();
    assert_eq!((generated.memory_kib, generated.iterations, generated.parallelism), (65536, 3, 1));
    assert_ne!(generated.salt, KdfParams::generate().salt);
    let hostile = [
        KdfParams { memory_kib: 19 * 1024 - 1, ..cheap() },
        KdfParams { memory_kib: 8, ..cheap() },
        KdfParams { memory_kib: u32::MAX, ..cheap() },
        KdfParams { memory_kib: 1024 * 1024 + 1, ..cheap() },
        KdfParams { iterations: 0, ..cheap() },
        KdfParams { iterations: 1, ..cheap() },
        KdfParams { iterations: 17, ..cheap() },
        KdfParams { parallelism: 0, ..cheap() },
        KdfParams { parallelism: 9, ..cheap() },
        KdfParams { salt: vec![], ..cheap() },
        KdfParams { salt: vec![0; 15], ..cheap() },
        KdfParams { salt: vec![0; 17], ..cheap() },
    ];
    for params in hostile {
        let refused = PasswordKeys::derive("password", ALICE, &params);
        assert!(matches!(refused, Err(PasswordError::Parameters { .. })), "{params:?}");
    }
}

#[test]
fn an_empty_or_endless_password_is_refused() {
    assert_eq!(PasswordKeys::derive("", ALICE, &cheap()).unwrap_err(), PasswordError::Length);
    assert_eq!(PasswordKeys::derive(&"x".repeat(1025), ALICE, &cheap()).unwrap_err(), PasswordError::Length);
}

#[test]
fn a_backup_opens_with_the_same_password_and_account_alone() {
    let backup = keys("password", ALICE).backup.seal_identity(identity_of(ALICE), ALICE).unwrap();
    let restored = keys("password", ALICE).backup.open_identity(&backup, ALICE).unwrap();
    assert_eq!(restored.public(), identity_of(ALICE).public());
    let refused = |password: &str, account: &str| {
        let result = keys(password, account).backup.open_identity(&backup, account);
        assert!(matches!(result, Err(BackupError::WrongKey)));
    };
    refused("wrong", ALICE);
    refused("password", BOB);
    let other_account = keys("password", ALICE).backup.open_identity(&backup, BOB);
    assert!(matches!(other_account, Err(BackupError::WrongKey)));
}

#[test]
fn an_altered_or_truncated_backup_is_refused() {
    let keys = keys("password", ALICE);
    let backup = keys.backup.seal_identity(identity_of(ALICE), ALICE).unwrap();
    for position in [0, 1, 13, backup.len() - 1] {
        let mut altered = backup.clone();
        altered[position] ^= 1;
        assert!(keys.backup.open_identity(&altered, ALICE).is_err(), "byte {position}");
    }
    for length in [0, 1, 12, 13, backup.len() - 1] {
        assert!(keys.backup.open_identity(&backup[..length], ALICE).is_err(), "length {length}");
    }
}
