//! When a schedule is due, in a time zone, with rules for the nights on which clocks change. Pure functions: the time
//! is passed in.

use super::cron_text::{self, CronError};
use cron::{Schedule as Pattern, TimeUnitSpec};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, civil};
use pictor_tasks::job::nearest;
use std::collections::VecDeque;

/// Milliseconds in a second. Due times are whole seconds.
const SECOND: i64 = 1_000;
/// The first window in which [`Timetable::latest`] searches backwards.
const WINDOW_MS: i64 = 60 * SECOND;

/// Why a timetable cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimetableError {
    /// The cron fields cannot be parsed.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// There is no time zone of this name.
    #[error(
        "`{name}` is not a time zone{}: expected a name of the IANA database such as \
         `Europe/Berlin`, `America/New_York` or `UTC`",
        hint.as_ref().map_or_else(String::new, |hint| format!(" (did you mean `{hint}`?)"))
    )]
    Zone {
        /// The name as it was given.
        name: String,
        /// The most similar name of a time zone, if there is one.
        hint: Option<String>,
    },
}

/// The due times of a schedule.
///
/// A schedule follows the wall clock of its zone. On the two nights a year on which that clock is changed:
/// - a time that does not exist that night is due at the first moment after the gap;
/// - a time that occurs twice is due once, the first time;
/// - an hourly schedule (`*` for the hour) continues without a break: it is due as often as on any other night for each
///   hour that passes.
#[derive(Clone, Debug)]
pub struct Timetable {
    /// Due when one of them matches.
    patterns: Vec<Pattern>,
    every_hour: bool,
    zone: TimeZone,
}

impl Timetable {
    /// Parses cron fields and the name of a time zone.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, TimetableError> {
        let patterns = cron_text::patterns(cron)?;
        let every_hour = patterns[0].hours().is_all();
        Ok(Self { patterns, every_hour, zone: self::zone(zone)? })
    }

    /// The first due time after `time_ms`, both in milliseconds since 1970. Returns `None` if there is none.
    pub fn next_after(&self, time_ms: i64) -> Option<i64> {
        let after = time_ms.div_euclid(SECOND);
        let next =
            if self.every_hour { self.next_elapsed(after) } else { self.next_on_the_wall(after) };
        next.map(|second| second * SECOND)
    }

    /// The due times after `time_ms`, in order.
    pub fn after(&self, time_ms: i64) -> impl Iterator<Item = i64> + '_ {
        std::iter::successors(self.next_after(time_ms), |last| self.next_after(*last))
    }

    /// The last due times that are later than `after_ms` and not later than `until_ms`: at most `limit`, in order.
    pub fn latest(&self, after_ms: i64, until_ms: i64, limit: usize) -> Vec<i64> {
        let mut window = WINDOW_MS;
        loop {
            let from = after_ms.max(until_ms.saturating_sub(window));
            let mut found = VecDeque::with_capacity(limit + 1);
            for due in self.after(from).take_while(|due| *due <= until_ms) {
                found.push_back(due);
                if found.len() > limit {
                    found.pop_front();
                }
            }
            if found.len() == limit || from == after_ms {
                return found.into();
            }
            window = window.saturating_mul(2);
        }
    }

    /// The next matching time on a clock that is never changed; both in seconds since 1970 on that clock.
    fn next_local(&self, local: i64) -> Option<i64> {
        let local = chrono::DateTime::from_timestamp(local, 0)?;
        let next = |pattern: &Pattern| pattern.after(&local).next();
        self.patterns.iter().filter_map(next).min().map(|next| next.timestamp())
    }

    /// The next due time by the wall clock.
    fn next_on_the_wall(&self, after: i64) -> Option<i64> {
        let mut local = after + i64::from(self.zone.to_offset(timestamp(after)?).seconds());
        // When the clock is set back, the wall clock repeats times that have been due already.
        loop {
            local = self.next_local(local)?;
            let real = self.first_real(local)?;
            if real > after {
                return Some(real);
            }
        }
    }

    /// The first moment at which the wall clock shows `local`; if it falls into a gap, the first moment after that.
    fn first_real(&self, local: i64) -> Option<i64> {
        let wall: civil::DateTime = Offset::UTC.to_datetime(timestamp(local)?);
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => Some(local - i64::from(offset.seconds())),
            AmbiguousOffset::Fold { before, .. } => Some(local - i64::from(before.seconds())),
            AmbiguousOffset::Gap { after, .. } => {
                let before_gap = timestamp(local - i64::from(after.seconds()))?;
                let mut changes = self.zone.following(before_gap);
                changes.next().map(|change| change.timestamp().as_second())
            }
        }
    }

    /// The next due time by elapsed hours.
    fn next_elapsed(&self, after: i64) -> Option<i64> {
        let (mut from, start) = (after, timestamp(after)?);
        let mut offset = i64::from(self.zone.to_offset(start).seconds());
        let mut changes = self.zone.following(start);
        loop {
            let next = self.next_local(from + offset)? - offset;
            match changes.next() {
                Some(change) if change.timestamp().as_second() <= next => {
                    // Nothing is due before the change; from then on another offset applies.
                    from = change.timestamp().as_second() - 1;
                    offset = i64::from(change.offset().seconds());
                }
                _ => return Some(next),
            }
        }
    }
}

fn timestamp(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

fn zone(name: &str) -> Result<TimeZone, TimetableError> {
    TimeZone::get(name).map_err(|_| {
        let known: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
        let hint = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
        TimetableError::Zone { name: name.to_owned(), hint }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a time such as `2026-03-29T02:30:00+01:00` to milliseconds.
    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// The due times after a moment, as the wall clock shows them, with its offset.
    fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let table = Timetable::parse(cron, zone).unwrap();
        let shown = |due: i64| {
            let due = Timestamp::from_millisecond(due).unwrap();
            due.to_zoned(table.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
        };
        table.after(ms(after)).take(count).map(shown).collect()
    }

    #[test]
    fn a_time_that_does_not_exist_is_due_at_the_first_moment_after_the_gap() {
        let due = next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3);
        assert_eq!(
            due,
            [
                "2026-03-28 02:30:00 +01:00",
                "2026-03-29 03:00:00 +02:00",
                "2026-03-30 02:30:00 +02:00"
            ]
        );
        let due = next("30 2 * * *", "America/New_York", "2026-03-08T00:00:00Z", 1);
        assert_eq!(due, ["2026-03-08 03:00:00 -04:00"]);
    }

    #[test]
    fn several_times_in_one_gap_are_due_once() {
        let due = next("0,20,40 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(
            due,
            [
                "2026-03-29 03:00:00 +02:00",
                "2026-03-29 03:20:00 +02:00",
                "2026-03-29 03:40:00 +02:00"
            ]
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_due_once_the_first_time() {
        let due = next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(due, ["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"]);
        let due = next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", 1);
        assert_eq!(due, ["2026-10-26 02:30:00 +01:00"], "not again in the second pass");
        let due = next("* * 2 * * *", "Europe/Berlin", "2026-10-25T00:59:58Z", 2);
        assert_eq!(due, ["2026-10-25 02:59:59 +02:00", "2026-10-26 02:00:00 +01:00"]);
    }

    #[test]
    fn a_schedule_of_every_hour_goes_through_both_nights() {
        let due = next("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3);
        assert_eq!(
            due,
            [
                "2026-03-29 01:30:00 +01:00",
                "2026-03-29 03:30:00 +02:00",
                "2026-03-29 04:30:00 +02:00"
            ]
        );
        let due = next("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3);
        assert_eq!(
            due,
            [
                "2026-10-25 02:30:00 +02:00",
                "2026-10-25 02:30:00 +01:00",
                "2026-10-25 03:30:00 +01:00"
            ]
        );
    }

    #[test]
    fn a_change_of_half_an_hour_and_a_day_that_never_was_are_no_special_case() {
        let due = next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2);
        assert_eq!(due, ["2026-10-04 02:30:00 +11:00", "2026-10-05 02:15:00 +11:00"]);
        let due = next("*/20 * * * *", "Australia/Lord_Howe", "2026-04-04T14:45:00Z", 4);
        assert_eq!(
            due,
            [
                "2026-04-05 01:40:00 +10:30",
                "2026-04-05 02:00:00 +10:30",
                "2026-04-05 02:20:00 +10:30",
                "2026-04-05 02:40:00 +10:30"
            ]
        );
        // Samoa skipped 30 December 2011.
        let due = next("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 3);
        assert_eq!(
            due,
            [
                "2011-12-29 12:00:00 -10:00",
                "2011-12-31 00:00:00 +14:00",
                "2011-12-31 12:00:00 +14:00"
            ]
        );
    }

    #[test]
    fn a_year_has_as_many_due_times_as_days_or_hours_in_every_zone() {
        let zones =
            ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"];
        let (start, end) = (ms("2026-01-01T12:00:00Z"), ms("2027-01-01T12:00:00Z"));
        for zone in zones {
            for minute in [0, 15, 30, 59] {
                for hour in [0, 1, 2, 3, 23] {
                    let table = Timetable::parse(&format!("{minute} {hour} * * *"), zone).unwrap();
                    let due: Vec<i64> = table.after(start).take_while(|due| *due <= end).collect();
                    assert_eq!(due.len(), 365, "{minute} {hour} in {zone}");
                }
            }
            let table = Timetable::parse("5 * * * *", zone).unwrap();
            let due: Vec<i64> = table.after(start).take_while(|due| *due <= end).collect();
            let steps = due.windows(2).map(|pair| pair[1] - pair[0]);
            if zone != "Australia/Lord_Howe" {
                assert!(steps.clone().all(|step| step == 3_600_000), "{zone}");
                assert_eq!(due.len(), 365 * 24, "{zone}");
            }
            assert!(steps.clone().all(|step| step > 0), "{zone}");
        }
    }

    #[test]
    fn the_latest_due_times_are_found_without_going_through_all_of_them() {
        let table = Timetable::parse("* * * * * *", "UTC").unwrap();
        let until = ms("2026-06-01T00:00:00Z");
        let found = table.latest(0, until, 100);
        assert_eq!(found.len(), 100);
        assert_eq!((found[0], found[99]), (until - 99_000, until));
        assert_eq!(table.latest(until - 3_000, until, 100).len(), 3);
        assert_eq!(table.latest(until, until, 100), [0; 0]);
        let yearly = Timetable::parse("0 0 1 1 *", "Europe/Berlin").unwrap();
        assert_eq!(yearly.latest(ms("2020-06-01T00:00:00Z"), until, 100).len(), 6);
    }

    #[test]
    fn an_unknown_zone_is_named_with_what_was_probably_meant() {
        let error = Timetable::parse("@daily", "Europe/Berlln").unwrap_err().to_string();
        assert!(error.contains("(did you mean `Europe/Berlin`?)"), "{error}");
        assert!(Timetable::parse("@daily", "").is_err());
    }

    #[test]
    fn a_date_that_never_comes_is_never_due() {
        let table = Timetable::parse("0 0 31 2 *", "UTC").unwrap();
        assert_eq!(table.next_after(0), None);
    }
}
