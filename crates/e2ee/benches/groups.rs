//! What groups cost: time of every step at 2, 10, 100 and 1,000 members, and its bytes on the wire and on disk.
//!
//! `cargo bench -p fastchat-e2ee` measures 2, 10 and 100; `FASTCHAT_BENCH_MEMBERS=2,10,100,1000` says otherwise. The bytes
//! are printed once per size, before the times. *Cold*: right after everybody was added; *warm*: after up to 64 members,
//! evenly spread, have updated their keys. On disk a value takes whole blocks of 8 KB, of which only changed ones are
//! written.
//!
//! **Invariant**: no measured call changes the state that the next one starts from.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::{collections::BTreeMap, hint::black_box};

use criterion::Criterion;
use fastchat_e2ee::{
    Change, Changes, Content, Device, GroupProfile, Identity, Join, PeerPackages, Prepared, StateStore, StoreError,
    Transaction, WelcomeFor,
};
use fastchat_mls::{PublicConversation, suite::MAX_ADDS};
use uuid::Uuid;
use zeroize::Zeroizing;

const CONVERSATION: Uuid = Uuid::from_u128(0xC0);
const BLOCK: usize = 8 * 1024;
/// How many members update their keys to warm a tree.
const WARMING: usize = 64;

#[derive(Clone, Default)]
struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

impl StateStore for Map {
    fn read(&self, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(self.0.get(key).cloned().map(Zeroizing::new))
    }
}

impl Map {
    fn apply(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(key, value.to_vec()),
                None => self.0.remove(&key),
            };
        }
    }

    fn bytes(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The bytes of changed values, and of the changed blocks of them.
    fn written(&self, changes: &Changes) -> (usize, usize) {
        let mut written = (0, 0);
        for (key, value) in changes {
            let Some(new) = value else { continue };
            let old = self.0.get(key).map(Vec::as_slice).unwrap_or_default();
            written.0 += new.len();
            let mut old_blocks = old.chunks(BLOCK);
            let changed = new.chunks(BLOCK).filter(|block| old_blocks.next() != Some(block));
            written.1 += changed.map(<[u8]>::len).sum::<usize>();
        }
        written
    }
}

/// A member; all accounts of the benchmark share one identity, because RSA keys are dear.
struct Member {
    account: String,
    device: Device,
    store: Map,
}

impl Member {
    fn new(identity: &Identity, number: usize) -> Self {
        let account = format!("member{number:04}");
        let device = Device::issue(identity, &account, Uuid::from_u128(number as u128 + 1)).unwrap();
        Self { account, device, store: Map::default() }
    }

    fn run<T>(&mut self, call: impl FnOnce(&mut Transaction<'_>, &Device) -> T) -> T {
        let mut transaction = Transaction::new(&self.store);
        let result = call(&mut transaction, &self.device);
        let changes = transaction.into_changes();
        self.store.apply(changes);
        result
    }

    fn key_package(&mut self) -> Vec<u8> {
        self.run(|transaction, device| transaction.key_packages(device, 1)).unwrap().remove(0)
    }
}

/// A group of which the admin and one plain member are kept, with somebody who is about to join.
struct Group {
    identity: &'static Identity,
    public: PublicConversation,
    group_info: Vec<u8>,
    admin: Member,
    reader: Member,
    joiner: Member,
    joiners_package: Vec<u8>,
    /// Members' devices, whose state is not kept.
    others: Vec<Device>,
    /// The member that is removed where removing is measured.
    removed: String,
}

impl Group {
    fn of(members: usize) -> Self {
        let identity: &'static Identity = Box::leak(Box::new(Identity::generate().unwrap()));
        let (mut admin, mut joiner) = (Member::new(identity, 0), Member::new(identity, members));
        let profile = GroupProfile::new("bench", "", &*admin.account);
        let created =
            admin.run(|transaction, device| transaction.create_group(device, CONVERSATION, &profile)).unwrap();
        let public = PublicConversation::open(CONVERSATION, &created.group_info).unwrap();
        let joiners_package = joiner.key_package();
        let reader = Member::new(identity, members - 1);
        let group_info = created.group_info;
        let (others, removed) = (Vec::new(), format!("member{:04}", members / 2));
        let mut group = Self { identity, public, group_info, admin, reader, joiner, joiners_package, others, removed };
        group.fill(members);
        group
    }

    /// Adds everybody, in batches; the reader comes with the last.
    fn fill(&mut self, members: usize) {
        let numbers: Vec<usize> = (1..members).collect();
        for batch in numbers.chunks(MAX_ADDS) {
            let mut added: Vec<Member> = batch.iter().map(|number| Member::new(self.identity, *number)).collect();
            let packages: Vec<Vec<u8>> = added.iter_mut().map(Member::key_package).collect();
            let listed: Vec<[(Uuid, &[u8]); 1]> =
                added.iter().zip(&packages).map(|(member, bytes)| [(member.device.id(), bytes.as_slice())]).collect();
            let add = added.iter().zip(&listed).map(|(member, packages)| PeerPackages {
                account: &member.account,
                identity: self.identity.public(),
                packages,
            });
            let change = Change { add: add.collect(), ..Change::default() };
            let (prepared, changes) = prepare(&self.admin, self.identity, &change);
            self.admin.store.apply(changes);
            self.take(&prepared);
            self.admin.run(|transaction, _| transaction.merge_pending(CONVERSATION)).unwrap();
            if batch.last() == Some(&(members - 1)) {
                self.reader = added.pop().unwrap();
                self.reader.join(&self.admin.account, self.identity, &prepared, &self.public.ratchet_tree().unwrap());
            }
            self.others.extend(added.into_iter().map(|member| member.device));
        }
    }

    /// The server takes a commit.
    fn take(&mut self, prepared: &Prepared) {
        self.public.commit(Uuid::nil(), &prepared.message, &prepared.group_info).unwrap();
        self.group_info.clone_from(&prepared.group_info);
    }

    /// Members spread over the tree come back by themselves, which renews their paths; admin and reader follow.
    fn warm(&mut self) {
        let step = self.others.len().div_ceil(WARMING).max(1);
        let others = std::mem::take(&mut self.others);
        for device in others.iter().step_by(step) {
            let prepared = self.rejoin(device);
            self.take(&prepared);
            for member in [&mut self.admin, &mut self.reader] {
                member.run(|transaction, _| transaction.process(CONVERSATION, Uuid::nil(), &prepared.message)).unwrap();
            }
        }
        self.others = others;
        for updates in [true, false] {
            let (by, other) =
                if updates { (&mut self.admin, &mut self.reader) } else { (&mut self.reader, &mut self.admin) };
            let (prepared, changes) = prepare(by, self.identity, &Change::default());
            by.store.apply(changes);
            self.public.commit(Uuid::nil(), &prepared.message, &prepared.group_info).unwrap();
            by.run(|transaction, _| transaction.merge_pending(CONVERSATION)).unwrap();
            other.run(|transaction, _| transaction.process(CONVERSATION, Uuid::nil(), &prepared.message)).unwrap();
            self.group_info = prepared.group_info;
        }
    }

    /// An external commit of a device that has no state.
    fn rejoin(&self, device: &Device) -> Prepared {
        let (tree, store) = (self.public.ratchet_tree().unwrap(), Map::default());
        let mut transaction = Transaction::new(&store);
        transaction.rejoin(device, CONVERSATION, Uuid::nil(), &self.group_info, &tree, &[]).unwrap()
    }
}

impl Member {
    fn join(&mut self, admin: &str, identity: &Identity, prepared: &Prepared, tree: &[u8]) {
        let join = join(admin, identity, prepared.welcomes.last().unwrap(), tree);
        self.run(|transaction, device| transaction.join(identity, device, CONVERSATION, &join)).unwrap();
    }
}

fn join<'a>(admin: &'a str, identity: &'a Identity, welcome: &'a WelcomeFor, tree: &'a [u8]) -> Join<'a> {
    let (welcome, join_key) = (&welcome.welcome, &welcome.join_key);
    Join { adder: (admin, identity.public()), welcome, join_key, ratchet_tree: tree, group: true }
}

fn prepare(by: &Member, identity: &Identity, change: &Change<'_>) -> (Prepared, Changes) {
    let mut transaction = Transaction::new(&by.store);
    let prepared = transaction.commit(identity, &by.device, CONVERSATION, Uuid::nil(), change).unwrap();
    (prepared, transaction.into_changes())
}

/// The changes that are measured.
fn changes<'a>(group: &'a Group, packages: &'a [(Uuid, &'a [u8])]) -> [(&'static str, Change<'a>); 3] {
    let joiner = PeerPackages { account: &group.joiner.account, identity: group.identity.public(), packages };
    let removed = if group.others.is_empty() { &group.reader.account } else { &group.removed };
    [
        ("add", Change { add: vec![joiner], ..Change::default() }),
        ("remove", Change { remove_accounts: vec![removed.clone()], ..Change::default() }),
        ("update", Change::default()),
    ]
}

fn text() -> Content {
    Content::text(1_700_000_000_000, 1, "x".repeat(200))
}

/// Prints the bytes of every step: on the wire, in changed values, in changed blocks.
fn report(group: &Group, name: &str) {
    let kb = |bytes: usize| format!("{:.1} KB", bytes as f64 / 1024.0);
    let (tree, state) = (group.public.ratchet_tree().unwrap().len(), group.reader.store.bytes());
    let server = group.public.to_bytes().unwrap().len();
    println!("\n{name}: tree {}, state of a device {}, of the server {}", kb(tree), kb(state), kb(server));
    let mut sealing = Transaction::new(&group.admin.store);
    let sealed = sealing.seal(&group.admin.device, CONVERSATION, Uuid::nil(), &text()).unwrap();
    let mut opening = Transaction::new(&group.reader.store);
    opening.open(CONVERSATION, Uuid::nil(), &sealed.payload).unwrap();
    let line = |step: &str, wire: usize, (values, blocks): (usize, usize)| {
        println!("  {step:<16} wire {:>10}   values {:>10}   blocks {:>10}", kb(wire), kb(values), kb(blocks));
    };
    line("encrypt", sealed.payload.len(), group.admin.store.written(&sealing.into_changes()));
    line("decrypt", sealed.payload.len(), group.reader.store.written(&opening.into_changes()));
    let packages = [(group.joiner.device.id(), group.joiners_package.as_slice())];
    for (step, change) in changes(group, &packages) {
        let (prepared, pending) = prepare(&group.admin, group.identity, &change);
        line(step, prepared.message.len() + prepared.group_info.len(), group.admin.store.written(&pending));
        let mut admin = group.admin.store.clone();
        admin.apply(pending);
        let mut merging = Transaction::new(&admin);
        merging.merge_pending(CONVERSATION).unwrap();
        line("  merge", 0, admin.written(&merging.into_changes()));
        let mut processing = Transaction::new(&group.reader.store);
        processing.process(CONVERSATION, Uuid::nil(), &prepared.message).unwrap();
        line("  process", prepared.message.len(), group.reader.store.written(&processing.into_changes()));
        if let Some(welcome) = prepared.welcomes.first() {
            let tree = tree_after(group, &prepared);
            let mut joining = Transaction::new(&group.joiner.store);
            let join = join(&group.admin.account, group.identity, welcome, &tree);
            joining.join(group.identity, &group.joiner.device, CONVERSATION, &join).unwrap();
            let wire = welcome.welcome.len() + welcome.join_key.len();
            line("  join (no tree)", wire, group.joiner.store.written(&joining.into_changes()));
        }
    }
}

fn tree_after(group: &Group, prepared: &Prepared) -> Vec<u8> {
    let mut public = PublicConversation::from_bytes(&group.public.to_bytes().unwrap()).unwrap();
    public.commit(Uuid::nil(), &prepared.message, &prepared.group_info).unwrap();
    public.ratchet_tree().unwrap()
}

/// Times every step.
fn measure(criterion: &mut Criterion, group: &Group, name: &str) {
    let mut times = criterion.benchmark_group(name);
    let sealed =
        Transaction::new(&group.admin.store).seal(&group.admin.device, CONVERSATION, Uuid::nil(), &text()).unwrap();
    times.bench_function("encrypt", |bencher| {
        bencher.iter(|| {
            let mut transaction = Transaction::new(&group.admin.store);
            black_box(transaction.seal(&group.admin.device, CONVERSATION, Uuid::nil(), &text()).unwrap())
        });
    });
    times.bench_function("decrypt", |bencher| {
        bencher.iter(|| {
            let mut transaction = Transaction::new(&group.reader.store);
            black_box(transaction.open(CONVERSATION, Uuid::nil(), &sealed.payload).unwrap())
        });
    });
    let (packages, public) = ([(group.joiner.device.id(), group.joiners_package.as_slice())], group.public.to_bytes());
    let public = public.unwrap();
    for (step, change) in changes(group, &packages) {
        let prepared = prepare(&group.admin, group.identity, &change).0;
        times.bench_function(format!("{step}: commit"), |bencher| {
            bencher.iter(|| black_box(prepare(&group.admin, group.identity, &change)));
        });
        times.bench_function(format!("{step}: process"), |bencher| {
            bencher.iter(|| {
                let mut transaction = Transaction::new(&group.reader.store);
                black_box(transaction.process(CONVERSATION, Uuid::nil(), &prepared.message).unwrap())
            });
        });
        times.bench_function(format!("{step}: server"), |bencher| {
            bencher.iter(|| {
                let mut public = PublicConversation::from_bytes(&public).unwrap();
                black_box(public.commit(Uuid::nil(), &prepared.message, &prepared.group_info).unwrap())
            });
        });
        if let Some(welcome) = prepared.welcomes.first() {
            let tree = tree_after(group, &prepared);
            let join = join(&group.admin.account, group.identity, welcome, &tree);
            times.bench_function("join", |bencher| {
                bencher.iter(|| {
                    let mut transaction = Transaction::new(&group.joiner.store);
                    black_box(transaction.join(group.identity, &group.joiner.device, CONVERSATION, &join).unwrap())
                });
            });
        }
    }
    times.bench_function("rejoin", |bencher| bencher.iter(|| black_box(group.rejoin(&group.reader.device))));
    times.finish();
}

fn main() {
    let sizes = std::env::var("FASTCHAT_BENCH_MEMBERS").unwrap_or_else(|_| "2,10,100".to_owned());
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for members in sizes.split(',').map(|size| size.trim().parse::<usize>().unwrap()) {
        let mut group = Group::of(members);
        for state in ["cold", "warm"] {
            if state == "warm" {
                group.warm();
            }
            let name = format!("{members} members, {state}");
            report(&group, &name);
            measure(&mut criterion, &group, &name);
        }
    }
    criterion.final_summary();
}
