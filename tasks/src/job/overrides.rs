//! `--set render.samples=16`: values from the command line, inserted into the tree before it is validated.

use super::diagnostic::{Location, Problems, nearest, quoted, shown};
use super::path::{Segment, field, item, segments};
use super::tree::{Data, Entry, Node, read};

/// The most segments of a path.
const PATH_MAX: usize = 16;

/// Sets each path to its value, which is parsed as YAML. Missing parts of the path are created.
pub(super) fn apply(root: &mut Node, overrides: &[(String, String)], problems: &mut Problems) {
    for (path, value) in overrides {
        let location = Location::Override(shown(&format!("--set {path}={value}")).into());
        let Some(value) = read(value, Some(&location), problems) else {
            continue;
        };
        let segments = segments(path).filter(|found| (1..=PATH_MAX).contains(&found.len()));
        let result = match segments {
            Some(segments) => set(root, &segments, value, &location),
            None => Err((format!("{} is not a path", quoted(path)), Some(EXAMPLE.to_owned()))),
        };
        if let Err((message, hint)) = result {
            problems.push(path, message, hint, Some(&location));
        }
    }
}

const EXAMPLE: &str = "a path looks like `render.samples` or `steps.render.over`";

fn set(
    root: &mut Node,
    segments: &[Segment],
    value: Node,
    location: &Location,
) -> Result<(), (String, Option<String>)> {
    let (mut node, mut path) = (root, String::new());
    for segment in segments {
        if let (Data::Null, Segment::Key(_)) = (&node.data, segment) {
            node.data = Data::Map(Vec::new());
        }
        (node, path) = match (&mut node.data, segment) {
            (Data::Map(entries), Segment::Key(key)) => {
                (child(entries, key, location), field(&path, key))
            }
            (Data::List(items), segment) => {
                let index = position(items, segment, &path)?;
                (&mut items[index], item(&path, index))
            }
            _ => {
                let what = if path.is_empty() { "the job".to_owned() } else { quoted(&path) };
                return Err((format!("{what} has nothing inside that could be set"), None));
            }
        };
    }
    *node = value;
    Ok(())
}

/// The value of a key, which is created if it is missing. Errors about it will name the override.
fn child<'a>(entries: &'a mut Vec<Entry>, key: &str, location: &Location) -> &'a mut Node {
    let index = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
        let value = Node { location: location.clone(), data: Data::Null };
        entries.push(Entry { key: key.to_owned(), location: location.clone(), value });
        entries.len() - 1
    });
    &mut entries[index].value
}

/// Finds an item by its index or by its `name`.
fn position(
    items: &[Node],
    segment: &Segment,
    path: &str,
) -> Result<usize, (String, Option<String>)> {
    let (index, wanted) = match segment {
        Segment::Index(index) => (Some(*index), index.to_string()),
        Segment::Key(key) => {
            let named = items.iter().position(|item| name(item) == Some(key));
            (named.or_else(|| key.parse().ok()), key.clone())
        }
    };
    index.filter(|index| *index < items.len()).ok_or_else(|| {
        let hint = nearest(&wanted, items.iter().filter_map(name));
        let hint = hint.map(|name| format!("did you mean `{name}`?"));
        (format!("{} has no item {}", quoted(path), quoted(&wanted)), hint)
    })
}

fn name(item: &Node) -> Option<&str> {
    item.entry("name")?.value.text()
}
