//! How often somebody may do something: token buckets in a bounded table, owned by one task.
//!
//! **Invariant**: the table never grows past its bound, however many addresses and names come by.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use fastchat_wire::{AccountName, ConversationId};
use tokio::sync::{mpsc, oneshot};

/// Buckets that are remembered.
const TABLE: usize = 50_000;
const QUEUE: usize = 256;

/// Where a connection comes from: an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))),
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Logins of an account.
    LoginOf(AccountName),
    /// Logins from an address.
    LoginFrom(Origin),
    /// New accounts from an address.
    RegistrationFrom(Origin),
    /// Key packages claimed by an account.
    ClaimBy(AccountName),
    /// One-time key packages of an account that strangers get.
    StrangersClaimOf(AccountName),
    /// Conversations made by an account.
    ConversationBy(AccountName),
    /// Commits and proposals of an account in a conversation.
    HandshakeBy(AccountName, ConversationId),
    /// Group states fetched by an account.
    FetchBy(AccountName),
    /// Link mailboxes opened, written to or read from an address.
    LinkFrom(Origin),
    /// Grants given by an account.
    GrantBy(AccountName),
}

/// So many in such a time, and so many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In which time.
    pub per: Duration,
    /// How many of them at once.
    pub at_once: u64,
}

impl Rate {
    /// As many at once as in the whole minute.
    #[must_use]
    pub const fn per_minute(count: u64) -> Self {
        Self { count, per: Duration::from_secs(60), at_once: count }
    }

    /// As many at once as in the whole hour.
    #[must_use]
    pub const fn per_hour(count: u64) -> Self {
        Self { count, per: Duration::from_secs(3_600), at_once: count }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it will be full again: as later as more was taken.
    full_at: Instant,
}

/// The buckets themselves.
#[derive(Debug)]
struct Buckets {
    table: HashMap<Counted, Bucket>,
    bound: usize,
}

impl Buckets {
    /// Takes one, or says how long to wait.
    fn take(&mut self, now: Instant, what: Counted, rate: Rate) -> Result<(), Duration> {
        let step = rate.per / u32::try_from(rate.count.max(1)).unwrap_or(u32::MAX);
        let full_at = self.table.get(&what).map_or(now, |bucket| bucket.full_at.max(now));
        let next = full_at + step;
        // Empty when all that is given at once is owed; a step of rounding is forgiven.
        let owed = next.saturating_duration_since(now);
        let most = step * u32::try_from(rate.at_once.max(1)).unwrap_or(u32::MAX);
        if owed > most + step / 2 {
            return Err(owed - most);
        }
        if self.table.len() >= self.bound && !self.table.contains_key(&what) {
            self.make_room(now);
        }
        self.table.insert(what, Bucket { full_at: next });
        Ok(())
    }

    /// Forgets buckets that are full again, or else those that are nearest to it.
    fn make_room(&mut self, now: Instant) {
        self.table.retain(|_, bucket| bucket.full_at > now);
        if self.table.len() >= self.bound {
            let mut times: Vec<Instant> = self.table.values().map(|bucket| bucket.full_at).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            let mut room = self.bound / 4;
            self.table.retain(|_, bucket| {
                let goes = room > 0 && bucket.full_at <= median;
                room -= usize::from(goes);
                !goes
            });
        }
    }
}

struct Take {
    what: Counted,
    rate: Rate,
    reply: oneshot::Sender<Result<(), Duration>>,
}

/// A handle on the task that counts.
#[derive(Clone)]
pub struct Rates {
    queue: mpsc::Sender<Take>,
}

impl Rates {
    /// Starts the task; it ends with the last handle.
    #[must_use]
    pub fn start() -> Self {
        let (queue, mut requests) = mpsc::channel::<Take>(QUEUE);
        tokio::spawn(async move {
            let mut buckets = Buckets { table: HashMap::new(), bound: TABLE };
            while let Some(Take { what, rate, reply }) = requests.recv().await {
                let _ = reply.send(buckets.take(Instant::now(), what, rate));
            }
        });
        Self { queue }
    }

    /// Takes one.
    ///
    /// # Errors
    /// There are none left: how long until there is one.
    pub async fn take(&self, what: Counted, rate: Rate) -> Result<(), Duration> {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Take { what, rate, reply }).await.is_err() {
            return Err(Duration::from_secs(1));
        }
        answer.await.unwrap_or(Err(Duration::from_secs(1)))
    }
}

/// One connection's own bucket, for what needs no table: the entries it submits.
#[derive(Debug)]
pub struct Pace {
    full_at: Instant,
}

impl Pace {
    /// A full bucket.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `count` at `per_second`, with ten seconds' worth in store; answers when to go on.
    pub fn take(&mut self, now: Instant, count: usize, per_second: u64) -> Instant {
        let cost = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(now) + cost * u32::try_from(count).unwrap_or(u32::MAX);
        self.full_at.checked_sub(Duration::from_secs(10)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_minute(3);

    fn buckets(bound: usize) -> Buckets {
        Buckets { table: HashMap::new(), bound }
    }

    fn from(last: u8) -> Counted {
        Counted::LoginFrom(Origin::from(IpAddr::from([10, 0, 0, last])))
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let (mut buckets, now) = (buckets(10), Instant::now());
        for _ in 0..3 {
            assert_eq!(buckets.take(now, from(1), RATE), Ok(()));
        }
        let wait = buckets.take(now, from(1), RATE).unwrap_err();
        assert!(wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(buckets.take(now, from(2), RATE), Ok(()));
        assert_eq!(buckets.take(now + wait, from(1), RATE), Ok(()));
        assert!(buckets.take(now + wait, from(1), RATE).is_err());
    }

    #[test]
    fn less_is_given_at_once_than_in_the_long_run() {
        let (mut buckets, now) = (buckets(10), Instant::now());
        let rate = Rate { count: 60, per: Duration::from_secs(60), at_once: 2 };
        assert_eq!((buckets.take(now, from(1), rate), buckets.take(now, from(1), rate)), (Ok(()), Ok(())));
        let wait = buckets.take(now, from(1), rate).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(buckets.take(now + wait, from(1), rate), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let (mut buckets, now) = (buckets(100), Instant::now());
        for _ in 0..3 {
            assert_eq!(buckets.take(now, from(0), RATE), Ok(()));
        }
        for other in 1..=250 {
            assert_eq!(buckets.take(now, from(other), RATE), Ok(()));
            assert!(buckets.table.len() <= 100);
        }
        assert!(buckets.take(now, from(0), RATE).is_err());
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
    }

    #[test]
    fn a_pace_lets_bursts_through_and_then_slows_down() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert!(pace.take(now, 100, 10) <= now);
        assert!(pace.take(now, 10, 10) > now);
        assert!(pace.take(now + Duration::from_secs(30), 10, 10) <= now + Duration::from_secs(30));
    }
}
