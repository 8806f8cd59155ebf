//! Paths into a job: `steps[2].needs[0]`, `dims["render.tile"].grid`. Used in errors and overrides.

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

/// The path of an entry in the mapping at `path`.
pub fn field(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    if key.is_empty() || !key.chars().all(plain) {
        return format!("{path}[{}]", serde_json::Value::from(key));
    }
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an item in the list at `path`.
pub fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Splits a path into its segments. Returns `None` if it is not a valid path.
pub(super) fn segments(path: &str) -> Option<Vec<Segment>> {
    let (mut found, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (segment, after) = bracket(after)?;
            found.push(segment);
            rest = after;
            continue;
        }
        if !found.is_empty() {
            rest = rest.strip_prefix('.')?;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end == 0 {
            return None;
        }
        found.push(Segment::Key(rest[..end].to_owned()));
        rest = &rest[end..];
    }
    Some(found)
}

/// Parses `2]…` or `"key"]…`; returns the segment and the text after the bracket.
fn bracket(text: &str) -> Option<(Segment, &str)> {
    if !text.starts_with('"') {
        let (index, after) = text.split_once(']')?;
        return Some((Segment::Index(index.parse().ok()?), after));
    }
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let key = strings.next()?.ok()?;
    let after = text[strings.byte_offset()..].strip_prefix(']')?;
    Some((Segment::Key(key), after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_paths_are_refused() {
        for path in ["a..b", ".a", "a.", "a[", "a[x]", "a[\"b]", "a[1]b"] {
            assert_eq!(segments(path), None, "{path}");
        }
        assert_eq!(segments(""), Some(vec![]));
    }

    proptest! {
        #[test]
        fn a_path_comes_apart_into_what_it_was_made_of(
            keys in prop::collection::vec("[a-z._ \"\\[\\]é-]{0,6}", 1..5),
            index in 0..300_usize,
        ) {
            let path = keys.iter().fold(String::new(), |path, key| item(&field(&path, key), index));
            let parts = segments(&path).unwrap();
            let expected = keys.iter().flat_map(|k| [Segment::Key(k.clone()), Segment::Index(index)]);
            prop_assert_eq!(parts, expected.collect::<Vec<_>>());
        }
    }
}
