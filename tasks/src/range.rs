//! Lists of integers stored as ranges: `1-100x5`, `3,7,9-12`. A million frames take a few bytes, and every query is
//! answered without listing them.

use crate::units::Text;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

/// The most values in one list.
pub const VALUES_MAX: u32 = 16_777_216;
/// The most ranges in one list.
const PARTS_MAX: usize = 65_536;
/// The most ranges with a step above 1 in one list, as each may interleave with every other.
const STEPPED_MAX: usize = 1_024;

/// Numbers have at most 15 digits, so that no arithmetic on them overflows.
pub(crate) const NUMBER_MAX: i64 = 999_999_999_999_999;

/// The values `start`, `start + step`, … up to and including `end` if it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first value of the part.
    pub start: i64,
    /// The upper limit of the values; not less than `start`.
    pub end: i64,
    /// The distance between two values; at least 1.
    pub step: u32,
    /// The number of values in the list before this part.
    before: u32,
}

/// Integers without duplicates, in the order in which they were written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Ranges {
    parts: Arc<[Part]>,
    len: u32,
}

/// A text that is not a list of ranges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It is empty, or contains something that is not a range.
    #[error("`{0}`: expected ranges such as `1-10`, `1-100x5` or `3,7,9-12`")]
    Malformed(String),
    /// A range that ends before it starts.
    #[error("the range `{0}` is descending: the first number must not be greater than the last")]
    Descending(String),
    /// A number occurs twice.
    #[error("{0} is there more than once")]
    Duplicate(i64),
    /// There are more values than a list may have.
    #[error("more than {VALUES_MAX} values")]
    TooMany,
    /// There are more ranges than a list may have.
    #[error("more than {PARTS_MAX} ranges, or more than {STEPPED_MAX} of them with a step")]
    TooManyParts,
}

impl Part {
    fn last(&self) -> i64 {
        self.start + (self.end - self.start) / i64::from(self.step) * i64::from(self.step)
    }

    fn len(&self) -> i128 {
        (i128::from(self.end) - i128::from(self.start)) / i128::from(self.step) + 1
    }

    fn contains(&self, value: i64) -> bool {
        (self.start..=self.end).contains(&value) && (value - self.start) % i64::from(self.step) == 0
    }

    /// The smallest value that both parts contain.
    fn meets(&self, other: &Self) -> Option<i64> {
        let (low, high) = (self.start.max(other.start), self.last().min(other.last()));
        if low > high {
            return None;
        }
        let (fine, coarse) = if self.step <= other.step { (self, other) } else { (other, self) };
        let (fine_step, coarse_step) = (i128::from(fine.step), i128::from(coarse.step));
        let divisor = gcd(fine_step, coarse_step);
        let distance = i128::from(fine.start) - i128::from(coarse.start);
        if distance % divisor != 0 {
            return None;
        }
        // The values of `coarse` that `fine` contains: every `period`th, from index `first` on.
        let period = fine_step / divisor;
        let inverse = inverse(coarse_step / divisor % period, period);
        let first = (distance / divisor * inverse).rem_euclid(period);
        let meeting = i128::from(coarse.start) + first * coarse_step;
        let cycle = coarse_step * period;
        let missing = (i128::from(low) - meeting).max(0);
        let meeting = meeting + (missing + cycle - 1) / cycle * cycle;
        i64::try_from(meeting).ok().filter(|value| *value <= high)
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The modular inverse of `number`, which has no common divisor with `modulus`.
fn inverse(number: i128, modulus: i128) -> i128 {
    let (mut old, mut new) = ((number, 1), (modulus, 0));
    while new.0 != 0 {
        let quotient = old.0 / new.0;
        (old, new) = (new, (old.0 - quotient * new.0, old.1 - quotient * new.1));
    }
    old.1.rem_euclid(modulus)
}

impl Ranges {
    /// The values `0, 1, … count-1`.
    pub fn count(count: u32) -> Self {
        let part = Part { start: 0, end: i64::from(count) - 1, step: 1, before: 0 };
        let parts = if count == 0 { vec![] } else { vec![part] };
        Self { parts: parts.into(), len: count }
    }

    /// These values, in this order; runs of neighbours become ranges.
    pub fn from_values(values: &[i64]) -> Result<Self, RangeError> {
        let mut parts: Vec<Part> = Vec::new();
        for &value in values {
            if !(-NUMBER_MAX..=NUMBER_MAX).contains(&value) {
                return Err(RangeError::Malformed(value.to_string()));
            }
            match parts.last_mut() {
                Some(run) if run.end + 1 == value => run.end = value,
                _ => parts.push(Part { start: value, end: value, step: 1, before: 0 }),
            }
        }
        Self::from_parts(parts)
    }

    fn from_parts(mut parts: Vec<Part>) -> Result<Self, RangeError> {
        let stepped = parts.iter().filter(|part| part.step > 1).count();
        if parts.len() > PARTS_MAX || stepped > STEPPED_MAX {
            return Err(RangeError::TooManyParts);
        }
        let mut len: u32 = 0;
        for part in &mut parts {
            part.before = len;
            let count = u32::try_from(part.len()).map_err(|_| RangeError::TooMany)?;
            let total = len.checked_add(count).filter(|n| *n <= VALUES_MAX);
            len = total.ok_or(RangeError::TooMany)?;
        }
        match duplicate(&parts) {
            Some(value) => Err(RangeError::Duplicate(value)),
            None => Ok(Self { parts: parts.into(), len }),
        }
    }

    /// The ranges in the order in which they were written.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The number of values.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at `position`; `None` beyond the end.
    pub fn get(&self, position: u32) -> Option<i64> {
        if position >= self.len {
            return None;
        }
        let after = self.parts.partition_point(|part| part.before <= position);
        let part = self.parts[after - 1];
        Some(part.start + i64::from(position - part.before) * i64::from(part.step))
    }

    /// The position of `value`; `None` if it is not in the list.
    pub fn position_of(&self, value: i64) -> Option<u32> {
        let part = self.parts.iter().find(|part| part.contains(value))?;
        let within = (value - part.start) / i64::from(part.step);
        Some(part.before + u32::try_from(within).expect("limited when parsed"))
    }

    /// All values, in order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.len).filter_map(|position| self.get(position))
    }
}

/// The smallest value that two of the parts share. Visits the parts by their starts and keeps those that may still
/// share a value with a later one. Parts without gaps share a value as soon as they overlap, so only parts with a step
/// can accumulate.
fn duplicate(parts: &[Part]) -> Option<i64> {
    let mut sorted = parts.to_vec();
    sorted.sort_unstable_by_key(|part| part.start);
    let (mut open, mut found): (Vec<Part>, Option<i64>) = (Vec::new(), None);
    for part in sorted {
        if found.is_some_and(|value| part.start >= value) {
            break;
        }
        open.retain(|earlier| earlier.last() >= part.start);
        let smallest = open.iter().filter_map(|earlier| earlier.meets(&part)).min();
        found = [found, smallest].into_iter().flatten().min();
        open.push(part);
    }
    found
}

/// Lists are equal if they have the same values in the same order, however they were written.
impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && (self.parts == other.parts || self.iter().eq(other.iter()))
    }
}

impl Eq for Ranges {}

impl FromStr for Ranges {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let text = text.trim();
        // The form of the empty list, which comes from steps that report no values, and never from a user.
        if text == "none" {
            return Ok(Self::count(0));
        }
        let parts: Result<Vec<Part>, RangeError> = text.split(',').map(part).collect();
        Self::from_parts(parts?)
    }
}

/// Parses `START`, `START-END` or `START-ENDxSTEP`; each number may be negative.
fn part(text: &str) -> Result<Part, RangeError> {
    let text = text.trim();
    let malformed = || RangeError::Malformed(shortened(text));
    let (range, step) = match text.split_once('x') {
        Some((range, step)) => (range, Some(number(step).ok_or_else(malformed)?)),
        None => (text, None),
    };
    // The dash of a range follows a digit; any other is a sign.
    let dash = range.bytes().enumerate().skip(1).find(|(_, byte)| *byte == b'-');
    let (start, end) = match dash {
        Some((dash, _)) => (&range[..dash], &range[dash + 1..]),
        None if step.is_none() => (range, range),
        None => return Err(malformed()),
    };
    let (start, end) = number(start).zip(number(end)).ok_or_else(malformed)?;
    let step = u32::try_from(step.unwrap_or(1)).ok().filter(|n| *n > 0).ok_or_else(malformed)?;
    if start > end {
        return Err(RangeError::Descending(shortened(text)));
    }
    Ok(Part { start, end, step, before: 0 })
}

/// Parses an integer of plain digits, with or without a minus sign.
pub(crate) fn number(text: &str) -> Option<i64> {
    let plain = text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number: &i64| plain && (-NUMBER_MAX..=NUMBER_MAX).contains(number))
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("none");
        }
        for (i, part) in self.parts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", part.start)?;
            if part.end != part.start {
                write!(f, "-{}", part.end)?;
                if part.step != 1 {
                    write!(f, "x{}", part.step)?;
                }
            }
        }
        Ok(())
    }
}

impl TryFrom<Text> for Ranges {
    type Error = RangeError;
    fn try_from(text: Text) -> Result<Self, RangeError> {
        text.0.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> Self {
        ranges.to_string()
    }
}

impl JsonSchema for Ranges {
    fn schema_name() -> Cow<'static, str> {
        "Ranges".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "pictor-ranges",
            "description": "Whole numbers: ranges START-END or START-ENDxSTEP and single numbers, \
                            separated by commas.",
            "examples": ["1-10", "1-100x5", "3,7,9-12"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn values(text: &str) -> Vec<i64> {
        text.parse::<Ranges>().unwrap().iter().collect()
    }

    #[test]
    fn ranges_steps_lists_and_negative_numbers_are_read() {
        assert_eq!(values("3,7,9-12"), [3, 7, 9, 10, 11, 12]);
        assert_eq!(values("1-100x50"), [1, 51]);
        assert_eq!(values("-5--3"), [-5, -4, -3]);
        assert_eq!(values("-2-1, 9"), [-2, -1, 0, 1, 9]);
        assert_eq!(values("-7"), [-7]);
        assert_eq!(values("9-10,1"), [9, 10, 1]);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, error) in [
            (
                "10-1",
                "the range `10-1` is descending: the first number must not be greater than the last",
            ),
            ("1-10,20,5", "5 is there more than once"),
            ("1-100x5,3-100x7,96", "31 is there more than once"),
            ("0-16777216", "more than 16777216 values"),
            ("", "``: expected ranges such as `1-10`, `1-100x5` or `3,7,9-12`"),
        ] {
            assert_eq!(text.parse::<Ranges>().unwrap_err().to_string(), error);
        }
        for text in ["1-", "1-2-3", "5x2", "1-9x0", "1-9x-1", "a", "1,,2", "+1", "1..5", "0x10"] {
            assert!(text.parse::<Ranges>().is_err(), "{text}");
        }
    }

    #[test]
    fn woven_ranges_share_nothing_and_are_fine() {
        assert_eq!(values("1-9x3,2-9x3,3-9x3").len(), 9);
        assert_eq!("0-16777214x2,1-16777215x2".parse::<Ranges>().unwrap().len(), VALUES_MAX);
    }

    #[test]
    fn the_same_values_are_equal_however_they_are_written() {
        let ranges = |text: &str| text.parse::<Ranges>().unwrap();
        assert_eq!(ranges("1-100x5"), ranges("1-96x5"));
        assert_eq!(ranges("1-3"), ranges("1,2,3"));
        assert_ne!(ranges("1,2"), ranges("2,1"));
        assert_eq!(Ranges::from_values(&[4, 5, 6, 9]).unwrap().to_string(), "4-6,9");
    }

    fn parts() -> impl Strategy<Value = Vec<(i64, i64, u32)>> {
        prop::collection::vec((-60..60_i64, 0..60_i64, 1..12_u32), 1..5)
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_plain_list(parts in parts()) {
            let text = |(start, more, step): &(i64, i64, u32)| format!("{start}-{}x{step}", start + more);
            let text = parts.iter().map(text).collect::<Vec<_>>().join(",");
            let mut plain: Vec<i64> = Vec::new();
            for (start, more, step) in &parts {
                plain.extend((*start..=start + more).step_by(*step as usize));
            }
            let mut seen = BTreeSet::new();
            let twice = plain.iter().filter(|value| !seen.insert(**value)).min();
            match (text.parse::<Ranges>(), twice) {
                (Ok(ranges), None) => {
                    prop_assert_eq!(ranges.len() as usize, plain.len());
                    prop_assert!(ranges.iter().eq(plain.iter().copied()));
                    for value in -70..130 {
                        let position = plain.iter().position(|v| *v == value);
                        prop_assert_eq!(ranges.position_of(value).map(|p| p as usize), position);
                    }
                    prop_assert_eq!(ranges.get(ranges.len()), None);
                    let json = serde_json::to_string(&ranges).unwrap();
                    let again: Ranges = serde_json::from_str(&json).unwrap();
                    let ends = |ranges: &Ranges| ranges.parts().iter().map(|p| p.end).collect::<Vec<_>>();
                    prop_assert_eq!(&again, &ranges);
                    prop_assert_eq!(ends(&again), ends(&ranges));
                }
                (Err(RangeError::Duplicate(value)), Some(twice)) => prop_assert_eq!(value, *twice),
                (result, twice) => prop_assert!(false, "{text}: {result:?} {twice:?}"),
            }
        }

        #[test]
        fn no_text_makes_a_range_panic(text in "[-0-9x, ]{0,60}", any in "\\PC{0,20}") {
            let _ = (text.parse::<Ranges>(), any.parse::<Ranges>());
        }
    }
}
