//! Fault points: places at which a test lets the daemon end at once, as a power cut would.
//!
//! `FASTCHAT_CRASH_AT` names one point. The process aborts where it is reached (what was committed there is not on the disk
//! then), or, with `@synced` or `@sent` behind the name, after the next `fdatasync`, or once what follows from it has
//! been sent off. Whoever can set a daemon's environment can end it anyway.
//!
//! **Invariant**: without the variable a point does nothing, and costs one comparison.

use std::{
    env, process,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Names the point.
const VARIABLE: &str = "FASTCHAT_CRASH_AT";

/// When to end, once the point was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Reached,
    Synced,
    Sent,
}

struct Plan {
    name: String,
    moment: Moment,
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
/// The point was reached, and the moment is still to come.
static ARMED: AtomicBool = AtomicBool::new(false);

/// A step is done: its records are committed, and not on the disk yet.
pub fn point(name: &str) {
    if let Some(plan) = plan().filter(|plan| plan.name == name) {
        match plan.moment {
            Moment::Reached => end(plan),
            Moment::Synced | Moment::Sent => ARMED.store(true, Ordering::Release),
        }
    }
}

/// Everything that was committed is on the disk.
pub(crate) fn synced() {
    end_at(Moment::Synced);
}

/// What follows from what is on the disk was sent off.
pub(crate) fn sent() {
    end_at(Moment::Sent);
}

fn end_at(moment: Moment) {
    if let Some(plan) = plan().filter(|plan| plan.moment == moment && ARMED.load(Ordering::Acquire)) {
        end(plan);
    }
}

fn end(plan: &Plan) -> ! {
    eprintln!("fastchatd: ends at the fault point {} ({:?}), as {VARIABLE} says", plan.name, plan.moment);
    process::abort()
}

fn plan() -> Option<&'static Plan> {
    PLAN.get_or_init(|| env::var(VARIABLE).ok().as_deref().and_then(parse)).as_ref()
}

fn parse(text: &str) -> Option<Plan> {
    let (name, moment) = match text.split_once('@') {
        None => (text, Moment::Reached),
        Some((name, "synced")) => (name, Moment::Synced),
        Some((name, "sent")) => (name, Moment::Sent),
        Some(_) => return None,
    };
    (!name.is_empty()).then(|| Plan { name: name.to_owned(), moment })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_name_and_a_moment() {
        let parsed = |text| parse(text).map(|plan| (plan.name, plan.moment));
        assert_eq!(parsed("commit-stored"), Some(("commit-stored".into(), Moment::Reached)));
        assert_eq!(parsed("commit-stored@synced"), Some(("commit-stored".into(), Moment::Synced)));
        assert_eq!(parsed("commit-stored@sent"), Some(("commit-stored".into(), Moment::Sent)));
        assert_eq!(parsed("commit-stored@later"), None);
        assert_eq!(parsed(""), None);
    }

    #[test]
    fn without_a_plan_nothing_ends() {
        point("commit-stored");
        synced();
        sent();
    }
}
