//! Random handshakes, honest and not: whatever the server accepts every member accepts, and the other way round.
//!
//! A step is a commit with random contents by a random device that keeps to no rule, an external commit of a random
//! device with a random choice of proposals, a leave, or a message. The sequence follows from its seed, but for keys.
//! `FASTCHAT_MODEL_SEQUENCES=2000` runs more of them; `FASTCHAT_MODEL_SEED=17` runs that one alone.
//!
//! **Invariant**: after each step all members are at the server's epoch, with equal authenticators and rosters.

use std::collections::BTreeSet;

use fastchat_mls::HandshakeError;
use openmls::prelude::LeafNodeIndex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    forge::{self, Forged},
    people::{ALICE, BOB, CAROL, CONVERSATION, DAVE, Person, text},
    world::{Entry, Group},
};
use crate::{JoinError, ProcessError, Processed, WelcomeFor};

const ACCOUNTS: [&str; 4] = [ALICE, BOB, CAROL, DAVE];
const SEQUENCES: u64 = 12;
const STEPS: usize = 25;

/// Eight devices of four accounts, some in the group.
struct World {
    group: Group,
    people: Vec<Person>,
    rng: StdRng,
    accepted: usize,
    refused: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let device = |number: u128| move |account: &&'static str| Person::with_device(account, number);
        let mut people: Vec<Person> = ACCOUNTS.iter().map(device(1)).chain(ACCOUNTS.iter().map(device(2))).collect();
        let group = Group::of(&mut people[..3]);
        Self { group, people, rng: StdRng::seed_from_u64(seed), accepted: 0, refused: 0 }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn is_member(&self, person: &Person) -> bool {
        let roster = self.group.public.roster().unwrap();
        let leaf = roster.device(person.account, person.device.id());
        leaf.is_some_and(|leaf| leaf.signature_key == person.device.signature_key()) && !person.store.rows.is_empty()
    }

    fn members(&self) -> Vec<usize> {
        (0..self.people.len()).filter(|position| self.has_group(*position)).collect()
    }

    fn has_group(&self, position: usize) -> bool {
        let person = &self.people[position];
        self.is_member(person) && forge::has_group(person)
    }

    fn pick(&mut self, from: &[usize]) -> usize {
        from[self.rng.random_range(0..from.len())]
    }

    fn step(&mut self) {
        match self.rng.random_range(0..10) {
            0..6 => self.commit(),
            6..8 => self.external(),
            8 => self.leave(),
            _ => self.say(),
        }
        self.converged();
    }

    /// A commit that keeps to no rule.
    fn commit(&mut self) {
        let members = self.members();
        let by = self.pick(&members);
        let (plan, joiners) = self.plan(by);
        let message_id = self.group.next_id();
        let Some(made) = forge::staged(&self.people[by], message_id, &plan) else { return };
        let verdict = self.server(&made.forged);
        self.members_agree(by, &made.forged, &verdict);
        if verdict.is_err() {
            return;
        }
        self.people[by].store.apply(made.changes);
        self.people[by].run(|transaction, _| transaction.merge_pending(CONVERSATION)).unwrap();
        self.log(by, &made.forged);
        let adder = self.people[by].account;
        for (position, welcome) in joiners.into_iter().zip(made.welcomes) {
            self.join(position, adder, &welcome);
        }
    }

    fn plan(&mut self, by: usize) -> (forge::Plan, Vec<usize>) {
        let roster = self.group.public.roster().unwrap();
        let own = roster.device(self.people[by].account, self.people[by].device.id()).unwrap().index;
        let mut removed: Vec<LeafNodeIndex> = Vec::new();
        for leaf in roster.leaves.iter().filter(|leaf| leaf.index != own) {
            if self.chance(if roster.leaving.contains(&leaf.account) { 80 } else { 8 }) {
                removed.push(LeafNodeIndex::new(leaf.index));
            }
        }
        let mut joiners = Vec::new();
        for position in 0..self.people.len() {
            if !self.is_member(&self.people[position]) && self.chance(12) {
                joiners.push(position);
            }
        }
        let mut added = Vec::new();
        for position in &joiners {
            added.push(forge::package(&mut self.people[*position]));
        }
        let with_key = self.chance(if joiners.is_empty() { 3 } else { 90 });
        let mut profile = None;
        if self.chance(20) {
            let mut new = roster.profile.clone().unwrap();
            new.topic = format!("{}", self.rng.random_range(0..3));
            let admins = ACCOUNTS.iter().filter(|_| self.rng.random_range(0..2) == 0);
            let admins: BTreeSet<String> = admins.map(|account| (*account).to_owned()).collect();
            if !admins.is_empty() {
                new.admins = admins.into_iter().collect();
            }
            profile = Some(new);
        }
        (forge::Plan { pending: self.chance(85), added, removed, profile, with_key }, joiners)
    }

    /// An external commit with a random choice of proposals.
    fn external(&mut self) {
        let by = self.rng.random_range(0..self.people.len());
        let message_id = self.group.next_id();
        if self.chance(50) {
            self.honest_rejoin(by, message_id);
            return;
        }
        let mut proposals = self.group.public.proposals();
        proposals.retain(|_| self.rng.random_range(0..2) == 0);
        let forged = forge::external(&self.group, &self.people[by].device, message_id, &proposals);
        let verdict = self.server_keeps(&forged);
        self.members_agree(by, &forged, &verdict);
        // Its maker has no state to go on with: it is accepted only by the honest way.
    }

    fn honest_rejoin(&mut self, by: usize, message_id: uuid::Uuid) {
        match self.group.prepare_rejoin(&mut self.people[by], message_id) {
            Ok(prepared) => {
                let forged = Forged { message_id, message: prepared.message, group_info: prepared.group_info };
                let verdict = self.server(&forged);
                assert!(verdict.is_ok(), "the server refuses what a device verified: {verdict:?}");
                self.members_agree(by, &forged, &verdict);
                self.people[by].run(|transaction, _| transaction.merge_pending(CONVERSATION)).unwrap();
                self.log(by, &forged);
            }
            Err(JoinError::NotAllowed(_)) => self.refused += 1,
            Err(other) => panic!("{other}"),
        }
    }

    fn leave(&mut self) {
        let members = self.members();
        let by = self.pick(&members);
        let message_id = self.group.next_id();
        let made =
            self.people[by].run(|transaction, device| transaction.propose_leave(device, CONVERSATION, message_id));
        let Ok((_, message)) = made else { return };
        self.group.public.proposal(message_id, &message).unwrap();
        for position in members {
            let processed = self.people[position].process(message_id, &message).unwrap();
            assert!(matches!(processed, Processed::Leaving(_)));
        }
        self.log(by, &Forged { message_id, message, group_info: Vec::new() });
    }

    fn say(&mut self) {
        let members = self.members();
        let by = self.pick(&members);
        let message_id = self.group.next_id();
        let pending = !self.group.public.proposals().is_empty();
        match self.people[by].try_seal_as(message_id) {
            Ok(sealed) => {
                assert!(!pending);
                for position in members.into_iter().filter(|position| *position != by) {
                    assert_eq!(text(&self.people[position].open(message_id, &sealed.payload).unwrap()), "said");
                }
                let outside: Vec<usize> = (0..self.people.len()).filter(|other| !self.has_group(*other)).collect();
                for position in outside {
                    assert!(self.people[position].open(message_id, &sealed.payload).is_err());
                }
                let forged = Forged { message_id, message: sealed.payload, group_info: Vec::new() };
                self.log(by, &forged);
            }
            Err(crate::SealError::Pending) => assert!(pending),
            Err(other) => panic!("{other}"),
        }
    }

    fn server(&mut self, forged: &Forged) -> Result<(), HandshakeError> {
        let verdict = self.group.public.commit(forged.message_id, &forged.message, &forged.group_info);
        self.group.restart();
        if verdict.is_ok() {
            self.group.group_info.clone_from(&forged.group_info);
            self.accepted += 1;
        } else {
            self.refused += 1;
        }
        verdict.map(drop)
    }

    /// What the server would say, without its saying so.
    fn server_keeps(&mut self, forged: &Forged) -> Result<(), HandshakeError> {
        let mut public = fastchat_mls::PublicConversation::from_bytes(&self.group.public.to_bytes().unwrap()).unwrap();
        public.commit(forged.message_id, &forged.message, &forged.group_info).map(drop)
    }

    /// Every other member says what the server says; those who accept move on only if the server did.
    fn members_agree(&mut self, by: usize, forged: &Forged, verdict: &Result<(), HandshakeError>) {
        let moved = self.group.public.epoch();
        for position in 0..self.people.len() {
            if position == by || !forge::has_group(&self.people[position]) {
                continue;
            }
            let before = self.people[position].store.clone();
            let processed = self.people[position].process(forged.message_id, &forged.message);
            match (&processed, verdict) {
                (Ok(Processed::Applied(applied)), Ok(())) if applied.epoch == moved => continue,
                (Ok(Processed::Applied(_)), Ok(())) => {}
                (Err(ProcessError::NotAllowed(_)), Err(refused)) => {
                    let by_rule = matches!(
                        refused,
                        HandshakeError::NotAllowed(_) | HandshakeError::ProposalsPending | HandshakeError::Full
                    );
                    assert!(by_rule, "member: {processed:?}, server: {refused:?}");
                }
                (Err(ProcessError::Invalid(_)), Err(_)) => {}
                _ => panic!("member: {processed:?}, server: {verdict:?}"),
            }
            self.people[position].store = before;
        }
    }

    fn join(&mut self, position: usize, adder: &'static str, welcome: &WelcomeFor) {
        self.people[position].store =
            super::people::Map { rows: self.people[position].store.rows.clone(), ..Default::default() };
        self.group.join(&mut self.people[position], adder, welcome).unwrap();
    }

    fn log(&mut self, by: usize, forged: &Forged) {
        let (by, payload) = (self.people[by].name(), forged.message.clone());
        self.group.log.push(Entry { message_id: forged.message_id, payload, by, application: false });
    }

    fn converged(&mut self) {
        let mut authenticators = BTreeSet::new();
        let roster = self.group.public.roster().unwrap();
        for position in self.members() {
            let person = &mut self.people[position];
            assert_eq!(person.run(|transaction, _| transaction.roster(CONVERSATION)).unwrap().as_ref(), Some(&roster));
            let read = person.run(|transaction, _| transaction.epoch_authenticator(CONVERSATION)).unwrap();
            authenticators.insert(read.unwrap());
        }
        assert_eq!(authenticators.len(), 1);
        assert!(roster.leaves.iter().any(|leaf| roster.is_admin(&leaf.account)), "somebody can always act");
    }
}

#[test]
fn server_and_members_accept_and_refuse_the_same() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let one = number("FASTCHAT_MODEL_SEED");
    let seeds = one.map_or(0..number("FASTCHAT_MODEL_SEQUENCES").unwrap_or(SEQUENCES), |seed| seed..seed + 1);
    let (mut accepted, mut refused) = (0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            (world.accepted, world.refused)
        });
        let Ok(counts) = outcome else { panic!("seed {seed} failed") };
        (accepted, refused) = (accepted + counts.0, refused + counts.1);
    }
    let many = one.is_some() || accepted >= 40 && refused >= 40;
    assert!(many, "too one-sided: {accepted} accepted, {refused} refused");
}
