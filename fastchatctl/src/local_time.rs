//! Times and durations as people read and write them.
//!
//! **Invariant**: a time shown is in the local zone; a duration read is positive and at most a year.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

/// The present and the local zone.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Zoned,
}

impl Clock {
    /// The system's clock and zone.
    pub(crate) fn system() -> Self {
        Self { now: Zoned::now() }
    }

    #[cfg(test)]
    fn at(now_ms: i64) -> Self {
        Self { now: Timestamp::from_millisecond(now_ms).unwrap().to_zoned(TimeZone::UTC) }
    }

    /// `12:03` for today, with the date for other days; empty for 0.
    pub(crate) fn stamp(&self, at_ms: u64) -> String {
        let Some(at) = self.local(at_ms) else { return String::new() };
        let form = if at.date() == self.now.date() {
            "%H:%M"
        } else if at.year() == self.now.year() {
            "%-d %b %H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        };
        at.strftime(form).to_string()
    }

    fn local(&self, at_ms: u64) -> Option<Zoned> {
        let at = i64::try_from(at_ms).ok().filter(|at| *at > 0)?;
        let zone: TimeZone = self.now.time_zone().clone();
        Some(Timestamp::from_millisecond(at).ok()?.to_zoned(zone))
    }
}

/// `3 d 4 h`, `5 min`, `12 s`: the two largest units.
pub(crate) fn spelled(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Reads `30s`, `500ms`, `2m`, `1h 30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is not a duration; write 30s, 500ms or 2m", text.escape_debug());
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    if duration.is_zero() || duration > Duration::from_secs(366 * 86_400) {
        return Err(format!("`{}` is out of bounds: more than nothing, at most a year", text.escape_debug()));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn today_shows_the_time_alone_and_other_days_the_date() {
        let clock = Clock::at(1_763_712_000_000); // 2025-11-21 08:00 UTC
        assert_eq!(clock.stamp(1_763_712_180_000), "08:03");
        assert_eq!(clock.stamp(1_763_600_000_000), "20 Nov 00:53");
        assert_eq!(clock.stamp(1_700_000_000_000), "2023-11-14 22:13");
        assert_eq!((clock.stamp(0), clock.stamp(u64::MAX)), (String::new(), String::new()));
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "30", "-3s", "0s", "soon", "99999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn durations_are_spelled_with_two_units_at_most() {
        let spelled = |seconds| super::spelled(Duration::from_secs(seconds));
        assert_eq!(
            [spelled(5), spelled(300), spelled(7500), spelled(200_000)],
            ["5 s", "5 min", "2 h 5 min", "2 d 7 h"]
        );
    }
}
