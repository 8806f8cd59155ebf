//! Maps delivered results to paths in both directions: from a task to its files, and from a path to the task that made
//! the file, without looking at every task.

use crate::deliver::delivered_by;
use pictor_engine::{Effort, Run, TaskQuery, TaskState};
use pictor_tasks::message::{Output, TaskId};
use pictor_tasks::space::Space;
use pictor_tasks::template::{Placeholder, Template};

/// Most matches and most tasks examined in one search.
const EFFORT: Effort = Effort { limit: 1 << 16, places: 1 << 20 };
/// Stands for a placeholder while a template is taken apart; it occurs in no path.
const HOLE: &str = "\0";
/// Most ways to take a path apart that are tried.
const TRIES: u32 = 1000;

/// The files of one task that succeeded, each with its path and its artifact.
pub(super) fn delivered(run: &Run, at: TaskId) -> Vec<(String, &Output)> {
    let plan = &run.plan().steps[at.step as usize];
    let (Some(space), Some((_, outputs))) = (run.space(at.step), run.outputs(at)) else {
        return Vec::new();
    };
    delivered_by(plan, space, at.index, outputs).collect()
}

/// The artifact that was delivered to a path. Returns `None` if there is none.
pub(crate) fn find(run: &Run, path: &str) -> Option<Output> {
    for (step, plan) in (0u16..).zip(&run.plan().steps) {
        let Some(space) = run.space(step) else { continue };
        for template in plan.deliver.values() {
            let mut tries = TRIES;
            let mut found = |dims: &[(String, String)]| {
                let state = Some(TaskState::Succeeded);
                let query = TaskQuery { step: Some(step), state, dims: dims.to_vec() };
                // Several tasks may deliver into one folder.
                let tasks = run.find(&query, TaskId { step, index: 0 }, EFFORT).items.into_iter();
                let mut files = tasks.flat_map(|at| delivered(run, at));
                files.find(|(place, _)| place == path).map(|(_, output)| output.clone())
            };
            let output = Pattern::new(template).and_then(|pattern| {
                let mut dims = Vec::new();
                pattern.take_apart(path, space, (0, &mut dims), (&mut tries, &mut found))
            });
            if output.is_some() {
                return output;
            }
        }
    }
    None
}

/// A template as literal texts with holes between them.
struct Pattern {
    texts: Vec<String>,
    holes: Vec<Placeholder>,
}

/// Dimensions with their values, as far as they have been read from the path.
type Dims = Vec<(String, String)>;

impl Pattern {
    fn new(template: &str) -> Option<Self> {
        let template = Template::parse(template).ok()?;
        let holes: Vec<Placeholder> = template.placeholders().cloned().collect();
        let text = template.render(&mut |_| Ok(HOLE.to_owned())).ok()?;
        Some(Self { texts: text.split(HOLE).map(str::to_owned).collect(), holes })
    }

    /// Tries to match the rest of a path with the texts from `at` on; calls `found` for each complete match.
    fn take_apart(
        &self,
        rest: &str,
        space: &Space,
        (at, dims): (usize, &mut Dims),
        (tries, found): (&mut u32, &mut impl FnMut(&[(String, String)]) -> Option<Output>),
    ) -> Option<Output> {
        let rest = rest.strip_prefix(&*self.texts[at])?;
        let Some(hole) = self.holes.get(at) else {
            *tries = tries.saturating_sub(1);
            // What follows may be a path inside a delivered folder.
            return if rest.is_empty() || rest.starts_with('/') { found(dims) } else { None };
        };
        let next = &self.texts[at + 1];
        for (end, _) in rest.char_indices().skip(1).chain([(rest.len(), ' ')]) {
            if *tries == 0 || end == 0 || !rest[end..].starts_with(&**next) {
                continue;
            }
            for known in values(hole, &rest[..end], space) {
                let length = dims.len();
                dims.extend(known);
                let output = self.take_apart(&rest[end..], space, (at + 1, dims), (tries, found));
                if output.is_some() {
                    return output;
                }
                dims.truncate(length);
            }
        }
        None
    }
}

/// The values that a text in a hole may stand for: one entry for each way to read it.
fn values(hole: &Placeholder, text: &str, space: &Space) -> Vec<Dims> {
    // Numbers may be padded with zeros.
    let number = text.parse::<i64>().map_or_else(|_| text.to_owned(), |number| number.to_string());
    let axis = |name: &str| space.axes.iter().find(|axis| axis.name == name);
    let dim = |name: &str, value: String| vec![(name.to_owned(), value)];
    match hole {
        Placeholder::Value { name, .. } if axis(name).is_some() => {
            let mut ways = vec![dim(name, text.to_owned())];
            if number != text {
                ways.push(dim(name, number));
            }
            ways
        }
        Placeholder::First { name, .. } | Placeholder::Last { name, .. } => {
            let is_first = matches!(hole, Placeholder::First { .. });
            let Some(axis) = axis(name) else { return Vec::new() };
            let fits = |position: &u32| {
                axis.values.ends(*position).is_some_and(|(first, last)| {
                    let end = if is_first { first } else { last }.to_string();
                    end == text || end == number
                })
            };
            let position = (0..axis.values.len()).find(fits);
            let value = position.and_then(|position| axis.values.get(position));
            value.map(|value| dim(name, value.to_string())).into_iter().collect()
        }
        Placeholder::Index { .. } => {
            let index = number.parse().ok().filter(|index| space.exists(*index));
            let value = |index| {
                let all = space.axes.iter().enumerate();
                let value = |(i, axis): (usize, &pictor_tasks::space::Axis)| {
                    let value = axis.values.get(space.position(index, i))?;
                    Some((axis.name.clone(), value.to_string()))
                };
                all.filter_map(value).collect()
            };
            index.map(value).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::resolve;
    use pictor_tasks::space::{Axis, Values};
    use std::sync::Arc;

    /// The values of the dimensions in `path`.
    fn read(template: &str, path: &str) -> Option<Dims> {
        let names = Values::Names(Arc::new(["a".to_owned(), "a-b".to_owned(), "007".to_owned()]));
        let axis = |name: &str, values| Axis { name: name.into(), values, bound: None };
        let space = Space { axes: vec![axis("frame", Values::count(2000)), axis("look", names)] };
        let pattern = Pattern::new(template).unwrap();
        let mut result = None;
        let mut found = |dims: &[(String, String)]| {
            let index = space.find(
                &dims.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(","),
            )?;
            if resolve(&Template::parse(template).unwrap(), &space, index)? != path {
                return None;
            }
            let value = |axis: &Axis| space.value(index, &axis.name).unwrap().to_string();
            result = Some(space.axes.iter().map(|a| (a.name.clone(), value(a))).collect());
            let (name, key, digest) = (String::new(), String::new(), String::new());
            Some(Output { name, key, digest, size_bytes: 0 })
        };
        let mut dims = Vec::new();
        pattern.take_apart(path, &space, (0, &mut dims), (&mut 1000, &mut found));
        result
    }

    fn dims(frame: &str, look: &str) -> Dims {
        vec![("frame".into(), frame.into()), ("look".into(), look.into())]
    }

    #[test]
    fn a_path_is_read_as_the_template_writes_it() {
        assert_eq!(read("{frame:04}/{look}.png", "0007/a-b.png"), Some(dims("7", "a-b")));
        assert_eq!(read("x-{frame}-{look}.png", "x-1999-a-b.png"), Some(dims("1999", "a-b")));
        assert_eq!(read("{frame:04}/{look}.png", "0007/007.png"), Some(dims("7", "007")));
        assert_eq!(read("{frame}{look}.png", "12a.png"), Some(dims("12", "a")));
        assert_eq!(read("f{index:05}.png", "f00004.png"), Some(dims("1", "a-b")));
        for (template, path) in [
            ("{frame:04}/{look}.png", "7/a.png"),
            ("{frame:04}/{look}.png", "0007/c.png"),
            ("{frame:04}/{look}.png", "0007/a.png.png"),
            ("{frame:04}/{look}.png", "2000/a.png"),
            ("{frame:04}/{look}.png", ""),
        ] {
            assert_eq!(read(template, path), None, "{path}");
        }
    }
}
