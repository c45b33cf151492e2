//! When to try again, when to ping, when a connection is dead: the link's decisions, without I/O, clock or randomness.
//!
//! **Invariant**: attempts are never closer together than the back-off or the server's advice says, unless somebody
//! asks; a connection on which nothing moves is found out in bounded time.

use std::time::{Duration, Instant};

/// The back-off's first ceiling.
const FIRST: Duration = Duration::from_millis(500);
/// The back-off's last ceiling.
const CEILING: Duration = Duration::from_secs(60);
/// A connection that was up this long was a good one: the back-off begins anew.
const STABLE: Duration = Duration::from_secs(60);
/// The longest that a server's advice is believed.
const LONGEST_ADVICE: Duration = Duration::from_secs(3600);
/// Attempts that a change of the network brings about are at least this far apart.
const EAGER_GAP: Duration = Duration::from_secs(3);
/// How long the answer to a ping may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nothing at all of what is queued may be written.
const WRITE: Duration = Duration::from_secs(30);
/// How long a server that said Goaway may take to close.
const LEAVE: Duration = Duration::from_secs(10);
/// What a server may say about `ping_seconds`.
const PING_SECONDS: std::ops::RangeInclusive<u32> = 6..=3600;

/// Full-jitter back-off.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    failures: u32,
    attempt: Option<Instant>,
    up: Option<Instant>,
}

impl BackOff {
    /// An attempt begins.
    pub(super) fn attempted(&mut self, now: Instant) {
        self.attempt = Some(now);
    }

    /// A session stands.
    pub(super) fn up(&mut self, now: Instant) {
        self.up = Some(now);
    }

    /// Somebody wants it now: forget earlier failures.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The attempt failed or the session is lost: how long to wait. `chance` is uniform in 0..1.
    pub(super) fn down(&mut self, now: Instant, advice: Option<Duration>, chance: f64) -> Duration {
        if self.up.take().is_some_and(|up| now.duration_since(up) >= STABLE) {
            self.failures = 0;
        }
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(CEILING);
        self.failures = self.failures.saturating_add(1);
        let jitter = ceiling.mul_f64(chance.clamp(0.0, 1.0));
        advice.map_or(jitter, |advice| advice.min(LONGEST_ADVICE) + jitter)
    }

    /// The soonest time for an attempt that a change of the network brings about.
    pub(super) fn eager(&self, now: Instant) -> Instant {
        self.attempt.map_or(now, |attempt| now.max(attempt + EAGER_GAP))
    }
}

/// What is due on a standing connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this time.
    At(Instant),
    /// Send a ping.
    Ping,
    /// The server does not answer.
    Silent,
    /// The server does not read.
    Stuck,
    /// The server said Goaway and has had its time.
    Left,
}

/// Watches over a standing connection.
#[derive(Debug)]
pub(super) struct Vigil {
    quiet: Duration,
    heard: Instant,
    said: Instant,
    asked: Option<Instant>,
    writing: Option<Instant>,
    leaving: Option<Instant>,
}

impl Vigil {
    /// Begins now; `ping_seconds` as the server said.
    pub(super) fn new(ping_seconds: u32, now: Instant) -> Self {
        let seconds = ping_seconds.clamp(*PING_SECONDS.start(), *PING_SECONDS.end());
        let quiet = Duration::from_secs(u64::from(seconds)) / 3;
        Self { quiet, heard: now, said: now, asked: None, writing: None, leaving: None }
    }

    /// Bytes came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// Something is queued to be written.
    pub(super) fn queued(&mut self, now: Instant) {
        self.said = now;
        self.writing.get_or_insert(now);
    }

    /// Some of what was queued has been written.
    pub(super) fn progressed(&mut self, now: Instant) {
        if let Some(since) = &mut self.writing {
            *since = now;
        }
    }

    /// All that was queued has been written.
    pub(super) fn written(&mut self) {
        self.writing = None;
    }

    /// A ping was queued.
    pub(super) fn pinged(&mut self, now: Instant) {
        self.queued(now);
        self.asked.get_or_insert(now);
    }

    /// Whether a ping is on its way.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// The server said Goaway.
    pub(super) fn leaving(&mut self, now: Instant) {
        self.leaving.get_or_insert(now);
    }

    /// What is due. While we do not read (`listening` false: the engine is busy), silence is not the server's fault.
    pub(super) fn due(&mut self, now: Instant, listening: bool) -> Due {
        if !listening && self.asked.is_some() {
            self.asked = Some(now);
        }
        let write = self.writing.map(|since| (since + WRITE, Due::Stuck));
        let answer = self.asked.map(|since| (since + ANSWER, Due::Silent));
        let leave = self.leaving.map(|since| (since + LEAVE, Due::Left));
        let quiet_since = if self.asked.is_some() { self.said } else { self.said.min(self.heard) };
        let ping = (quiet_since + self.quiet, Due::Ping);
        let end = [write, answer, leave].into_iter().flatten().min_by_key(|(at, _)| *at);
        match end {
            Some((at, due)) if at <= now => due,
            _ if ping.0 <= now => Due::Ping,
            _ => Due::At(end.map_or(ping.0, |(at, _)| at.min(ping.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_ceiling_doubles_up_to_a_minute() {
        let now = Instant::now();
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..9).map(|_| back_off.down(now, None, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        for _ in 0..100 {
            assert_eq!(back_off.down(now, None, 1.0), CEILING);
        }
    }

    #[test]
    fn the_jitter_is_full() {
        let mut back_off = BackOff::default();
        assert_eq!(back_off.down(Instant::now(), None, 0.0), Duration::ZERO);
        assert_eq!(back_off.down(Instant::now(), None, 0.5), Duration::from_millis(500));
    }

    #[test]
    fn a_servers_advice_is_waited_for_within_reason() {
        let mut back_off = BackOff::default();
        let now = Instant::now();
        assert_eq!(back_off.down(now, Some(seconds(90)), 0.0), seconds(90));
        assert!(back_off.down(now, Some(seconds(90)), 0.5) > seconds(90));
        assert_eq!(back_off.down(now, Some(seconds(1 << 31)), 0.0), LONGEST_ADVICE);
    }

    #[test]
    fn only_a_stable_minute_forgets_earlier_failures() {
        let start = Instant::now();
        let mut back_off = BackOff::default();
        for _ in 0..5 {
            back_off.down(start, None, 1.0);
        }
        back_off.up(start);
        assert_eq!(back_off.down(start + seconds(59), None, 1.0), seconds(16));
        back_off.up(start + seconds(60));
        assert_eq!(back_off.down(start + seconds(120), None, 1.0), FIRST);
    }

    #[test]
    fn changes_of_the_network_cannot_make_attempts_pile_up() {
        let start = Instant::now();
        let mut back_off = BackOff::default();
        back_off.attempted(start);
        assert_eq!(back_off.eager(start + seconds(1)), start + EAGER_GAP);
        assert_eq!(back_off.eager(start + seconds(9)), start + seconds(9));
    }

    #[test]
    fn a_quiet_connection_is_pinged_and_one_that_does_not_answer_is_dead() {
        let start = Instant::now();
        let mut vigil = Vigil::new(30, start);
        assert_eq!(vigil.due(start, true), Due::At(start + seconds(10)));
        assert_eq!(vigil.due(start + seconds(10), true), Due::Ping);
        vigil.pinged(start + seconds(10));
        vigil.written();
        assert_eq!(vigil.due(start + seconds(29), true), Due::Ping);
        assert_eq!(vigil.due(start + seconds(30), true), Due::Silent);
        vigil.queued(start + seconds(31));
        vigil.heard(start + seconds(30));
        vigil.written();
        assert_eq!(vigil.due(start + seconds(30), true), Due::At(start + seconds(40)));
    }

    #[test]
    fn hearing_alone_does_not_keep_the_server_from_closing_on_us() {
        let start = Instant::now();
        let mut vigil = Vigil::new(30, start);
        vigil.heard(start + seconds(9));
        assert_eq!(vigil.due(start + seconds(10), true), Due::Ping);
    }

    #[test]
    fn our_own_slowness_is_not_the_servers_silence() {
        let start = Instant::now();
        let mut vigil = Vigil::new(3600, start);
        vigil.pinged(start);
        vigil.written();
        assert!(matches!(vigil.due(start + seconds(19), false), Due::At(_)));
        assert!(matches!(vigil.due(start + seconds(38), true), Due::At(_)));
        assert_eq!(vigil.due(start + seconds(39), true), Due::Silent);
    }

    #[test]
    fn a_server_that_does_not_read_is_given_up() {
        let start = Instant::now();
        let mut vigil = Vigil::new(3600, start);
        vigil.queued(start);
        vigil.queued(start + seconds(29));
        assert_eq!(vigil.due(start + WRITE, true), Due::Stuck);
        vigil.progressed(start + seconds(29));
        assert_eq!(vigil.due(start + WRITE, true), Due::At(start + seconds(29) + WRITE));
        assert_eq!(vigil.due(start + seconds(29) + WRITE, true), Due::Stuck);
        vigil.written();
        assert!(matches!(vigil.due(start + WRITE, true), Due::At(_)));
    }

    #[test]
    fn a_server_that_says_goaway_has_bounded_time_to_close() {
        let start = Instant::now();
        let mut vigil = Vigil::new(3600, start);
        vigil.leaving(start);
        assert_eq!(vigil.due(start + LEAVE, true), Due::Left);
    }
}
