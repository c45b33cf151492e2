//! Several devices of one account: what each has of the others' messages, chats, groups and trust; coming and going.
//!
//! **Invariant**: a device that is in has everything from then on; one that is out has nothing more.

use anyhow::{Context, Result};
use fastchat_ipc::{
    AccountState, Backup, BackupFile, ErrorCode, EventKind, MarkRead, Message, MessageKind, MessageState, OfAccount,
    OfMessage, PasswordChange, Rotation, ShowKey, TrustKey, VerifyKey, Wait, method,
};
use fastchat_tests::{PASSWORD, Person, Server, agree};

async fn two(server: &Server) -> Result<(Person, Person)> {
    tokio::try_join!(Person::registered("alice", server), Person::registered("bob", server))
}

/// What is unread in all chats.
async fn unread(person: &mut Person) -> Result<u64> {
    let unread = person.call::<method::CountUnread>(&OfAccount::default()).await?;
    Ok(unread.direct + unread.group + unread.requests)
}

async fn notices(person: &mut Person, chat: &str) -> Result<Vec<String>> {
    let history: Vec<Message> = person.history(chat).await?;
    Ok(history.into_iter().filter(|message| message.kind == MessageKind::Notice).map(|m| m.text).collect())
}

#[tokio::test]
async fn what_one_device_sends_shows_on_the_other_as_mine() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    let mut phone = laptop.another_device(&server).await?;
    laptop.deliver("bob", "from the laptop").await?;
    phone.has_said("bob", "from the laptop").await?;
    phone.deliver("bob", "from the phone").await?;
    laptop.has_said("bob", "from the phone").await?;
    bob.deliver("alice", "to both").await?;
    laptop.hears("bob", "to both").await?;
    phone.hears("bob", "to both").await?;
    let all = ["from the laptop", "from the phone", "to both"];
    assert_eq!(laptop.texts("bob").await?, all);
    assert_eq!(phone.texts("bob").await?, all);
    assert_eq!(bob.texts("alice").await?, all);
    assert_eq!(laptop.safety_number("bob").await?, phone.safety_number("bob").await?);
    // What the other side has is told to both.
    let sent = laptop.history("bob").await?.remove(1);
    phone.sees("bob", &sent.id, MessageState::Delivered).await
}

#[tokio::test]
async fn a_device_that_was_away_has_everything_when_it_comes_back() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut desk) = two(&server).await?;
    let (mut phone, mut tablet) = tokio::try_join!(laptop.another_device(&server), desk.another_device(&server))?;
    laptop.deliver("bob", "hello").await?;
    for device in [&mut desk, &mut tablet] {
        device.hears("alice", "hello").await?;
    }
    phone.daemon.stop().await?;
    tablet.daemon.kill().await?;
    for round in 0..5 {
        laptop.deliver("bob", &format!("alice {round}")).await?;
        desk.deliver("alice", &format!("bob {round}")).await?;
    }
    phone.daemon.start().await?;
    tablet.daemon.start().await?;
    phone.hears("bob", "bob 4").await?;
    tablet.has_said("alice", "bob 4").await?;
    let texts = laptop.texts("bob").await?;
    assert_eq!(texts.len(), 11);
    assert_eq!(phone.texts("bob").await?, texts);
    assert_eq!(desk.texts("alice").await?, texts);
    assert_eq!(tablet.texts("alice").await?, texts);
    Ok(())
}

#[tokio::test]
async fn what_was_read_on_one_device_is_read_on_the_other() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    let mut phone = laptop.another_device(&server).await?;
    laptop.deliver("bob", "hello").await?;
    bob.deliver("alice", "read me once").await?;
    bob.deliver("alice", "and me").await?;
    bob.make_group("ops", &["alice"]).await?;
    phone.sees_devices("ops", "alice", 2).await?;
    laptop.sees_devices("ops", "alice", 2).await?;
    bob.say("ops", "in the group").await?;
    for device in [&mut laptop, &mut phone] {
        device.hears("bob", "and me").await?;
        device.hears("ops", "in the group").await?;
        assert!(unread(device).await? >= 3);
    }
    for chat in ["bob", "ops"] {
        phone.call::<method::MarkChatRead>(&MarkRead { chat: chat.into(), ..MarkRead::default() }).await?;
    }
    assert_eq!(unread(&mut phone).await?, 0);
    laptop.until("all is read here too", async |laptop| Ok((unread(laptop).await? == 0).then_some(()))).await
}

#[tokio::test]
async fn a_new_device_gets_into_chats_and_groups_and_is_seen_to_come() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    laptop.deliver("bob", "before").await?;
    bob.deliver("alice", "before too").await?;
    laptop.make_group("ops", &["bob"]).await?;
    laptop.deliver("ops", "before in the group").await?;
    bob.call::<method::MarkChatRead>(&MarkRead { chat: "ops".into(), ..MarkRead::default() }).await?;
    let (_, cursor) = laptop.events("0").await?;
    let mut phone = laptop.another_device(&server).await?;
    // The account's other devices hear of it, whoever brought it.
    let id = phone.device().await?;
    laptop
        .until("the new device is told", async |laptop| {
            let (events, _) = laptop.events(&cursor).await?;
            let new = |kind: &EventKind| matches!(kind, EventKind::NewDevice { device, .. } if *device == id);
            Ok(events.iter().any(|event| new(&event.kind)).then_some(()))
        })
        .await?;
    assert_eq!(laptop.devices().await?.len(), 2);
    // It comes into the group by itself, and sees nothing from before.
    for person in [&mut laptop, &mut bob, &mut phone] {
        person.sees_devices("ops", "alice", 2).await?;
    }
    agree(&mut [&mut laptop, &mut bob, &mut phone], "ops", &["alice", "bob"]).await?;
    bob.say("ops", "hello both").await?;
    phone.hears("ops", "hello both").await?;
    assert_eq!(phone.texts("ops").await?, ["hello both"]);
    phone.say("ops", "from the phone").await?;
    laptop.has_said("ops", "from the phone").await?;
    bob.hears("ops", "from the phone").await?;
    // Contacts see a quiet line in the group and in the chat: nothing to be called for.
    assert!(notices(&mut bob, "ops").await?.iter().any(|text| text == "alice has a new device"));
    let quiet = bob.call::<method::CountUnread>(&OfAccount::default()).await?;
    assert_eq!(quiet.group, 1, "only the message counts: {quiet:?}");
    phone.deliver("bob", "from the phone, to you").await?;
    bob.hears("alice", "from the phone, to you").await?;
    assert!(notices(&mut bob, "alice").await?.iter().any(|text| text.contains("device")));
    assert!(!bob.contact("alice").await?.key_changed);
    laptop.has_said("bob", "from the phone, to you").await
}

#[tokio::test]
async fn a_revoked_device_is_out_of_everything() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    let mut phone = laptop.another_device(&server).await?;
    laptop.make_group("ops", &["bob"]).await?;
    for person in [&mut laptop, &mut bob, &mut phone] {
        person.sees_devices("ops", "alice", 2).await?;
    }
    laptop.deliver("bob", "with the phone").await?;
    phone.has_said("bob", "with the phone").await?;
    let id = phone.device().await?;
    phone.daemon.stop().await?;
    let stolen = phone.daemon.save()?;
    phone.daemon.start().await?;
    phone.online().await?;
    laptop.revoke(&id).await?;
    // Its token is worth nothing, its leaves go.
    phone.in_state(AccountState::LoggedOut).await?;
    for person in [&mut laptop, &mut bob] {
        person.sees_devices("ops", "alice", 1).await?;
    }
    agree(&mut [&mut laptop, &mut bob], "ops", &["alice", "bob"]).await?;
    bob.deliver("alice", "without the phone").await?;
    bob.say("ops", "without the phone either").await?;
    laptop.hears("bob", "without the phone").await?;
    laptop.hears("ops", "without the phone either").await?;
    assert_eq!(laptop.devices().await?.len(), 1);
    // Not even with what it had before.
    phone.daemon.stop().await?;
    phone.daemon.restore(&stolen)?;
    phone.daemon.start().await?;
    phone.in_state(AccountState::LoggedOut).await?;
    assert_eq!(phone.texts("ops").await?, Vec::<String>::new());
    assert_eq!(phone.texts("bob").await?, ["with the phone"]);
    assert_eq!(phone.send("ops", "am i still in?").await?.state, MessageState::Queued);
    Ok(())
}

#[tokio::test]
async fn a_device_that_lost_its_state_comes_back_by_itself() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "first").await?;
    bob.deliver("alice", "first too").await?;
    alice.make_group("ops", &["bob"]).await?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    bob.daemon.stop().await?;
    let old = bob.daemon.save()?;
    bob.daemon.start().await?;
    alice.set_topic("ops", "later").await?;
    alice.deliver("ops", "in the group").await?;
    alice.deliver("bob", "in the chat").await?;
    bob.deliver("alice", "an answer").await?;
    bob.daemon.stop().await?;
    bob.daemon.restore(&old)?;
    bob.daemon.start().await?;
    alice.say("ops", "back in the group").await?;
    alice.say("ops", "and on").await?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    alice.deliver("ops", "for sure").await?;
    bob.hears("ops", "for sure").await?;
    assert!(notices(&mut bob, "ops").await?.iter().any(|text| text.contains("lost its place")));
    // In the chat too both hear each other again, and what could not be opened is said.
    alice.send("bob", "do you hear me?").await?;
    bob.send("alice", "i hear you").await?;
    bob.hears("alice", "do you hear me?").await?;
    alice.hears("bob", "i hear you").await?;
    bob.deliver("alice", "good").await?;
    alice.deliver("bob", "good too").await.map(drop)
}

#[tokio::test]
async fn what_one_device_verified_is_verified_on_the_other() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    let mut phone = laptop.another_device(&server).await?;
    laptop.deliver("bob", "hello").await?;
    phone.has_said("bob", "hello").await?;
    let number = bob.safety_number("alice").await?;
    let verify = VerifyKey { contact: "bob".into(), safety_number: number, ..VerifyKey::default() };
    phone.call::<method::VerifyContactKey>(&verify).await?;
    laptop
        .until("bob is verified here too", async |laptop| Ok(laptop.contact("bob").await?.verified.then_some(())))
        .await?;
    // A device that comes later learns it as well.
    let mut tablet = laptop.another_device(&server).await?;
    tablet
        .until("bob is verified on the new device", async |tablet| {
            Ok(tablet.contact("bob").await.is_ok_and(|bob| bob.verified).then_some(()))
        })
        .await
}

#[tokio::test]
async fn a_new_password_ends_the_other_devices_if_asked() -> Result<()> {
    const NEW: &str = "quite another passphrase";
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    let mut phone = laptop.another_device(&server).await?;
    laptop.deliver("bob", "hello").await?;
    let change = |old: &str, end| PasswordChange {
        old: old.into(),
        new: NEW.into(),
        end_other_devices: end,
        ..PasswordChange::default()
    };
    let wrong = laptop.refusal::<method::ChangePassword>(&change("wrong password", true)).await?;
    assert_eq!(wrong.code, ErrorCode::WrongPassword, "{wrong:?}");
    phone.online().await?;
    laptop.call::<method::ChangePassword>(&change(PASSWORD, true)).await?;
    phone.in_state(AccountState::LoggedOut).await?;
    laptop.online().await?;
    let fingerprint = laptop.account().await?.fingerprint;
    assert!(laptop.another_device(&server).await.is_err(), "the old password is still good");
    let mut tablet = laptop.another_device_with(&server, NEW).await?;
    assert_eq!(tablet.account().await?.fingerprint, fingerprint, "the backup is under the new password");
    tablet.deliver("bob", "from the tablet").await?;
    bob.hears("alice", "from the tablet").await?;
    assert!(!bob.contact("alice").await?.key_changed);
    Ok(())
}

#[tokio::test]
async fn a_rotated_identity_warns_contacts_and_goes_on_when_trusted() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    let mut phone = alice.another_device(&server).await?;
    alice.deliver("bob", "before").await?;
    bob.deliver("alice", "before too").await?;
    alice.make_group("ops", &["bob"]).await?;
    for person in [&mut alice, &mut bob, &mut phone] {
        person.sees_devices("ops", "alice", 2).await?;
    }
    let before = alice.account().await?.fingerprint;
    let rotation = Rotation { password: PASSWORD.into(), ..Rotation::default() };
    let keys = alice.call::<method::RotateKey>(&rotation).await?;
    assert_ne!(keys.own, before);
    phone.in_state(AccountState::LoggedOut).await?;
    bob.until("the change is seen", async |bob| Ok(bob.contact("alice").await?.key_changed.then_some(()))).await?;
    let held = bob.send_and_wait("alice", "is it you?", Wait::Sent).await?;
    assert_eq!(held.state, MessageState::Held, "{held:?}");
    // In the group nothing of the new identity is shown, and nothing is sent, until somebody trusts it.
    let group = bob.group("ops").await?;
    assert!(group.members.iter().any(|member| member.name == "alice" && member.key_changed), "{group:#?}");
    let shown = bob.call::<method::ShowKeys>(&ShowKey { contact: "alice".into(), ..ShowKey::default() }).await?;
    let wrong = TrustKey { contact: "alice".into(), safety_number: "12345".repeat(12), ..TrustKey::default() };
    assert!(bob.refusal::<method::TrustContactKey>(&wrong).await.is_ok());
    let right = TrustKey { contact: "alice".into(), safety_number: shown.changed_safety_number, ..TrustKey::default() };
    bob.call::<method::TrustContactKey>(&right).await?;
    alice.hears("bob", "is it you?").await?;
    alice.deliver("bob", "it is me").await?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    alice.say("ops", "under the new identity").await?;
    bob.hears("ops", "under the new identity").await?;
    assert_eq!(alice.safety_number("bob").await?, bob.safety_number("alice").await?);
    Ok(())
}

#[tokio::test]
async fn a_device_comes_in_by_a_code_without_the_password() -> Result<()> {
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    laptop.deliver("bob", "hello").await?;
    laptop.make_group("ops", &["bob"]).await?;
    let mut phone = laptop.linked_device(&server).await?;
    assert_eq!(phone.account().await?.fingerprint, laptop.account().await?.fingerprint);
    for person in [&mut laptop, &mut bob, &mut phone] {
        person.sees_devices("ops", "alice", 2).await?;
    }
    phone.deliver("bob", "from the linked one").await?;
    bob.hears("alice", "from the linked one").await?;
    laptop.has_said("bob", "from the linked one").await?;
    assert!(!bob.contact("alice").await?.key_changed);
    bob.deliver("alice", "to both").await?;
    phone.hears("bob", "to both").await
}

#[tokio::test]
async fn a_backup_brings_contacts_and_history_to_a_new_device() -> Result<()> {
    const PASSPHRASE: &str = "kept in a drawer";
    let server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    laptop.deliver("bob", "remember me").await?;
    bob.deliver("alice", "and me").await?;
    laptop.make_group("ops", &["bob"]).await?;
    laptop.deliver("ops", "and this").await?;
    let path = laptop.daemon.home().join("backup").display().to_string();
    let backup = Backup { path: path.clone(), passphrase: PASSPHRASE.into(), ..Backup::default() };
    let made = laptop.call::<method::CreateBackup>(&backup).await?;
    assert!(made.contacts == 1 && made.messages >= 3, "{made:?}");
    let file = |passphrase: &str| BackupFile { path: path.clone(), passphrase: passphrase.into() };
    assert_eq!(laptop.call::<method::VerifyBackup>(&file(PASSPHRASE)).await?.messages, made.messages);
    assert!(laptop.refusal::<method::VerifyBackup>(&file("guessed")).await.is_ok());
    let mut bytes = std::fs::read(&path)?;
    assert!(!bytes.windows(11).any(|window| window == b"remember me"));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = laptop.daemon.home().join("damaged").display().to_string();
    std::fs::write(&damaged, bytes)?;
    let of_damaged = BackupFile { path: damaged, passphrase: PASSPHRASE.into() };
    assert!(laptop.refusal::<method::VerifyBackup>(&of_damaged).await.is_ok());
    let mut phone = laptop.another_device(&server).await?;
    let restored = phone.call::<method::RestoreBackup>(&backup).await?;
    assert!(restored.messages >= 3, "{restored:?}");
    assert_eq!(phone.texts("bob").await?, ["remember me", "and me"]);
    assert!(phone.texts("ops").await?.contains(&"and this".to_owned()));
    // A second time changes nothing, and what is there goes on.
    assert_eq!(phone.call::<method::RestoreBackup>(&backup).await?.messages, 0);
    phone.deliver("bob", "here again").await?;
    bob.hears("alice", "here again").await?;
    assert_eq!(phone.texts("bob").await?, ["remember me", "and me", "here again"]);
    Ok(())
}

/// Everything above that concerns two devices and a group, with everybody killed between the steps.
#[tokio::test]
#[ignore = "long"]
async fn kills_between_all_steps_change_nothing() -> Result<()> {
    let mut server = Server::start().await?;
    let (mut laptop, mut bob) = two(&server).await?;
    let mut phone = laptop.another_device(&server).await?;
    laptop.make_group("ops", &["bob"]).await?;
    for round in 0..6 {
        let text = format!("round {round}");
        laptop.send("bob", &text).await?;
        laptop.send("ops", &format!("{text} in the group")).await?;
        match round % 3 {
            0 => laptop.daemon.kill().await?,
            1 => bob.daemon.kill().await?,
            _ => phone.daemon.kill().await?,
        }
        server.kill().await?;
        server.restart().await?;
        for person in [&mut laptop, &mut bob, &mut phone] {
            person.daemon.start().await?;
            person.call::<method::RetryOutbox>(&OfMessage::default()).await?;
        }
        bob.send("alice", &format!("answer {round}")).await?;
        bob.daemon.kill().await?;
        bob.daemon.start().await?;
        laptop.set_topic("ops", &format!("topic {round}")).await?;
        for person in [&mut bob, &mut phone] {
            let topic = format!("topic {round}");
            person
                .until("the topic comes", async |person| {
                    Ok(person.seen_group("ops").await?.filter(|group| group.topic == topic).map(drop))
                })
                .await?;
        }
        bob.hears("alice", &text).await?;
        phone.has_said("bob", &text).await?;
        phone.hears("bob", &format!("answer {round}")).await?;
        bob.hears("ops", &format!("{text} in the group")).await?;
    }
    agree(&mut [&mut laptop, &mut bob, &mut phone], "ops", &["alice", "bob"]).await?;
    let texts = laptop.texts("bob").await?;
    assert_eq!(phone.texts("bob").await?, texts);
    assert_eq!(bob.texts("alice").await?, texts);
    assert_eq!(texts.len(), 12, "{texts:?}");
    let texts = laptop.texts("ops").await?;
    assert_eq!(bob.texts("ops").await?, texts);
    let first = phone.texts("ops").await?.first().cloned().context("nothing in the group")?;
    assert!(texts.contains(&first));
    Ok(())
}
