//! A group on a server that does what it should: a public conversation, a log, and members who read it.
//!
//! **Invariant**: what the server accepted, every member who is handed the log accepts too, with the same effect.

use fastchat_mls::{HandshakeError, PublicConversation};
use uuid::Uuid;

use super::people::{CONVERSATION, Person, id, identity_of};
use crate::{
    Applied, Change, Content, Effect, GroupProfile, Join, JoinError, OpenError, Opened, PeerPackages, Prepared,
    ProcessError, Processed, Roster, WelcomeFor,
};

/// What stands in the log.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) message_id: Uuid,
    pub(super) payload: Vec<u8>,
    /// Who sent it: it does not come back to that device.
    pub(super) by: (&'static str, Uuid),
    pub(super) application: bool,
}

pub(super) struct Group {
    pub(super) public: PublicConversation,
    pub(super) group_info: Vec<u8>,
    pub(super) log: Vec<Entry>,
}

impl Group {
    /// The creator makes the group.
    pub(super) fn create(creator: &mut Person) -> Self {
        let profile = GroupProfile::new("ops", "", creator.account);
        let created =
            creator.run(|transaction, device| transaction.create_group(device, CONVERSATION, &profile)).unwrap();
        assert_eq!((created.epoch, created.welcomes.len()), (0, 0));
        let public = PublicConversation::open(CONVERSATION, &created.group_info).unwrap();
        Self { public, group_info: created.group_info, log: Vec::new() }
    }

    /// The creator makes the group and adds the others one by one.
    pub(super) fn of(people: &mut [Person]) -> Self {
        let (creator, others) = people.split_first_mut().unwrap();
        let mut group = Self::create(creator);
        for position in 0..others.len() {
            let (joined, joining) = others.split_at_mut(position);
            group.add(creator, &mut joining[0]);
            group.deliver(joined);
        }
        group
    }

    pub(super) fn next_id(&self) -> Uuid {
        id(0xF000 + self.log.len() as u128)
    }

    /// The state survives storing.
    pub(super) fn restart(&mut self) {
        let bytes = self.public.to_bytes().unwrap();
        let restored = PublicConversation::from_bytes(&bytes).unwrap();
        assert_eq!(restored.roster().unwrap(), self.public.roster().unwrap());
        self.public = restored;
    }

    /// The server takes a commit; the committer and the log move on.
    pub(super) fn accept(
        &mut self,
        by: &mut Person,
        message_id: Uuid,
        prepared: &Prepared,
    ) -> Result<Effect, HandshakeError> {
        assert_eq!(prepared.epoch, self.public.epoch());
        let effect = self.public.commit(message_id, &prepared.message, &prepared.group_info)?;
        self.restart();
        self.group_info.clone_from(&prepared.group_info);
        let payload = prepared.message.clone();
        self.log.push(Entry { message_id, payload, by: by.name(), application: false });
        let applied = by.run(|transaction, _| transaction.merge_pending(CONVERSATION)).unwrap();
        self.agrees(&applied, &effect);
        Ok(effect)
    }

    fn agrees(&self, applied: &Applied, effect: &Effect) {
        let now = applied.epoch == self.public.epoch();
        assert_eq!(applied.effect, *effect, "server and member disagree");
        assert!(!now || applied.roster == self.public.roster().unwrap(), "server and member disagree");
    }

    /// Prepares a commit and has it accepted.
    pub(super) fn commit(&mut self, by: &mut Person, change: &Change<'_>) -> (Prepared, Effect) {
        self.deliver_to(by);
        let message_id = self.next_id();
        let prepared = by.prepare(message_id, change).unwrap();
        let effect = self.accept(by, message_id, &prepared).unwrap();
        (prepared, effect)
    }

    /// An admin adds a person's device, which joins.
    pub(super) fn add(&mut self, by: &mut Person, joiner: &mut Person) {
        let package = joiner.key_package();
        let packages = [(joiner.device.id(), package.as_slice())];
        let add = PeerPackages { account: joiner.account, identity: joiner.identity.public(), packages: &packages };
        let (prepared, _) = self.commit(by, &Change { add: vec![add], ..Change::default() });
        self.join(joiner, by.account, &prepared.welcomes[0]).unwrap();
    }

    /// A device joins by its Welcome, with the tree of now.
    pub(super) fn join(
        &self,
        joiner: &mut Person,
        adder: &'static str,
        welcome: &WelcomeFor,
    ) -> Result<Roster, JoinError> {
        let tree = self.public.ratchet_tree().unwrap();
        let join = Join {
            adder: (adder, identity_of(adder).public()),
            welcome: &welcome.welcome,
            join_key: &welcome.join_key,
            ratchet_tree: &tree,
            group: true,
        };
        let identity = joiner.identity;
        let roster = joiner.run(|transaction, device| transaction.join(identity, device, CONVERSATION, &join))?;
        assert_eq!(roster, self.public.roster().unwrap());
        joiner.cursor = self.log.len();
        Ok(roster)
    }

    /// Somebody proposes to leave.
    pub(super) fn leave(&mut self, by: &mut Person) {
        let message_id = self.next_id();
        let before = by.store.rows.clone();
        let (epoch, payload) =
            by.run(|transaction, device| transaction.propose_leave(device, CONVERSATION, message_id)).unwrap();
        assert_eq!(by.store.rows, before, "a proposal changes nothing until it stands in the log");
        assert_eq!(epoch, self.public.epoch());
        let leaving = self.public.proposal(message_id, &payload).unwrap();
        assert_eq!((leaving.account.as_str(), leaving.device), by.name());
        self.restart();
        self.log.push(Entry { message_id, payload: payload.clone(), by: by.name(), application: false });
        let processed = by.process(message_id, &payload).unwrap();
        assert_eq!(processed, Processed::Leaving(leaving));
    }

    /// A device comes in by itself.
    pub(super) fn rejoin(&mut self, by: &mut Person) -> Effect {
        let message_id = self.next_id();
        let prepared = self.prepare_rejoin(by, message_id).unwrap();
        by.cursor = self.log.len();
        self.accept(by, message_id, &prepared).unwrap()
    }

    pub(super) fn prepare_rejoin(&self, by: &mut Person, message_id: Uuid) -> Result<Prepared, JoinError> {
        let (tree, proposals) = (self.public.ratchet_tree().unwrap(), self.public.proposals());
        by.run(|transaction, device| {
            transaction.rejoin(device, CONVERSATION, message_id, &self.group_info, &tree, &proposals)
        })
    }

    /// Somebody says something.
    pub(super) fn say(&mut self, by: &mut Person, text: &str) {
        let message_id = self.next_id();
        let payload = by.seal(message_id, text).payload;
        self.log.push(Entry { message_id, payload, by: by.name(), application: true });
    }

    /// Everybody reads the log to its end.
    pub(super) fn deliver(&self, people: &mut [Person]) {
        for person in people {
            self.deliver_to(person);
        }
    }

    /// One reads the log to its end; gives what was said.
    pub(super) fn deliver_to(&self, person: &mut Person) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(entry) = self.log.get(person.cursor) {
            person.cursor += 1;
            if entry.by == person.name() {
                continue;
            }
            if entry.application {
                said.push(super::people::text(&person.open(entry.message_id, &entry.payload).unwrap()).to_owned());
            } else if let Processed::Applied(applied) = person.process(entry.message_id, &entry.payload).unwrap()
                && applied.self_removed
            {
                break;
            }
        }
        said
    }

    /// All are at the server's epoch and agree on the secrets of it.
    pub(super) fn converged(&self, people: &mut [Person]) {
        let mut authenticators = std::collections::BTreeSet::new();
        for person in people {
            let roster = person.run(|transaction, _| transaction.roster(CONVERSATION)).unwrap().unwrap();
            assert_eq!(roster, self.public.roster().unwrap());
            let read = person.run(|transaction, _| transaction.epoch_authenticator(CONVERSATION));
            authenticators.insert(read.unwrap().unwrap());
        }
        assert_eq!(authenticators.len(), 1);
    }
}

impl Person {
    pub(super) fn name(&self) -> (&'static str, Uuid) {
        (self.account, self.device.id())
    }

    pub(super) fn prepare(&mut self, message_id: Uuid, change: &Change<'_>) -> Result<Prepared, crate::CommitError> {
        let identity = self.identity;
        self.run(|transaction, device| transaction.commit(identity, device, CONVERSATION, message_id, change))
    }

    pub(super) fn process(&mut self, message_id: Uuid, payload: &[u8]) -> Result<Processed, ProcessError> {
        self.run(|transaction, _| transaction.process(CONVERSATION, message_id, payload))
    }

    pub(super) fn try_open(&mut self, entry: &Entry) -> Result<Opened, OpenError> {
        self.open(entry.message_id, &entry.payload)
    }

    pub(super) fn try_seal_as(&mut self, message_id: Uuid) -> Result<crate::Sealed, crate::SealError> {
        let content = Content::text(0, 1, "said");
        self.run(|transaction, device| transaction.seal(device, CONVERSATION, message_id, &content))
    }

    pub(super) fn try_seal(&mut self, text: &str) -> Result<crate::Sealed, crate::SealError> {
        let content = Content::text(0, 1, text);
        self.run(|transaction, device| transaction.seal(device, CONVERSATION, id(1), &content))
    }
}
