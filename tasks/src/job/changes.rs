//! Settings of a job that can be changed in an existing run. None of them changes which tasks exist, or the results of
//! tasks that have succeeded.

use super::{Source, parse};
use crate::history::Changes;

/// The names of these settings, as in the job file.
pub const CHANGEABLE: [&str; 8] = [
    "upscale.on_error",
    "retry.attempts",
    "retry.backoff",
    "timeout",
    "stalled",
    "on_failure",
    "max_failures",
    "priority",
];

/// A minimal job in which each of these settings can be set.
const JOB: &str = "pictor: v1\nname: job\nupscale: { input: a.png, model: m }\n";

/// Parses settings as given by `--set`: a name and a YAML value each. The error is a message for the user.
pub fn changes(set: &[(String, String)]) -> Result<Changes, String> {
    if let Some((name, _)) = set.iter().find(|(name, _)| !CHANGEABLE.contains(&&**name)) {
        return Err(format!(
            "`{name}` cannot be changed in a run that exists, only {}; submit the job again for the rest",
            CHANGEABLE.map(|name| format!("`{name}`")).join(", ")
        ));
    }
    let source = Source { name: "the settings".into(), text: JOB.into() };
    let spec = parse(&source, set).map_err(|invalid| invalid.render(&source).trim_end().to_owned());
    let spec = spec?.spec;
    let mut changes = Changes::default();
    for (name, _) in set {
        match &**name {
            "upscale.on_error" => changes.on_error = spec.upscale.as_ref().map(|u| u.on_error),
            "retry.attempts" => changes.attempts = spec.retry.map(|retry| retry.attempts),
            "retry.backoff" => changes.backoff = spec.retry.map(|retry| retry.backoff),
            "timeout" => changes.timeout = spec.timeout,
            "stalled" => changes.stalled = spec.stalled,
            "on_failure" => changes.on_failure = Some(spec.on_failure),
            "max_failures" => changes.max_failures = spec.max_failures,
            _ => changes.priority = Some(spec.priority),
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::OnError;
    use crate::job::spec::OnFailure;
    use crate::units::Millis;

    fn read(set: &[(&str, &str)]) -> Result<Changes, String> {
        let set = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        changes(&set.collect::<Vec<_>>())
    }

    #[test]
    fn every_setting_is_read_and_nothing_else_is_changed() {
        let values = ["copy", "7", "1s", "2h", "3m", "stop", "9", "-5"];
        let all: Vec<_> = CHANGEABLE.into_iter().zip(values).collect();
        let expected = Changes {
            on_error: Some(OnError::Copy),
            attempts: Some(7),
            backoff: Some(Millis(1_000)),
            timeout: Some(Millis(7_200_000)),
            stalled: Some(Millis(180_000)),
            on_failure: Some(OnFailure::Stop),
            max_failures: Some(9),
            priority: Some(-5),
            reset: Vec::new(),
        };
        assert_eq!(read(&all), Ok(expected));
        let only = Changes { attempts: Some(4), ..Changes::default() };
        assert_eq!(read(&[("retry.attempts", "4")]), Ok(only));
    }

    #[test]
    fn what_cannot_be_changed_and_bad_values_are_told() {
        for ((name, value), parts) in [
            (
                ("render.samples", "16"),
                &["`render.samples` cannot be changed", "`upscale.on_error`"][..],
            ),
            (("upscale.model", "m"), &["`upscale.model` cannot be changed"]),
            (("upscale.on_error", "copi"), &["copi", "did you mean `copy`?"]),
            (("retry.attempts", "0"), &["retry.attempts", "0"]),
            (("priority", "1000"), &["priority", "1000"]),
            (("timeout", "soon"), &["timeout", "soon"]),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
