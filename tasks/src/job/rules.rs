//! Rules between the fields of a job file that a schema cannot express well.

use super::diagnostic::{Problems, quoted};
use super::path::{field, item};
use super::tree::{Data, Node};
use crate::body::Body;
use std::collections::HashMap;

/// The fields of a job that define steps.
const MAKERS: [&str; 3] = ["render", "upscale", "steps"];

/// Checks the rules that can be checked even if the rest is invalid.
pub(super) fn check(root: &Node, problems: &mut Problems) {
    if !matches!(root.data, Data::Map(_)) {
        return;
    }
    if MAKERS.iter().all(|maker| root.entry(maker).is_none()) {
        let hint = "give `render` to render a scene, `upscale` to enlarge pictures or a video, or \
                    `dims` and `steps`"
            .to_owned();
        let message = "the job has nothing to do".to_owned();
        problems.push("", message, Some(hint), Some(&root.location));
    }
    if let Some(steps) = root.entry("steps") {
        step_names(steps.value.items(), problems);
        for (index, step) in steps.value.items().iter().enumerate() {
            step_kind(&item("steps", index), step, problems);
        }
    }
}

fn step_names(steps: &[Node], problems: &mut Problems) {
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let Some(entry) = step.entry("name") else {
            continue;
        };
        let Some(name) = entry.value.text() else {
            continue;
        };
        if let Some(earlier) = first.get(name) {
            let path = field(&item("steps", index), "name");
            let message = format!("two steps have the name {}", quoted(name));
            let hint = format!("the other one is `steps[{earlier}]`");
            problems.push(&path, message, Some(hint), Some(entry.spot()));
        } else {
            first.insert(name, index);
        }
    }
}

fn step_kind(path: &str, step: &Node, problems: &mut Problems) {
    let Data::Map(entries) = &step.data else {
        return;
    };
    let mut kinds = entries.iter().filter(|entry| Body::KINDS.contains(&entry.key.as_str()));
    let Some(first) = kinds.next() else {
        let hint = format!("give it one of `{}`", Body::KINDS.join("`, `"));
        let message = format!("{} has nothing to do", quoted(path));
        problems.push(path, message, Some(hint), Some(&step.location));
        return;
    };
    for other in kinds {
        let (first, other_path) = (&first.key, field(path, &other.key));
        let message = format!("{} has both `{first}` and `{}`", quoted(path), other.key);
        let hint = "a step does one thing; make it two steps".to_owned();
        problems.push(&other_path, message, Some(hint), Some(&other.location));
    }
}

#[cfg(test)]
mod tests {
    use super::Body;

    #[test]
    fn every_kind_is_a_field_of_a_step() {
        let schema = super::super::schema();
        let fields = schema["$defs"]["StepSpec"]["properties"].as_object().unwrap();
        let common = [
            "name", "over", "needs", "requires", "retry", "timeout", "stalled", "order", "limits",
            "deliver", "keep", "files",
        ];
        let mut kinds: Vec<&str> = Body::KINDS.into_iter().chain(common).collect();
        kinds.sort_unstable();
        assert!(fields.keys().map(String::as_str).eq(kinds));
    }
}
