//! The ids of runs that schedules start: derived from the schedule and the due time alone, so that every server gives a
//! run the same id, and the id tells what the run was started for.

use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{Timestamp, tz::TimeZone};
use pictor_tasks::message::RunId;

/// Format of a due time in an id: in UTC, to the second.
const STAMP: &str = "%Y%m%dt%H%M%S";
/// Most characters of a schedule's name in the ids of its runs.
const NAME_MAX: usize = 32;

/// `nightly-20260329t010000-k3f9a`: the schedule, the due time (in UTC), and five letters that distinguish schedules
/// with similar names.
pub(super) fn run_id(schedule: &str, due_ms: i64) -> RunId {
    let stamp = Timestamp::from_millisecond(due_ms).unwrap_or_default();
    let stamp = stamp.to_zoned(TimeZone::UTC).strftime(STAMP).to_string();
    let digits = b"0123456789abcdefghjkmnpqrstvwxyz";
    let letters: String = hash(schedule, due_ms)[..5]
        .iter()
        .map(|byte| char::from(digits[usize::from(byte & 31)]))
        .collect();
    RunId(format!("{}{stamp}-{letters}", beginning(schedule)).into())
}

/// The due time for which a schedule started the run. Returns `None` if it did not start it.
pub(super) fn due_of(schedule: &str, run: &RunId) -> Option<i64> {
    let stamp = run.0.strip_prefix(&beginning(schedule))?.split('-').next()?;
    let due = Offset::UTC.to_timestamp(DateTime::strptime(STAMP, stamp).ok()?).ok()?;
    let due_ms = due.as_millisecond();
    (run_id(schedule, due_ms) == *run).then_some(due_ms)
}

/// The jitter of a due time in milliseconds: at most `jitter_ms`, and the same on every server.
pub(super) fn delay_ms(schedule: &str, due_ms: i64, jitter_ms: i64) -> i64 {
    let hash = hash(schedule, due_ms);
    let drawn = u64::from_le_bytes(hash[8..16].try_into().expect("eight bytes"));
    let choices = jitter_ms.unsigned_abs() + 1;
    i64::try_from(drawn % choices).expect("not more than the jitter")
}

/// The id of a control that is derived from `what` and the run.
pub(super) fn control_id(what: &str, run: &RunId) -> u64 {
    let hash = blake3::hash(format!("{what}\n{run}").as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

fn hash(schedule: &str, due_ms: i64) -> [u8; 32] {
    blake3::hash(format!("{schedule}\n{due_ms}").as_bytes()).into()
}

fn beginning(schedule: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut name: String = schedule.chars().map(plain).take(NAME_MAX).collect();
    name.push('-');
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_for_which_time_of_which_schedule_it_was_started() {
        let due = 1_774_749_600_000;
        let run = run_id("Nightly", due);
        assert!(run.0.starts_with("nightly-20260329t020000-"), "{run}");
        assert_eq!(due_of("Nightly", &run), Some(due));
        assert_eq!(due_of("nightly", &run), None, "another schedule, although it looks the same");
        assert_eq!(due_of("Nightl", &run), None);
        for other in ["nightly-20260329t020000-00000", "nightly-", "nightly", "nightly-x-y"] {
            assert_eq!(due_of("Nightly", &RunId(other.into())), None, "{other}");
        }
        let long = "ü".repeat(200);
        assert_eq!(due_of(&long, &run_id(&long, due)), Some(due));
    }

    #[test]
    fn the_delay_is_within_the_jitter_and_differs_from_time_to_time() {
        let delays: Vec<i64> = (0..1000).map(|due| delay_ms("a", due * 60_000, 30_000)).collect();
        assert!(delays.iter().all(|delay| (0..=30_000).contains(delay)));
        assert!(delays.iter().any(|d| *d < 3_000) && delays.iter().any(|d| *d > 27_000));
        assert_ne!(delay_ms("b", 60_000, 30_000), delays[1]);
        assert_eq!(delay_ms("a", 60_000, 0), 0);
    }
}
