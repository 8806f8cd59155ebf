//! Translates cron fields as in a crontab to the syntax of the crate `cron`, which counts weekdays from Sunday = 1,
//! joins the two fields for days with *and*, and requires seconds.

use cron::Schedule as Pattern;
use std::str::FromStr;

/// Longest text that is parsed, in characters.
const CHARACTERS_MAX: usize = 256;
/// Name of each field, and the values that it may have.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31"),
    ("month", "1-12 or jan-dec"),
    ("weekday", "0-7 (0 and 7 are Sunday) or sun-sat"),
];
const DAY: usize = 3;
const WEEKDAY: usize = 5;
/// Short forms, and the fields that they stand for.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Why cron fields cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The number of fields is neither five nor six.
    #[error(
        "`{text}` has {count} fields: expected five (minute, hour, day of the month, month, weekday), \
         six (a second before them), or one of @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Count {
        /// The text as it was given.
        text: String,
        /// Number of fields in it.
        count: usize,
    },
    /// One of the fields cannot be parsed.
    #[error(
        "`{field}` does not fit the field for the {name}: expected {expected}, `*`, a list `1,3`, \
         a range `1-5` or steps `*/2`"
    )]
    Field {
        /// The field as it was given.
        field: String,
        /// Name of the field, such as `minute`.
        name: &'static str,
        /// Values that it may have.
        expected: &'static str,
    },
}

/// The patterns, one of which has to match. There are two if both fields for days are given: in a crontab it is enough
/// that one of them matches.
pub(super) fn patterns(text: &str) -> Result<Vec<Pattern>, CronError> {
    let written = fields(text)?;
    let mut fields = written.clone();
    fields[WEEKDAY] =
        weekdays(&written[WEEKDAY]).ok_or_else(|| wrong(WEEKDAY, &written[WEEKDAY]))?;
    let pattern = |fields: &[String]| Pattern::from_str(&fields.join(" "));
    for (number, field) in fields.iter().enumerate() {
        let mut alone = vec!["*".to_owned(); FIELDS.len()];
        alone[number].clone_from(field);
        if pattern(&alone).is_err() {
            return Err(wrong(number, &written[number]));
        }
    }
    let is_open = |number: usize| written[number].starts_with(['*', '?']);
    let choices = if is_open(DAY) || is_open(WEEKDAY) {
        vec![fields]
    } else {
        let (mut by_date, mut by_weekday) = (fields.clone(), fields);
        "*".clone_into(&mut by_date[WEEKDAY]);
        "*".clone_into(&mut by_weekday[DAY]);
        vec![by_date, by_weekday]
    };
    let all = choices.iter().map(|fields| pattern(fields)).collect::<Result<Vec<_>, _>>();
    all.map_err(|_| CronError::Count { text: short(text), count: FIELDS.len() })
}

/// The six fields as they were written, with the seconds added if needed.
fn fields(text: &str) -> Result<Vec<String>, CronError> {
    let spelled_out = spelled_out(text);
    let mut fields: Vec<String> = spelled_out.split_whitespace().map(str::to_owned).collect();
    let count = fields.len();
    if !(5..=6).contains(&count) || text.len() > CHARACTERS_MAX {
        return Err(CronError::Count { text: short(text), count });
    }
    if count == 5 {
        fields.insert(0, "0".to_owned());
    }
    Ok(fields)
}

fn spelled_out(text: &str) -> &str {
    let word = text.trim();
    let known = WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    known.map_or(text, |(_, fields)| fields)
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn wrong(number: usize, field: &str) -> CronError {
    let (name, expected) = FIELDS[number];
    CronError::Field { field: short(field), name, expected }
}

/// Translates the weekday field, where 0 and 7 are Sunday, to a list in which 1 is Sunday.
fn weekdays(field: &str) -> Option<String> {
    let mut days = [false; 7];
    for item in field.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, step.parse::<usize>().ok().filter(|s| *s > 0)?),
            None => (item, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (0, 6),
            Some((first, last)) => {
                let (first, last) = (weekday(first)?, weekday(last)?);
                // `fri-sun` ends on the Sunday after.
                (first, if last == 0 && first > 0 { 7 } else { last })
            }
            // As in a crontab, steps from one day continue to the end of the week.
            None if item.contains('/') => (weekday(range)?, 6),
            None => (weekday(range)?, weekday(range)?),
        };
        if first > last {
            return None;
        }
        (first..=last).step_by(step).for_each(|day| days[day % 7] = true);
    }
    if days.iter().all(|day| *day) {
        return Some("*".to_owned());
    }
    let listed =
        (1..).zip(days).filter(|(_, day)| *day).map(|(number, _): (u8, _)| number.to_string());
    Some(listed.collect::<Vec<_>>().join(","))
}

/// Parses a weekday, from 0 to 7 or the first three letters of a name.
fn weekday(text: &str) -> Option<usize> {
    let is_number = text.len() == 1 && text.as_bytes()[0].is_ascii_digit();
    if is_number {
        return text.parse().ok().filter(|day| *day <= 7);
    }
    let text = text.to_ascii_lowercase();
    let names = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    DAYS.iter().zip(names).position(|(short, long)| text == *short || text == long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Datelike};

    /// The dates in March 2026 that the patterns match. The month begins on a Sunday.
    fn march(text: &str) -> Vec<u32> {
        let patterns = patterns(text).unwrap();
        let start = DateTime::from_timestamp(1_772_323_199, 0).unwrap();
        let mut days: Vec<u32> = patterns
            .iter()
            .flat_map(|p| p.after(&start).take_while(|t| t.month() == 3).map(|t| t.day()).take(99))
            .collect();
        days.sort_unstable();
        days.dedup();
        days
    }

    #[test]
    fn weekdays_are_those_of_crontab() {
        assert_eq!(march("0 9 * * 1-5")[..6], [2, 3, 4, 5, 6, 9]);
        assert_eq!(march("0 9 * * 0"), [1, 8, 15, 22, 29]);
        assert_eq!(march("0 9 * * 7"), march("0 9 * * sun"));
        assert_eq!(march("0 0 9 * * 1-5"), march("0 9 * * Mon-Friday"));
        assert_eq!(march("0 9 * * fri-sun")[..4], [1, 6, 7, 8]);
        assert_eq!(march("0 9 * * 1/2")[..3], [2, 4, 6]);
        assert_eq!(march("0 9 * * 0-7").len(), 31);
        assert_eq!(march("@weekly"), [1, 8, 15, 22, 29]);
    }

    #[test]
    fn either_of_the_two_fields_for_days_is_enough_when_both_are_given() {
        assert_eq!(march("0 9 13 * 5"), [6, 13, 20, 27]);
        assert_eq!(march("0 9 10 * 5"), [6, 10, 13, 20, 27]);
        assert_eq!(march("0 9 */10 * 0"), [1], "as in crontab, `*` asks for both");
    }

    #[test]
    fn five_fields_start_at_the_full_minute_and_six_have_a_second() {
        for (text, fields) in [
            ("*/5 * * * *", ["0", "*/5", "*", "*", "*", "*"]),
            (" 30  */5 * * * ? ", ["30", "*/5", "*", "*", "*", "?"]),
            ("@Daily", ["0", "0", "0", "*", "*", "*"]),
        ] {
            assert_eq!(super::fields(text).unwrap(), fields, "{text}");
        }
    }

    #[test]
    fn a_mistake_names_the_field_and_what_is_allowed() {
        for (text, part) in [
            ("61 * * * *", "`61` does not fit the field for the minute: expected 0-59"),
            ("* 24 * * *", "`24` does not fit the field for the hour: expected 0-23"),
            ("0 0 0 * *", "`0` does not fit the field for the day of the month: expected 1-31"),
            ("0 0 * 13 *", "`13` does not fit the field for the month: expected 1-12 or jan-dec"),
            ("0 0 * * 8", "`8` does not fit the field for the weekday: expected 0-7"),
            ("0 0 * * 5-1", "`5-1` does not fit the field for the weekday"),
            ("0 0 * * mo", "`mo` does not fit the field for the weekday"),
            ("0 0 L * *", "`L` does not fit the field for the day of the month"),
            ("*/0 * * * *", "`*/0` does not fit the field for the minute"),
            ("1, * * * *", "`1,` does not fit the field for the minute"),
            ("-1 * * * *", "`-1` does not fit the field for the minute"),
            ("99 * * * * *", "`99` does not fit the field for the second"),
            ("* * * *", "has 4 fields: expected five"),
            ("* * * * * * 2030", "has 7 fields"),
            ("@reboot", "@hourly, @daily"),
            ("", "has 0 fields"),
        ] {
            let error = patterns(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
