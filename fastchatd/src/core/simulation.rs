//! Daemons' cores and a model of the server, driven by a seeded random number generator: up to eight users with two
//! devices each, groups that come and go, frames that get lost with their connection, daemons that crash between any two
//! parts of a step, devices that lose their state. In the end nothing may be lost, doubled, out of order, or shown to
//! whom it was not for.
//!
//! `FASTCHAT_SEEDS=2000` runs that many sequences in all, `FASTCHAT_SEED=17` replays one of each kind, and
//! `FASTCHAT_TRACE=1` shows every decision and every frame, `FASTCHAT_KEEP_GOING=1` goes on after a failure.
//!
//! **Invariant**: a failure prints its seed and the last decisions, and comes again with that seed.

mod cases;
mod check;
mod dice;
mod disk;
mod look;
mod planted;
mod review;
mod server;
mod thief;
mod world;

use dice::Kind;
use world::World;

/// Sequences of all kinds in a normal run.
const SEEDS: u64 = 100;

/// Two users with one device each, as many breakdowns as there can be.
const DIRECT: Kind =
    Kind { users: (2, 2), steps: (100, 300), devices: false, groups: false, losses: false, set_back: false };
const GROUPS: Kind =
    Kind { users: (2, 4), steps: (100, 320), devices: false, groups: true, losses: false, set_back: false };
const DEVICES: Kind =
    Kind { users: (2, 3), steps: (100, 320), devices: true, groups: true, losses: false, set_back: false };
const LOSSES: Kind =
    Kind { users: (2, 3), steps: (100, 320), devices: true, groups: true, losses: true, set_back: false };
const SET_BACK: Kind =
    Kind { users: (2, 3), steps: (100, 300), devices: true, groups: true, losses: true, set_back: true };
/// Many users, long.
const CROWD: Kind =
    Kind { users: (5, 8), steps: (250, 600), devices: true, groups: true, losses: true, set_back: false };

/// Runs a share of all sequences, in percent.
fn sequences(kind: Kind, percent: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("FASTCHAT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..(number("FASTCHAT_SEEDS").unwrap_or(SEEDS) * percent / 100).max(1),
    };
    let keep_going = std::env::var_os("FASTCHAT_KEEP_GOING").is_some();
    let mut failed = Vec::new();
    for seed in seeds {
        let once = std::panic::AssertUnwindSafe(|| {
            let world = World::run(seed, kind);
            if let Err(findings) = world.check() {
                panic!("seed {seed}:\n{findings}");
            }
        });
        match std::panic::catch_unwind(once) {
            Err(_) if keep_going => failed.push(seed),
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => {}
        }
    }
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

#[test]
fn direct_chats_lose_double_and_reorder_nothing_whatever_breaks() {
    sequences(DIRECT, 20);
}

#[test]
fn groups_agree_on_epoch_roster_and_history_whatever_breaks() {
    sequences(GROUPS, 26);
}

#[test]
fn devices_that_come_and_go_see_what_is_of_their_time() {
    sequences(DEVICES, 26);
}

#[test]
fn a_device_that_lost_its_state_comes_back_and_says_what_it_missed() {
    sequences(LOSSES, 16);
}

#[test]
fn a_store_that_was_set_back_harms_nobody_else() {
    sequences(SET_BACK, 8);
}

#[test]
fn a_crowd_of_users_and_devices_agrees() {
    sequences(CROWD, 4);
}
