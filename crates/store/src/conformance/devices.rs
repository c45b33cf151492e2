//! Several devices of one account.
//!
//! **Invariant**: each check uses accounts of its own.

use fastchat_wire::DeviceId;

use super::{log_in, login, person, token};
use crate::{AddDevice, ChangePassword, DeviceAdded, Kdf, RotateIdentity, Store, StoreError};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    a_login_adds_a_device(store).await?;
    a_new_identity_comes_alone(store).await?;
    a_device_goes_with_all_that_is_its_own(store).await?;
    devices_have_names_and_are_seen(store).await?;
    a_password_change_ends_others_if_asked(store).await?;
    a_rotation_keeps_one_device(store).await
}

async fn a_login_adds_a_device<S: Store>(store: &S) -> Result<(), StoreError> {
    let (old, other) = (person(store, "d.login").await?, person(store, "d.bystander").await?);
    let taken = store.add_device(login(&old.name, other.device)).await?;
    assert_eq!(taken, DeviceAdded::DeviceTaken);
    let nobody = super::name("d.nobody");
    assert_eq!(store.add_device(login(&nobody, DeviceId::generate())).await?, DeviceAdded::NoAccount);
    let new = log_in(store, &old).await?;
    for device in [old.device, new.device] {
        let session = store.device_by_token(token(device, 0), 2).await?;
        assert_eq!(session.map(|session| session.device), Some(device), "both are logged in");
        assert!(store.device_state(device, 10).await?.is_some());
    }
    // The same device again takes its own place.
    let again = store.add_device(login(&old.name, new.device)).await?;
    assert!(matches!(&again, DeviceAdded::Done(change) if change.removed == [new.device]), "{again:?}");
    log_in(store, &old).await?;
    log_in(store, &old).await?;
    assert_eq!(store.add_device(login(&old.name, DeviceId::generate())).await?, DeviceAdded::TooMany);
    assert_eq!(store.devices(old.name).await?.len(), 4);
    Ok(())
}

async fn a_new_identity_comes_alone<S: Store>(store: &S) -> Result<(), StoreError> {
    let old = person(store, "d.identity").await?;
    let second = log_in(store, &old).await?;
    let new = DeviceId::generate();
    let identity = Some(("new key".into(), "new backup".into()));
    let added = store.add_device(AddDevice { identity, ..login(&old.name, new) }).await?;
    let DeviceAdded::Done(change) = added else { unreachable!("{added:?}") };
    let mut expected = [old.device, second.device];
    expected.sort_unstable();
    assert_eq!(change.removed, expected);
    assert!(store.device_by_token(token(old.device, 0), 2).await?.is_none());
    assert!(store.device_state(old.device, 10).await?.is_none());
    assert_eq!(store.identity_key(old.name).await?, Some("new key".into()));
    Ok(())
}

async fn a_device_goes_with_all_that_is_its_own<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, other) = (person(store, "d.revoke").await?, person(store, "d.others").await?);
    let second = log_in(store, &one).await?;
    assert!(store.remove_device(other.name.clone(), second.device).await?.is_none(), "not that account's");
    let change = store.remove_device(one.name.clone(), second.device).await?;
    assert_eq!(change.map(|change| change.removed), Some(vec![second.device]));
    assert!(store.remove_device(one.name.clone(), second.device).await?.is_none());
    assert!(store.device_by_token(token(second.device, 0), 2).await?.is_none());
    assert!(store.device_by_token(token(one.device, 0), 2).await?.is_some());
    assert_eq!(store.devices(one.name).await?.len(), 1);
    Ok(())
}

async fn devices_have_names_and_are_seen<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, other) = (person(store, "d.names").await?, person(store, "d.namesake").await?);
    assert!(store.rename_device(one.name.clone(), one.device, "desk".into()).await?);
    assert!(!store.rename_device(other.name, one.device, "stolen".into()).await?);
    store.note_seen(one.device, 7_200).await?;
    store.note_seen(one.device, 3_600).await?;
    let devices = store.devices(one.name.clone()).await?;
    let shown: Vec<_> = devices.iter().map(|record| (record.name.as_str(), record.added_ms, record.seen_ms)).collect();
    assert_eq!(shown, [("desk", 1, 7_200)]);
    let session = store.device_by_token(token(one.device, 0), 2).await?;
    assert_eq!(session.map(|session| session.seen_ms), Some(7_200));
    Ok(())
}

async fn a_password_change_ends_others_if_asked<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "d.password").await?;
    let second = log_in(store, &one).await?;
    let change = |hash: &str, only_device| ChangePassword {
        account: one.name.clone(),
        kdf: Kdf { salt: bytes::Bytes::from_static(&[2; 16]), memory_kib: 8, iterations: 1, parallelism: 1 },
        auth_hash: hash.into(),
        identity_backup: "sealed anew".into(),
        only_device,
    };
    let changed = store.change_password(change("second", None)).await?;
    assert_eq!(changed.map(|changed| changed.removed), Some(Vec::new()));
    let strange = store.change_password(change("third", Some(DeviceId::generate()))).await?;
    assert!(strange.is_none());
    let record = store.account(one.name.clone()).await?;
    let shown = record.map(|record| (record.auth_hash, record.identity_backup, record.kdf.memory_kib));
    assert_eq!(shown, Some(("second".into(), "sealed anew".into(), 8)));
    let changed = store.change_password(change("third", Some(second.device))).await?;
    assert_eq!(changed.map(|changed| changed.removed), Some(vec![one.device]));
    assert!(store.device_by_token(token(second.device, 0), 2).await?.is_some());
    Ok(())
}

async fn a_rotation_keeps_one_device<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "d.rotate").await?;
    let second = log_in(store, &one).await?;
    store.publish_key_packages(one.device, vec!["old".into()], Some("old last".into()), 10, 2).await?;
    let rotation = |device| RotateIdentity {
        account: one.name.clone(),
        identity_key: "fresh key".into(),
        identity_backup: "fresh backup".into(),
        device,
        certificate: "fresh certificate".into(),
    };
    assert!(store.rotate_identity(rotation(DeviceId::generate())).await?.is_none());
    assert_eq!(store.identity_key(one.name.clone()).await?, Some("key of d.rotate".into()), "nothing was changed");
    let change = store.rotate_identity(rotation(one.device)).await?;
    assert_eq!(change.map(|change| change.removed), Some(vec![second.device]));
    assert_eq!(store.identity_key(one.name.clone()).await?, Some("fresh key".into()));
    let devices = store.devices(one.name.clone()).await?;
    assert_eq!(devices.first().map(|record| record.certificate.clone()), Some("fresh certificate".into()));
    let claim = crate::Claim { account: one.name.clone(), by: DeviceId::generate(), reserve: 0, now_ms: 2 };
    let claimed = store.claim_key_packages(claim).await?;
    assert_eq!(claimed.map(|claimed| claimed.packages), Some(Vec::new()), "packages of the old identity are gone");
    assert_eq!(super::offer(store, &one, 3).await?, Some(Vec::new()), "and it counts when there are new ones");
    Ok(())
}
