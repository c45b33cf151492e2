//! Accounts, tokens, key packages, invites.
//!
//! **Invariant**: each check uses accounts of its own.

use bytes::Bytes;
use fastchat_wire::DeviceId;

use super::{account_of, device_of, name, person, token};
use crate::{Claim, Claimed, CreateAccount, InviteHash, NewInvite, Store, StoreError};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    a_name_is_given_once(store).await?;
    a_secret_stays(store).await?;
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
    let publish = async |one_time, last| {
        let published = store.publish_key_packages(person.device, one_time, last, 3, 2).await?;
        Ok::<_, StoreError>(published.map(|published| published.one_time))
    };
    assert_eq!(publish(one_time, None).await?, Some(3), "the oldest beyond the bound goes");
    let claim = |reserve| {
        let claim = Claim { account: person.name.clone(), by: DeviceId::generate(), reserve, now_ms: 2 };
        store.claim_key_packages(claim)
    };
    let packages = |claimed: Option<Claimed>| claimed.map(|claimed| claimed.packages).unwrap_or_default();
    let mut claimed = Vec::new();
    for _ in 0..3 {
        claimed.extend(packages(claim(0).await?).into_iter().map(|(_, package)| package));
    }
    assert_eq!(claimed, ["2", "3", "4"]);
    for _ in 0..2 {
        assert_eq!(packages(claim(0).await?), [(person.device, Bytes::from("last"))]);
    }
    for last in ["newer", "last"] {
        assert_eq!(publish(Vec::new(), Some(last.into())).await?, Some(0));
        assert_eq!(packages(claim(0).await?), [(person.device, Bytes::from(last))]);
    }
    // What is kept from strangers is there for friends.
    assert_eq!(publish(["5", "6", "7"].into_iter().map(Bytes::from).collect(), None).await?, Some(3));
    for (reserve, expected) in [(2, "5"), (2, "last"), (u32::MAX, "last"), (0, "6")] {
        assert_eq!(packages(claim(reserve).await?), [(person.device, Bytes::from(expected))], "reserve {reserve}");
    }
    let nobody = Claim { account: name("a.nobody"), by: DeviceId::generate(), reserve: 0, now_ms: 2 };
    assert!(store.claim_key_packages(nobody).await?.is_none());
    assert_eq!(store.publish_key_packages(DeviceId::generate(), Vec::new(), None, 3, 2).await?, None);
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
