//! Accounts, devices, tokens, key packages, invites.
//!
//! **Invariant**: each check uses accounts of its own.

use bytes::Bytes;
use fastchat_wire::DeviceId;

use super::{account_of, device_of, name, person, token};
use crate::{CreateAccount, InviteHash, NewInvite, ReplaceDevice, Replacement, Store, StoreError};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    a_name_is_given_once(store).await?;
    a_secret_stays(store).await?;
    a_login_replaces_the_device(store).await?;
    tokens_end(store).await?;
    a_key_package_is_handed_out_once(store).await?;
    an_invite_has_its_uses(store).await
}

async fn a_name_is_given_once<S: Store>(store: &S) -> Result<(), StoreError> {
    let first = person(store, "a.once").await?;
    let again = store.create_account(account_of("a.once"), device_of(DeviceId::generate()), None, 1).await?;
    assert_eq!(again, CreateAccount::NameTaken);
    let same_device = store.create_account(account_of("a.other"), device_of(first.device), None, 1).await?;
    assert_eq!(same_device, CreateAccount::DeviceTaken);
    let record = store.account(first.name.clone()).await?;
    assert_eq!(record.map(|record| record.auth_hash), Some("hash of a.once".to_owned()));
    assert!(store.account(name("a.other")).await?.is_none());
    assert_eq!(store.identity_key(first.name).await?, Some("key of a.once".into()));
    Ok(())
}

async fn a_secret_stays<S: Store>(store: &S) -> Result<(), StoreError> {
    assert_eq!(store.server_secret("test", [1; 32]).await?, [1; 32]);
    assert_eq!(store.server_secret("test", [2; 32]).await?, [1; 32]);
    Ok(())
}

async fn a_login_replaces_the_device<S: Store>(store: &S) -> Result<(), StoreError> {
    let (old, other) = (person(store, "a.login").await?, person(store, "a.bystander").await?);
    let login = |account: &str, device| ReplaceDevice {
        account: name(account),
        device: device_of(device),
        identity: Some(("new key".into(), "new backup".into())),
        now_ms: 2,
    };
    let taken = store.replace_device(login("a.login", other.device)).await?;
    assert_eq!(taken, Replacement::DeviceTaken);
    assert_eq!(store.replace_device(login("a.nobody", DeviceId::generate())).await?, Replacement::NoAccount);
    let new = DeviceId::generate();
    let Replacement::Done(removed) = store.replace_device(login("a.login", new)).await? else {
        unreachable!("the login must work")
    };
    assert_eq!(removed.iter().map(|removed| removed.device).collect::<Vec<_>>(), [old.device]);
    assert!(store.device_by_token(token(old.device, 0), 2).await?.is_none());
    let session = store.device_by_token(token(new, 0), 2).await?;
    assert_eq!(session.map(|session| session.device), Some(new));
    assert_eq!(store.identity_key(old.name).await?, Some("new key".into()));
    assert!(store.device_state(old.device, 10).await?.is_none());
    assert!(store.device_state(new, 10).await?.is_some());
    assert!(store.remove_device(new).await?.is_some());
    assert!(store.remove_device(new).await?.is_none());
    assert!(store.device_by_token(token(new, 0), 2).await?.is_none());
    Ok(())
}

async fn tokens_end<S: Store>(store: &S) -> Result<(), StoreError> {
    let person = person(store, "a.token").await?;
    assert!(store.device_by_token(token(person.device, 0), 999_999).await?.is_some());
    assert!(store.device_by_token(token(person.device, 0), 1_000_000).await?.is_none());
    assert!(store.add_token(person.device, token(person.device, 1), 2_000_000, 10).await?);
    assert!(store.device_by_token(token(person.device, 0), 999_999).await?.is_some(), "the old one is good as well");
    assert!(store.device_by_token(token(person.device, 1), 1_000_000).await?.is_some());
    assert!(!store.add_token(DeviceId::generate(), token(person.device, 2), 2_000_000, 10).await?);
    Ok(())
}

async fn a_key_package_is_handed_out_once<S: Store>(store: &S) -> Result<(), StoreError> {
    let person = person(store, "a.packages").await?;
    let one_time: Vec<Bytes> = ["1", "2", "3", "4"].into_iter().map(Bytes::from).collect();
    let publish = |one_time, last| store.publish_key_packages(person.device, one_time, last, 3);
    assert_eq!(publish(one_time, None).await?, Some(3), "the oldest beyond the bound goes");
    let mut claimed = Vec::new();
    for _ in 0..3 {
        let claim = store.claim_key_packages(person.name.clone()).await?;
        claimed.extend(claim.into_iter().flat_map(|claim| claim.packages).map(|(_, package)| package));
    }
    assert_eq!(claimed, ["2", "3", "4"]);
    let none = store.claim_key_packages(person.name.clone()).await?;
    assert_eq!(none.map(|claim| (claim.packages.len(), claim.without)), Some((0, 1)));
    for last in ["old", "last"] {
        assert_eq!(publish(Vec::new(), Some(last.into())).await?, Some(0));
    }
    for _ in 0..2 {
        let claim = store.claim_key_packages(person.name.clone()).await?;
        assert_eq!(claim.map(|claim| claim.packages), Some(vec![(person.device, "last".into())]));
    }
    assert!(store.claim_key_packages(name("a.nobody")).await?.is_none());
    assert_eq!(store.publish_key_packages(DeviceId::generate(), Vec::new(), None, 3).await?, None);
    Ok(())
}

async fn an_invite_has_its_uses<S: Store>(store: &S) -> Result<(), StoreError> {
    let hash = InviteHash([0xab; 32]);
    let invite = NewInvite { hash, uses: 1, expires_ms: 100, note: "for a".into(), now_ms: 1 };
    store.create_invite(invite.clone()).await?;
    let register = |account: &str, invite, now_ms| {
        store.create_account(account_of(account), device_of(DeviceId::generate()), Some(invite), now_ms)
    };
    assert_eq!(register("a.invited", InviteHash([0; 32]), 1).await?, CreateAccount::InviteRefused);
    assert_eq!(register("a.invited", hash, 100).await?, CreateAccount::InviteRefused, "expired");
    assert_eq!(store.invites(1).await?.first().map(|invite| invite.id.clone()), Some("abababab".to_owned()));
    assert_eq!(register("a.invited", hash, 99).await?, CreateAccount::Created);
    assert_eq!(register("a.second", hash, 99).await?, CreateAccount::InviteRefused, "used up");
    assert!(store.invites(1).await?.is_empty());
    store.create_invite(NewInvite { hash: InviteHash([0xcd; 32]), ..invite }).await?;
    assert!(!store.revoke_invite("cdcd".into()).await?, "too short to be sure");
    assert!(store.revoke_invite("cdcdcdcd".into()).await?);
    assert_eq!(register("a.second", InviteHash([0xcd; 32]), 1).await?, CreateAccount::InviteRefused);
    Ok(())
}
