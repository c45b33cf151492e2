//! Somebody with an account and no daemon: a client in the test's own process, on the protocol itself.
//!
//! It does what a daemon does as simply as possible, keeps what it saw, and can be made to do otherwise.
//!
//! **Invariant**: as long as the test wants nothing else from it, it is an honest member.

mod forger;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use fastchat_e2ee::{
    Body, Change, Changes, Content, Device, GroupProfile, Identity, IdentityKey, Join, PeerPackages, Processed,
    StateStore, StoreError, Transaction,
};
use fastchat_wire::{
    ConversationId, MessageId, RESUME_CONTEXT,
    v1::{self, client_frame::Body as Ask, server_frame::Body as Said},
};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use forger::{Builder, Forged, Forger, external};
pub use wire::Wire;

/// What stands for a durable store.
#[derive(Clone, Default)]
pub struct State(BTreeMap<Vec<u8>, Vec<u8>>);

impl StateStore for State {
    fn read(&self, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(self.0.get(key).cloned().map(Zeroizing::new))
    }
}

impl State {
    fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value.to_vec()),
                None => self.0.remove(&key),
            };
        }
    }
}

/// What an insider has of a conversation.
#[derive(Default)]
pub struct Room {
    /// Opened texts with their senders, in order.
    pub texts: Vec<(String, String)>,
    /// Every entry as it came.
    pub entries: Vec<v1::Entry>,
    counter: u64,
    cursor: u64,
    members: BTreeSet<String>,
}

/// The client.
pub struct Insider {
    /// The account's name.
    pub name: String,
    /// Its identity.
    pub identity: Arc<Identity>,
    /// Its device.
    pub device: Device,
    /// Its connection.
    pub wire: Wire,
    /// Its keys of conversations; clone it to keep an older state.
    pub state: State,
    /// Its conversations.
    pub rooms: BTreeMap<ConversationId, Room>,
    own_proposals: BTreeMap<Uuid, Vec<u8>>,
}

impl Insider {
    /// An identity: dear to make, so that many may share one.
    ///
    /// # Errors
    /// There is no randomness.
    pub async fn identity() -> Result<Arc<Identity>> {
        Ok(Arc::new(tokio::task::spawn_blocking(Identity::generate).await??))
    }

    /// Registers an account under an identity, with a session and a few key packages.
    ///
    /// # Errors
    /// Any step fails.
    pub async fn register(name: &str, address: &str, identity: Arc<Identity>) -> Result<Self> {
        let device = Device::issue(&identity, name, Uuid::now_v7())?;
        let register = v1::Register {
            account: name.to_owned(),
            kdf: Some(v1::PasswordKdf {
                salt: Bytes::from_static(&[7; 16]),
                memory_kib: 16 << 10,
                iterations: 1,
                parallelism: 1,
            }),
            auth_secret: "5e".repeat(32),
            identity_key: identity.public().to_der().to_vec().into(),
            identity_backup: Bytes::from_static(b"a backup that nobody restores"),
            device: Some(v1::NewDevice {
                device: device.id().as_bytes().to_vec().into(),
                signature_key: device.signature_key().to_vec().into(),
                certificate: device.certificate().to_vec().into(),
                name: "insider".into(),
            }),
            invite: String::new(),
        };
        let mut wire = Wire::connect(address).await?;
        let session = match wire.ask(Ask::Register(register)).await? {
            Said::Session(session) => session,
            other => bail!("{name} is not registered: {other:?}"),
        };
        let mut wire = Wire::connect(address).await?;
        let signature = device.sign(RESUME_CONTEXT, &wire.binding()?)?;
        let resume = v1::Resume { token: session.token, signature: signature.into() };
        match wire.ask(Ask::Resume(resume)).await? {
            Said::Session(_) => {}
            other => bail!("{name} has no session: {other:?}"),
        }
        let mut insider = Self {
            name: name.to_owned(),
            identity,
            device,
            wire,
            state: State::default(),
            rooms: BTreeMap::new(),
            own_proposals: BTreeMap::new(),
        };
        insider.publish(3).await?;
        Ok(insider)
    }

    async fn publish(&mut self, count: usize) -> Result<()> {
        let mut transaction = Transaction::new(&self.state);
        let one_time = transaction.key_packages(&self.device, count)?.into_iter().map(Into::into).collect();
        let last_resort = transaction.last_resort_key_package(&self.device)?.into();
        let changes = transaction.into_changes();
        self.state.apply(changes);
        match self.wire.ask(Ask::PublishKeyPackages(v1::PublishKeyPackages { one_time, last_resort })).await? {
            Said::KeyPackageCount(_) => Ok(()),
            other => bail!("key packages are not taken: {other:?}"),
        }
    }

    /// Makes a group of its own.
    ///
    /// # Errors
    /// It is refused.
    pub async fn make_group(&mut self, name: &str) -> Result<ConversationId> {
        let id = ConversationId::generate();
        let mut transaction = Transaction::new(&self.state);
        let profile = GroupProfile::new(name, "", self.name.clone());
        let created = transaction.create_group(&self.device, id.0, &profile)?;
        let changes = transaction.into_changes();
        self.state.apply(changes);
        let ask = v1::CreateGroup { conversation: id.to_wire(), group_info: created.group_info.into() };
        match self.wire.ask(Ask::CreateGroup(ask)).await? {
            Said::Done(_) => {}
            other => bail!("no group is made: {other:?}"),
        }
        self.rooms.insert(id, Room { members: BTreeSet::from([self.name.clone()]), ..Room::default() });
        Ok(id)
    }

    /// Makes a commit as the rules allow, without sending it.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn prepare(&mut self, id: ConversationId, change: &Change<'_>) -> Result<v1::Handshake> {
        let message = MessageId::generate();
        let mut transaction = Transaction::new(&self.state);
        let prepared = transaction.commit(&self.identity, &self.device, id.0, message.0, change)?;
        let changes = transaction.into_changes();
        self.state.apply(changes);
        let welcome = |welcome: fastchat_e2ee::WelcomeFor| v1::Welcome {
            device: welcome.device.as_bytes().to_vec().into(),
            welcome: welcome.welcome.into(),
            join_key: welcome.join_key.into(),
        };
        Ok(v1::Handshake {
            conversation: id.to_wire(),
            message_id: message.to_wire(),
            epoch: prepared.epoch,
            kind: v1::EntryKind::Commit.into(),
            message: prepared.message.into(),
            group_info: prepared.group_info.into(),
            welcomes: prepared.welcomes.into_iter().map(welcome).collect(),
        })
    }

    /// Sends a handshake; gives the server's answer.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn hand_in(&mut self, handshake: v1::Handshake) -> Result<Said> {
        self.wire.ask(Ask::Handshake(handshake)).await
    }

    /// Gives up a commit that was prepared.
    ///
    /// # Errors
    /// The state is damaged.
    pub fn give_up(&mut self, id: ConversationId) -> Result<()> {
        let mut transaction = Transaction::new(&self.state);
        transaction.clear_pending(id.0)?;
        let changes = transaction.into_changes();
        self.state.apply(changes);
        Ok(())
    }

    /// Commits, and sees the commit in the log.
    ///
    /// # Errors
    /// It is refused, or not there in time.
    pub async fn commit(&mut self, id: ConversationId, change: &Change<'_>) -> Result<()> {
        let handshake = self.prepare(id, change)?;
        let epoch = handshake.epoch;
        match self.hand_in(handshake).await? {
            Said::Accepted(_) => {}
            other => bail!("the commit is refused: {other:?}"),
        }
        self.until(id, "the own commit comes", |insider| Ok(insider.epoch(id)? > epoch)).await
    }

    /// Adds accounts to a group.
    ///
    /// # Errors
    /// Any step fails.
    pub async fn add(&mut self, id: ConversationId, names: &[&str]) -> Result<()> {
        let mut claimed = Vec::new();
        for name in names {
            let packages = match self.claim(name).await? {
                Said::KeyPackages(packages) => packages,
                other => bail!("no key packages of {name}: {other:?}"),
            };
            claimed.push((packages.account.clone(), IdentityKey::from_der(&packages.identity_key)?, packages));
        }
        let devices: Vec<Vec<(Uuid, &[u8])>> = claimed
            .iter()
            .map(|(_, _, packages)| {
                let packages = packages.packages.iter();
                packages.map(|p| Ok((Uuid::from_slice(&p.device)?, p.key_package.as_ref()))).collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
        let add = claimed.iter().zip(&devices).map(|((account, identity, _), packages)| PeerPackages {
            account,
            identity,
            packages,
        });
        let change = Change { add: add.collect(), ..Change::default() };
        self.commit(id, &change).await
    }

    /// Claims key packages of an account.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn claim(&mut self, name: &str) -> Result<Said> {
        self.wire.ask(Ask::ClaimKeyPackages(v1::ClaimKeyPackages { account: name.to_owned() })).await
    }

    /// Seals a text as the next entry, without sending it.
    ///
    /// # Errors
    /// It is no member.
    pub fn seal(&mut self, id: ConversationId, text: &str) -> Result<v1::NewEntry> {
        let message = MessageId::generate();
        let room = self.rooms.entry(id).or_default();
        room.counter += 1;
        let content = Content::text(1_700_000_000_000, room.counter, text);
        let mut transaction = Transaction::new(&self.state);
        let sealed = transaction.seal(&self.device, id.0, message.0, &content)?;
        let epoch = transaction.epoch(id.0)?.context("an epoch")?;
        let changes = transaction.into_changes();
        self.state.apply(changes);
        Ok(v1::NewEntry {
            message_id: message.to_wire(),
            epoch,
            kind: v1::EntryKind::Application.into(),
            payload: sealed.payload.into(),
        })
    }

    /// Submits entries; gives the server's answer.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn submit(&mut self, id: ConversationId, entries: Vec<v1::NewEntry>) -> Result<Said> {
        self.wire.ask(Ask::Submit(v1::Submit { conversation: id.to_wire(), entries })).await
    }

    /// Says something.
    ///
    /// # Errors
    /// It is not accepted.
    pub async fn say(&mut self, id: ConversationId, text: &str) -> Result<()> {
        let entry = self.seal(id, text)?;
        match self.submit(id, vec![entry]).await? {
            Said::Accepted(_) => Ok(()),
            other => bail!("the text is refused: {other:?}"),
        }
    }

    /// The epoch that it is at; 0 when it has no such conversation.
    ///
    /// # Errors
    /// The state is damaged.
    pub fn epoch(&self, id: ConversationId) -> Result<u64> {
        Ok(Transaction::new(&self.state).epoch(id.0)?.unwrap_or_default())
    }

    /// What all members at its epoch have in common, in hex.
    ///
    /// # Errors
    /// The state is damaged.
    pub fn authenticator(&self, id: ConversationId) -> Result<String> {
        let authenticator = Transaction::new(&self.state).epoch_authenticator(id.0)?.unwrap_or_default();
        Ok(authenticator.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Who is in a conversation.
    #[must_use]
    pub fn members(&self, id: ConversationId) -> Vec<&str> {
        self.rooms.get(&id).into_iter().flat_map(|room| &room.members).map(String::as_str).collect()
    }

    /// The conversation that it was last added to.
    ///
    /// # Errors
    /// There is none in time.
    pub async fn added(&mut self) -> Result<ConversationId> {
        while self.rooms.is_empty() {
            let said = self.wire.heard().await?;
            self.take(said).await?;
        }
        self.rooms.keys().next_back().copied().context("a conversation")
    }

    /// Takes in what the server says until something holds.
    ///
    /// # Errors
    /// It does not hold in time.
    pub async fn until(&mut self, id: ConversationId, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        while !holds(self)? {
            let said = self
                .wire
                .heard()
                .await
                .with_context(|| format!("{}: {what}; it is at epoch {:?} of {id}", self.name, self.epoch(id)))?;
            self.take(said).await?;
        }
        Ok(())
    }

    /// Waits until a text has come.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn hears(&mut self, id: ConversationId, text: &str) -> Result<()> {
        self.until(id, &format!("`{text}` comes"), |insider| {
            Ok(insider.rooms.get(&id).is_some_and(|room| room.texts.iter().any(|(_, heard)| heard == text)))
        })
        .await
    }

    /// Takes in something that the server said, as an honest client does.
    ///
    /// # Errors
    /// The connection breaks, or an entry cannot be followed.
    pub async fn take(&mut self, said: Said) -> Result<()> {
        match said {
            Said::Joining(joining) => self.join(joining).await,
            Said::Deliver(deliver) => {
                let id = ConversationId::from_wire(&deliver.conversation)?;
                for entry in deliver.entries {
                    self.follow(id, entry)?;
                }
                let seq = self.rooms.entry(id).or_default().cursor;
                self.wire.tell(Ask::Ack(v1::Ack { conversation: id.to_wire(), seq })).await
            }
            _ => Ok(()),
        }
    }

    async fn join(&mut self, joining: v1::Joining) -> Result<()> {
        let id = ConversationId::from_wire(&joining.conversation)?;
        let adder = IdentityKey::from_der(&joining.creator_identity_key)?;
        let welcome = joining.welcome.unwrap_or_default();
        let mut transaction = Transaction::new(&self.state);
        let join = Join {
            adder: (joining.creator.as_str(), &adder),
            welcome: &welcome.welcome,
            join_key: &welcome.join_key,
            ratchet_tree: &joining.ratchet_tree,
            group: joining.group,
        };
        transaction.forget(id.0)?;
        let roster = transaction.join(&self.identity, &self.device, id.0, &join)?;
        let changes = transaction.into_changes();
        self.state.apply(changes);
        let room = self.rooms.entry(id).or_default();
        room.members = roster.accounts().into_iter().map(ToOwned::to_owned).collect();
        room.cursor = joining.start_seq;
        self.wire.tell(Ask::Ack(v1::Ack { conversation: id.to_wire(), seq: joining.start_seq })).await
    }

    fn follow(&mut self, id: ConversationId, entry: v1::Entry) -> Result<()> {
        let room = self.rooms.entry(id).or_default();
        if entry.seq <= room.cursor {
            return Ok(());
        }
        room.cursor = entry.seq;
        room.entries.push(entry.clone());
        let message = MessageId::from_wire(&entry.message_id)?.0;
        let own = entry.device == self.device.id().as_bytes().as_slice();
        let mut transaction = Transaction::new(&self.state);
        let applied = match entry.kind() {
            v1::EntryKind::Application => {
                if !own
                    && let Ok(opened) = transaction.open(id.0, message, &entry.payload)
                    && let Some(Body::Text(text)) = opened.content.body
                {
                    room.texts.push((opened.account, text.text));
                }
                None
            }
            v1::EntryKind::Commit if own => Some(transaction.merge_pending(id.0)?),
            _ => {
                let payload = match self.own_proposals.get(&message).filter(|_| own) {
                    Some(payload) => payload.clone(),
                    None => entry.payload.to_vec(),
                };
                match transaction.process(id.0, message, &payload)? {
                    Processed::Applied(applied) => Some(applied),
                    Processed::Leaving(_) => None,
                }
            }
        };
        if let Some(applied) = applied {
            room.members = applied.roster.accounts().into_iter().map(ToOwned::to_owned).collect();
        }
        let changes = transaction.into_changes();
        self.state.apply(changes);
        Ok(())
    }

    /// Says that it leaves.
    ///
    /// # Errors
    /// It is refused.
    pub async fn leave(&mut self, id: ConversationId) -> Result<()> {
        let message = MessageId::generate();
        let mut transaction = Transaction::new(&self.state);
        let (epoch, proposal) = transaction.propose_leave(&self.device, id.0, message.0)?;
        let changes = transaction.into_changes();
        self.state.apply(changes);
        self.own_proposals.insert(message.0, proposal.clone());
        let handshake = v1::Handshake {
            conversation: id.to_wire(),
            message_id: message.to_wire(),
            epoch,
            kind: v1::EntryKind::Proposal.into(),
            message: proposal.into(),
            ..v1::Handshake::default()
        };
        let answer = self.hand_in(handshake).await?;
        ensure!(matches!(answer, Said::Accepted(_)), "leaving is refused: {answer:?}");
        Ok(())
    }
}
