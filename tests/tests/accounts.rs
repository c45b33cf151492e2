//! Signing in and out, devices, identities, what protects the store, and whom a server pretends to be.
//!
//! **Invariant**: a key that changed is never used before a person said so; a refusal has its own code, text and next
//! step.

use std::fs;

use anyhow::Result;
use fastchat_ipc::{
    AccountState, ErrorCode, KeyStore, Logout, MessageKind, MessageState, OfAccount, SignIn, TrustKey, Unlock, Wait,
    method,
};
use fastchat_tests::{PASSWORD, Person, Server};

async fn two(server: &Server) -> Result<(Person, Person)> {
    tokio::try_join!(Person::registered("alice", server), Person::registered("bob", server))
}

async fn notices(person: &mut Person, chat: &str) -> Result<Vec<String>> {
    let history = person.history(chat).await?.into_iter();
    Ok(history.filter(|message| message.kind == MessageKind::Notice).map(|message| message.text).collect())
}

#[tokio::test]
async fn a_wrong_password_a_taken_name_and_an_unknown_account_are_said() -> Result<()> {
    let server = Server::start().await?;
    let _alice = Person::registered("alice", &server).await?;
    let mut other = Person::new("other").await?;
    let taken = other.refusal::<method::Register>(&Person::sign_in(&server.account("alice"))).await?;
    assert_eq!(taken.code, ErrorCode::NameTaken, "{taken:?}");
    let wrong = SignIn { password: "not the password".into(), ..Person::sign_in(&server.account("alice")) };
    let refused = other.refusal::<method::Login>(&wrong).await?;
    assert_eq!(refused.code, ErrorCode::WrongPassword, "{refused:?}");
    // Whether the account exists is not told.
    let unknown = other.refusal::<method::Login>(&Person::sign_in(&server.account("nobody"))).await?;
    assert_eq!((unknown.code, &unknown.message), (ErrorCode::WrongPassword, &refused.message));
    let file = other.daemon.home().join("password");
    fs::write(&file, "not the password\n")?;
    let (address, file) = (server.account("alice"), file.display().to_string());
    let login = ["login", &address, "--accept-new", "--key-store", "file", "--password-file", &file];
    let ended = other.daemon.ctl().run(&login).await?.expect(7)?;
    assert!(ended.stderr.contains("password"), "{}", ended.stderr);
    assert!(other.call::<method::DaemonStatus>(&fastchat_ipc::Empty {}).await?.accounts.is_empty());
    Ok(())
}

#[tokio::test]
async fn registration_can_be_closed_or_by_invite() -> Result<()> {
    let mut server = Server::start_with("registration = \"invite\"").await?;
    let mut alice = Person::new("alice").await?;
    let asked = Person::sign_in(&server.account("alice"));
    let refused = alice.refusal::<method::Register>(&asked).await?;
    assert_eq!(refused.code, ErrorCode::RegistrationClosed, "{refused:?}");
    assert!(format!("{refused:?}").contains("invit"), "{refused:?}");
    let wrong = SignIn { invite: "made-up".into(), ..asked.clone() };
    assert_eq!(alice.refusal::<method::Register>(&wrong).await?.code, ErrorCode::RegistrationClosed);
    let created = server.command(&["invite", "create"]).await?;
    assert!(created.status.success(), "{created:?}");
    let invite = String::from_utf8(created.stdout)?.trim().to_owned();
    alice.call::<method::Register>(&SignIn { invite: invite.clone(), ..asked }).await?;
    // An invite for one account makes one.
    let mut bob = Person::new("bob").await?;
    let again = SignIn { invite, ..Person::sign_in(&server.account("bob")) };
    assert_eq!(bob.refusal::<method::Register>(&again).await?.code, ErrorCode::RegistrationClosed);
    server.stop().await?;
    server.configure("registration = \"closed\"")?;
    server.restart().await?;
    let closed = bob.refusal::<method::Register>(&Person::sign_in(&server.account("bob"))).await?;
    assert_eq!(closed.code, ErrorCode::RegistrationClosed);
    // Those who have an account are not concerned.
    alice.online().await?;
    Ok(())
}

#[tokio::test]
async fn a_new_device_has_the_same_identity_and_the_conversation_goes_on() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "from the first device").await?;
    bob.deliver("alice", "hello first").await?;
    let number = alice.safety_number("bob").await?;
    let mut second = Person::new("alice-2").await?;
    let account = second.call::<method::Login>(&Person::sign_in(&server.account("alice"))).await?;
    assert_eq!(account.fingerprint, alice.account().await?.fingerprint);
    second.online().await?;
    second.deliver("bob", "from the second device").await?;
    bob.hears("alice", "from the second device").await?;
    assert!(!bob.contact("alice").await?.key_changed);
    assert_eq!(second.safety_number("bob").await?, number);
    assert_eq!(bob.safety_number("alice").await?, number);
    // The first device goes on as well, and each shows what the other has sent.
    alice.deliver("bob", "from the first device again").await?;
    bob.deliver("alice", "hello both").await?;
    second.hears("bob", "hello both").await?;
    alice.hears("bob", "hello both").await?;
    assert_eq!(second.texts("bob").await?, ["from the second device", "from the first device again", "hello both"]);
    assert!(alice.texts("bob").await?.contains(&"from the second device".to_owned()));
    assert!(notices(&mut bob, "alice").await?.iter().any(|notice| notice.contains("device")));
    Ok(())
}

#[tokio::test]
async fn what_was_sent_to_a_device_that_is_gone_reaches_the_next_one_once() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "one").await?;
    bob.daemon.stop().await?;
    alice.send_and_wait("bob", "two", Wait::Sent).await?;
    alice.send_and_wait("bob", "three", Wait::Sent).await?;
    let mut second = Person::new("bob-2").await?;
    second.call::<method::Login>(&Person::sign_in(&server.account("bob"))).await?;
    second.hears("alice", "three").await?;
    alice.deliver("bob", "four").await?;
    assert_eq!(second.heard("alice").await?, ["two", "three", "four"]);
    assert_eq!(alice.texts("bob").await?, ["one", "two", "three", "four"]);
    Ok(())
}

#[tokio::test]
async fn a_changed_identity_holds_messages_until_it_is_trusted() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "hello").await?;
    bob.deliver("alice", "hello").await?;
    let before = bob.safety_number("alice").await?;
    let mut impostor = Person::new("alice-2").await?;
    let fresh = SignIn { new_identity: true, ..Person::sign_in(&server.account("alice")) };
    impostor.call::<method::Login>(&fresh).await?;
    impostor.online().await?;
    let sent = bob.send_and_wait("alice", "is that you?", Wait::Sent).await?;
    assert_eq!(sent.state, MessageState::Held, "{sent:?}");
    assert_eq!(sent.error.map(|error| error.code), Some(ErrorCode::IdentityChanged));
    let ended = bob.daemon.ctl().run(&["send", "alice", "-m", "hm", "--wait", "sent"]).await?.expect(4)?;
    assert!(ended.stderr.contains("key trust alice"), "{}", ended.stderr);
    assert!(bob.contact("alice").await?.key_changed);
    let keys = bob.daemon.ctl().ok(&["key", "show", "alice", "--json"]).await?;
    let keys: serde_json::Value = serde_json::from_str(&keys)?;
    let after = impostor.safety_number("bob").await.unwrap_or_default();
    assert_eq!(keys["safety_number"], before);
    assert_ne!(keys["changed_safety_number"], before);
    assert!(after.is_empty() || keys["changed_safety_number"] == after);
    assert!(impostor.heard("bob").await?.is_empty());
    // A verified number does not verify the new key.
    let old = fastchat_ipc::VerifyKey {
        contact: "alice".into(),
        safety_number: before.clone(),
        ..fastchat_ipc::VerifyKey::default()
    };
    assert_eq!(bob.refusal::<method::VerifyContactKey>(&old).await?.code, ErrorCode::IdentityChanged);
    bob.daemon.ctl().ok(&["key", "trust", "alice"]).await?;
    bob.sees("alice", &sent.id, MessageState::Delivered).await?;
    impostor.hears("bob", "hm").await?;
    assert_eq!(impostor.heard("bob").await?, ["is that you?", "hm"]);
    assert_ne!(bob.safety_number("alice").await?, before);
    assert_eq!(bob.safety_number("alice").await?, impostor.safety_number("bob").await?);
    impostor.deliver("bob", "yes, a new start").await?;
    Ok(())
}

#[tokio::test]
async fn messages_of_a_changed_identity_wait_until_it_is_trusted() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "hello").await?;
    let mut second = Person::new("alice-2").await?;
    let fresh = SignIn { new_identity: true, ..Person::sign_in(&server.account("alice")) };
    second.call::<method::Login>(&fresh).await?;
    second.online().await?;
    let sent = second.send_and_wait("bob", "it is me, honestly", Wait::Sent).await?;
    assert_eq!(sent.state, MessageState::Sent, "{sent:?}");
    bob.until("the change is seen", async |bob| Ok(bob.contact("alice").await?.key_changed.then_some(()))).await?;
    assert_eq!(bob.heard("alice").await?, ["hello"]);
    // Nor does a restart let it through.
    bob.daemon.kill().await?;
    bob.daemon.start().await?;
    bob.online().await?;
    assert_eq!(bob.heard("alice").await?, ["hello"]);
    let alice = TrustKey { contact: "alice".into(), ..TrustKey::default() };
    bob.call::<method::TrustContactKey>(&alice).await?;
    bob.hears("alice", "it is me, honestly").await?;
    second.sees("bob", &sent.id, MessageState::Delivered).await
}

#[tokio::test]
async fn after_logout_nothing_is_left_and_the_name_can_come_back() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    bob.deliver("alice", "hello").await?;
    alice.call::<method::LogoutAccount>(&Logout::default()).await?;
    assert_eq!(alice.refusal::<method::ListChats>(&OfAccount::default()).await?.code, ErrorCode::NoAccount);
    alice.call::<method::Login>(&Person::sign_in(&server.account("alice"))).await?;
    alice.online().await?;
    assert!(alice.texts("bob").await?.is_empty());
    alice.deliver("bob", "back").await?;
    bob.hears("alice", "back").await?;
    bob.deliver("alice", "welcome back").await?;
    Ok(())
}

#[tokio::test]
async fn messages_in_the_outbox_are_not_dropped_by_a_plain_logout() -> Result<()> {
    let mut server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    server.stop().await?;
    alice.send("bob", "not out yet").await?;
    assert_eq!(alice.refusal::<method::LogoutAccount>(&Logout::default()).await?.code, ErrorCode::Refused);
    let ended = alice.daemon.ctl().run(&["logout", "--yes"]).await?;
    assert_ne!(ended.code, 0, "{ended:?}");
    alice.call::<method::LogoutAccount>(&Logout { force: true, ..Logout::default() }).await?;
    assert!(alice.call::<method::DaemonStatus>(&fastchat_ipc::Empty {}).await?.accounts.is_empty());
    Ok(())
}

#[tokio::test]
async fn one_daemon_holds_several_accounts_apart() -> Result<()> {
    let server = Server::start().await?;
    let (mut both, mut bob) = two(&server).await?;
    both.call::<method::Register>(&Person::sign_in(&server.account("work"))).await?;
    bob.deliver("alice", "for alice").await?;
    bob.deliver("work", "for work").await?;
    let of = |account: &str| fastchat_ipc::History {
        account: account.into(),
        chat: "bob".into(),
        ..fastchat_ipc::History::default()
    };
    for (account, text) in [("alice", "for alice"), ("work", "for work")] {
        let messages = both.call::<method::ReadHistory>(&of(account)).await?.messages;
        assert_eq!(messages.iter().map(|message| message.text.as_str()).collect::<Vec<_>>(), [text]);
    }
    both.daemon.ctl().ok(&["--account", "work", "send", "bob", "-m", "from work", "--wait", "delivered"]).await?;
    bob.hears("work", "from work").await?;
    assert!(bob.heard("alice").await?.is_empty());
    both.call::<method::LogoutAccount>(&Logout { account: "work".into(), force: false }).await?;
    both.deliver("bob", "alice is still here").await?;
    Ok(())
}

#[tokio::test]
async fn a_passphrase_locks_the_store_after_each_start() -> Result<()> {
    let server = Server::start().await?;
    let mut alice = Person::new("alice").await?;
    let passphrase = "open sesame, please";
    let sign_in = SignIn {
        key_store: KeyStore::Passphrase,
        passphrase: passphrase.into(),
        ..Person::sign_in(&server.account("alice"))
    };
    alice.call::<method::Register>(&sign_in).await?;
    alice.online().await?;
    alice.daemon.kill().await?;
    alice.daemon.start().await?;
    let status = alice.call::<method::DaemonStatus>(&fastchat_ipc::Empty {}).await?;
    assert!(status.locked && status.key_store == KeyStore::Passphrase, "{status:?}");
    assert_eq!(alice.refusal::<method::ListChats>(&OfAccount::default()).await?.code, ErrorCode::Locked);
    let ended = alice.daemon.ctl().run(&["chats"]).await?.expect(7)?;
    assert!(ended.stderr.contains("fastchatctl unlock"), "{}", ended.stderr);
    let wrong = alice.refusal::<method::DaemonUnlock>(&Unlock { passphrase: "open barley".into() }).await?;
    assert!(matches!(wrong.code, ErrorCode::WrongPassword | ErrorCode::Locked | ErrorCode::Refused), "{wrong:?}");
    alice.daemon.ctl().fed(&format!("{passphrase}\n"), &["unlock", "--passphrase-stdin"]).await?.expect(0)?;
    alice.online().await?;
    Ok(())
}

#[tokio::test]
async fn an_unknown_server_is_trusted_only_when_told_so() -> Result<()> {
    let server = Server::start().await?;
    let mut alice = Person::new("alice").await?;
    let address = server.account("alice");
    let asked = SignIn { accept_new: false, ..Person::sign_in(&address) };
    let refused = alice.refusal::<method::Register>(&asked).await?;
    assert_eq!(refused.code, ErrorCode::UntrustedServer, "{refused:?}");
    assert_eq!(refused.data["pin"], server.pin());
    let password = format!("{PASSWORD}\n");
    let register = ["register", &address, "--key-store", "file", "--password-stdin"];
    let ended = alice.daemon.ctl().fed(&password, &register).await?.expect(4)?;
    assert!(ended.stderr.contains("--accept-new"), "{}", ended.stderr);
    let register = [&register[..], &["--accept-new"]].concat();
    alice.daemon.ctl().fed(&password, &register).await?.expect(0)?;
    assert_eq!(alice.online().await?.pin, server.pin());
    Ok(())
}

#[tokio::test]
async fn a_server_whose_certificate_changed_gets_nothing() -> Result<()> {
    let mut server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    let pin = server.pin().to_owned();
    server.stop().await?;
    let mut removed = 0;
    for entry in fs::read_dir(server.data())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            fs::remove_file(&path)?;
            removed += 1;
        }
    }
    assert!(removed > 0, "the certificate is elsewhere");
    server.restart().await?;
    assert_ne!(server.pin(), pin);
    let account = alice.in_state(AccountState::Untrusted).await?;
    assert!(account.reason.contains("HAS CHANGED") && account.reason.contains("--pin"), "{}", account.reason);
    let sent = alice.send("bob", "not to be seen").await?;
    assert_eq!(sent.state, MessageState::Queued);
    let trusted = SignIn { pin: pin.clone(), accept_new: false, ..Person::sign_in(&server.account("alice")) };
    let refused = alice.refusal::<method::Login>(&trusted).await?;
    assert_eq!(refused.code, ErrorCode::ServerChanged, "{refused:?}");
    let (address, password) = (server.account("alice"), format!("{PASSWORD}\n"));
    let login = ["login", &address, "--pin", &pin, "--password-stdin"];
    let ended = alice.daemon.ctl().fed(&password, &login).await?.expect(4)?;
    assert!(ended.stderr.contains("CHANGED"), "{}", ended.stderr);
    // When the operator has confirmed the new key, the account goes on with it, and so does what waited.
    let _bob = Person::registered("bob", &server).await?;
    let fresh = server.pin().to_owned();
    let login = ["login", &address, "--pin", &fresh, "--password-stdin"];
    alice.daemon.ctl().fed(&password, &login).await?.expect(0)?;
    alice.sees("bob", &sent.id, MessageState::Delivered).await
}
