//! Working hours: `mon-fri 19:00-07:00; sat,sun`. Times are local times, so that a night is the same in summer and in
//! winter; a night belongs to the day on which it begins.

use jiff::civil::{DateTime, Weekday};
use std::fmt;
use std::str::FromStr;

/// The minutes of a day.
const DAY: u16 = 24 * 60;
/// The most parts of a schedule.
const PARTS_MAX: usize = 32;
/// The names of the days, in the order of [`Weekday::to_monday_zero_offset`].
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The hours in which a worker accepts work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    text: String,
    parts: Vec<Part>,
}

/// A span of time on some days of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// The days, beginning with Monday.
    days: [bool; 7],
    /// The start in minutes since midnight, before the end of the day.
    from: u16,
    /// The end in minutes since midnight; on the next day unless it is later than `from`.
    to: u16,
}

/// Why a text is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` is not a time to work: {why}; expected for example `mon-fri 19:00-07:00; sat,sun`"
)]
pub struct HoursError {
    part: String,
    why: String,
}

impl Hours {
    /// Whether the worker may work at this local time.
    pub fn is_open(&self, now: DateTime) -> bool {
        let today = now.date().weekday();
        let minute =
            u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
        let on = |part: &Part, day: Weekday| {
            part.days[usize::from(day.to_monday_zero_offset().unsigned_abs())]
        };
        self.parts.iter().any(|part| {
            if part.from < part.to {
                return on(part, today) && (part.from..part.to).contains(&minute);
            }
            let evening = on(part, today) && minute >= part.from;
            let morning = on(part, today.previous()) && minute < part.to;
            evening || morning
        })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let lower = text.to_lowercase();
        let parts = lower.split(';').map(str::trim).filter(|part| !part.is_empty());
        let parts = parts.map(Part::read).collect::<Result<Vec<_>, _>>()?;
        let error = |why: &str| HoursError { part: text.to_owned(), why: why.to_owned() };
        match parts.len() {
            0 => Err(error("it names no time")),
            1..=PARTS_MAX => Ok(Self { text: text.trim().to_owned(), parts }),
            _ => Err(error("it has too many parts")),
        }
    }
}

impl Part {
    /// Parses `mon-fri 19:00-07:00`, or the days or the times alone.
    fn read(text: &str) -> Result<Self, HoursError> {
        let error = |why: String| HoursError { part: text.to_owned(), why };
        let starts_with_time = text.starts_with(|c: char| c.is_ascii_digit());
        let (days, times) = match text.split_once(char::is_whitespace) {
            Some((days, times)) => (Some(days), Some(times.trim())),
            None if starts_with_time => (None, Some(text)),
            None => (Some(text), None),
        };
        let days = days.map_or(Ok([true; 7]), days_in).map_err(error)?;
        let (from, to) = times.map_or(Ok((0, DAY)), times_in).map_err(error)?;
        Ok(Self { days, from, to })
    }
}

/// Parses `mon-wed,fri`. A range may extend past the end of the week.
fn days_in(text: &str) -> Result<[bool; 7], String> {
    let number = |name: &str| {
        let found = DAYS.iter().position(|day| *day == name.trim());
        found.ok_or_else(|| format!("`{name}` is not a day ({})", DAYS.join(", ")))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Ok(days)
}

/// Parses `19:00-07:00`.
fn times_in(text: &str) -> Result<(u16, u16), String> {
    let (from, to) = text.split_once('-').ok_or("a time has a beginning and an end")?;
    let (from, to) = (minute_in(from)?, minute_in(to)?);
    if from == DAY {
        return Err("a day begins at 00:00".into());
    }
    if from == to {
        return Err("the beginning is the end; for a whole day leave the times out".into());
    }
    Ok((from, to))
}

fn minute_in(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{}` is not a time from 00:00 to 24:00", text.trim());
    let (hour, minute) = text.trim().split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| plain)
    };
    let (Some(hour), Some(minute)) = (number(hour), number(minute)) else {
        return Err(wrong());
    };
    let minutes = hour * 60 + minute;
    if minute < 60 && minutes <= DAY { Ok(minutes) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::{Timestamp, tz::TimeZone};

    fn is_open(hours: &str, at: &str) -> bool {
        hours.parse::<Hours>().unwrap().is_open(at.parse().unwrap())
    }

    // 2026-03-02 is a Monday.
    #[test]
    fn nights_belong_to_the_day_on_which_they_begin() {
        let hours = "mon-fri 19:00-07:00; sat,sun";
        for (at, open) in [
            ("2026-03-02T06:59", false),
            ("2026-03-02T18:59", false),
            ("2026-03-02T19:00", true),
            ("2026-03-03T00:00", true),
            ("2026-03-03T06:59", true),
            ("2026-03-03T07:00", false),
            ("2026-03-06T23:00", true),
            ("2026-03-07T03:00", true),
            ("2026-03-07T12:00", true),
            ("2026-03-08T23:59", true),
            ("2026-03-09T00:00", false),
        ] {
            assert_eq!(is_open(hours, at), open, "{at}");
        }
    }

    #[test]
    fn days_and_times_can_be_left_out_and_ranges_go_round_the_week() {
        assert!(is_open("9:00-17:30", "2026-03-07T17:29"));
        assert!(!is_open("9:00-17:30", "2026-03-07T17:30"));
        assert!(is_open("fri-mon 20:00-24:00", "2026-03-02T23:59"));
        assert!(!is_open("fri-mon 20:00-24:00", "2026-03-03T00:00"));
        assert!(!is_open("fri-mon", "2026-03-03T12:00"));
        assert!(is_open("Sun 22:00-02:00", "2026-03-02T01:59"));
    }

    #[test]
    fn a_night_is_a_night_when_the_clock_is_changed() {
        let hours: Hours = "22:00-06:00".parse().unwrap();
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let is_open = |instant: &str| {
            let instant: Timestamp = instant.parse().unwrap();
            hours.is_open(instant.to_zoned(berlin.clone()).datetime())
        };
        // Local time is one hour ahead of UTC in winter and two in summer. The clock changes on 2026-03-29 and
        // 2026-10-25.
        for (instant, open) in [
            ("2026-03-28T20:59:00Z", false),
            ("2026-03-28T21:00:00Z", true),
            ("2026-03-29T00:59:59Z", true),
            ("2026-03-29T01:00:00Z", true),
            ("2026-03-29T03:59:00Z", true),
            ("2026-03-29T04:00:00Z", false),
            ("2026-03-29T19:59:00Z", false),
            ("2026-03-29T20:00:00Z", true),
            ("2026-10-24T20:00:00Z", true),
            ("2026-10-25T00:30:00Z", true),
            ("2026-10-25T01:30:00Z", true),
            ("2026-10-25T04:59:00Z", true),
            ("2026-10-25T05:00:00Z", false),
        ] {
            assert_eq!(is_open(instant), open, "{instant}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, why) in [
            ("", "it names no time"),
            ("moon", "`moon` is not a day"),
            ("mon 19-07", "`19` is not a time"),
            ("mon 19:00", "a time has a beginning and an end"),
            ("mon 25:00-07:00", "`25:00` is not a time"),
            ("mon 10:60-11:00", "`10:60` is not a time"),
            ("mon +1:00-11:00", "`+1:00` is not a time"),
            ("10:00-10:00", "the beginning is the end"),
            ("24:00-10:00", "a day begins at 00:00"),
        ] {
            let error = text.parse::<Hours>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
