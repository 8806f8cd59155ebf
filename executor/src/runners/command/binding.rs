//! What a program reports for a late-bound dimension: text with one value per line, or JSON, which has types. The
//! meaning of a line never depends on other lines.

use crate::task::open_made;
use pictor_tasks::job::check_word;
use pictor_tasks::message::Bound;
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

/// The largest file with a dimension's values, in bytes.
const BYTES_MAX: u64 = 64 << 20;
/// The longest part of a value that is shown in a message, in characters.
const SHOWN_MAX: usize = 60;

/// Reads the values that a program wrote in its task's folder. The error is a sentence for the user.
pub(super) fn read(path: &Path, made: &Path) -> Result<Bound, String> {
    if std::fs::symlink_metadata(path).is_err() {
        return Err("the program did not write them, although it succeeded.".into());
    }
    let mut bytes = Vec::new();
    let file = open_made(path, made).map_err(|why| format!("{why}."))?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("{error}."))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("the file has more than {BYTES_MAX} bytes."));
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Bound, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        format!("line {line} is not UTF-8.")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with(['[', '{']) { json(text.trim()) } else { lines(text) }
}

/// One value per line. White space around a value and empty lines are ignored.
fn lines(text: &str) -> Result<Bound, String> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut words = Vec::new();
    for (line, number) in text.split('\n').zip(1..) {
        let word = line.trim();
        if word.is_empty() {
            continue;
        }
        if word.starts_with(['[', '{']) {
            return Err(format!(
                "line {number}: {} looks like JSON, and the first line does not. Write one JSON list of \
                 all values, as in `[\"a\", \"b\"]`.",
                shown(word)
            ));
        }
        check_word(word).map_err(|why| format!("line {number}: {}: {why}.", shown(word)))?;
        if let Some(earlier) = first.insert(word, number) {
            return Err(format!("{} is on line {earlier} and on line {number}.", shown(word)));
        }
        words.push(word.to_owned());
    }
    Ok(Bound::Values(Values::Names(words.into())))
}

/// A list of integers or strings, or `{"counts": […]}`.
fn json(text: &str) -> Result<Bound, String> {
    if text.starts_with('{') {
        let Counts { counts } = serde_json::from_str(text).map_err(|error| {
            format!(
                "what begins with `{{` has to be JSON such as `{{\"counts\": [1, 2]}}`: {error}."
            )
        })?;
        return Ok(Bound::Counts(counts.into()));
    }
    let items: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|error| {
        format!("what begins with `[` has to be a JSON list of whole numbers or of texts: {error}.")
    })?;
    if let Some(numbers) = items.iter().map(serde_json::Value::as_i64).collect::<Option<Vec<_>>>() {
        let ranges = Ranges::from_values(&numbers).map_err(|error| format!("{error}."))?;
        return Ok(Bound::Values(Values::Ints(ranges)));
    }
    let mut words = Vec::with_capacity(items.len());
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (item, number) in items.iter().zip(1..) {
        let word = item.as_str().ok_or_else(|| {
            let item = shown(&item.to_string());
            format!("item {number}, {item}: expected whole numbers only, or texts only.")
        })?;
        check_word(word).map_err(|why| format!("item {number}: {}: {why}.", shown(word)))?;
        if let Some(earlier) = first.insert(word, number) {
            return Err(format!("{} is item {earlier} and item {number}.", shown(word)));
        }
        words.push(word.to_owned());
    }
    Ok(Bound::Values(Values::Names(words.into())))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    counts: Vec<u32>,
}

/// A value as it appears in a message: shortened, and without control characters.
fn shown(word: &str) -> String {
    let mut text: String = word.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if word.chars().count() > SHOWN_MAX {
        text.push('…');
    }
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(words: &[&str]) -> Bound {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Bound::Values(Values::Names(words.into()))
    }

    #[test]
    fn what_a_program_prints_is_text_one_value_a_line() {
        for (text, expected) in [
            ("0010\n0020\n0030\n", &["0010", "0020", "0030"][..]),
            ("0010\n0020\n0030A\n", &["0010", "0020", "0030A"]),
            ("010-0020\n", &["010-0020"]),
            ("2024-01-05", &["2024-01-05"]),
            (
                "1920x1080\n0.5\n+5\n-5\n0x10\n1e3\n12:30",
                &["1920x1080", "0.5", "+5", "-5", "0x10", "1e3", "12:30"],
            ),
            ("010\n10\n", &["010", "10"]),
            ("1 2 3\n", &["1 2 3"]),
            ("99999999999999999999\n", &["99999999999999999999"]),
            ("\u{feff}a\r\n\r\n  \t\n b c \r\nd", &["a", "b c", "d"]),
            ("日本\nété\n# x\ny [1]\nnull\ntrue", &["日本", "été", "# x", "y [1]", "null", "true"]),
            ("", &[]),
            ("\n \r\n", &[]),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(names(expected)), "{text:?}");
        }
    }

    #[test]
    fn json_says_whether_values_are_numbers_or_texts() {
        let ranges = |text: &str| Bound::Values(Values::Ints(text.parse().unwrap()));
        assert_eq!(parse(b"[1, 2, 3]"), Ok(ranges("1-3")));
        assert_eq!(parse(b"\xef\xbb\xbf\n[\r\n 5,\n -5]\n"), Ok(ranges("5,-5")));
        assert_eq!(parse(br#"["0010", "10", "a b"]"#), Ok(names(&["0010", "10", "a b"])));
        assert_eq!(parse(b"[]"), Ok(ranges("none")));
        assert_eq!(parse(b"{\"counts\": [4, 0, 2]}"), Ok(Bound::Counts([4, 0, 2].into())));
    }

    #[test]
    fn what_cannot_be_a_value_is_refused_with_its_line() {
        let long = "x".repeat(201);
        for (text, why) in [
            ("a\n\na\n", "`a` is on line 1 and on line 3."),
            ("a\n..\n", "line 2: `..`: a value must not hold"),
            ("sq01/sh010", "line 1: `sq01/sh010`: a value must not hold"),
            ("a\nb\u{1b}[0m\n", "line 2: `b\\u{1b}[0m`: a value must not hold"),
            ("a\rb\n", "line 1: `a\\rb`: a value must not hold"),
            ("1,2,3", "line 1: `1,2,3`: a value must not hold"),
            (&long, "…`: expected 1 to 200 characters"),
            ("a\n[1]", "line 2: `[1]` looks like JSON"),
            ("{a}", "what begins with `{` has to be JSON such as `{\"counts\": [1, 2]}`: key must"),
            ("[draft]", "what begins with `[` has to be a JSON list"),
            ("[1, 2]\n3", "what begins with `[` has to be a JSON list"),
            ("[1, \"a\"]", "item 1, `1`: expected whole numbers only, or texts only."),
            ("[1.5]", "item 1, `1.5`: expected whole numbers only"),
            ("[1, 1]", "1 is there more than once."),
            ("[1000000000000000]", "`1000000000000000`"),
            ("[0010]", "what begins with `[` has to be a JSON list"),
            ("[\"a\", \"a\"]", "`a` is item 1 and item 2."),
            ("[\"a/b\"]", "item 1: `a/b`: a value must not hold"),
            ("[\"\"]", "item 1: ``: expected 1 to 200 characters"),
            ("{\"count\": 1}", "unknown field `count`"),
            ("{\"counts\": [-1]}", "invalid value"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert_eq!(parse(b"a\nb\n\xff"), Err("line 3 is not UTF-8.".to_owned()));
    }

    proptest! {
        /// A line gives the same value, or is refused for the same reason, whatever the lines around it.
        #[test]
        fn a_line_means_the_same_among_others(line in "[-+0-9xa:., \\[{\"é]{1,12}", after in any::<bool>()) {
            let alone = parse(line.as_bytes());
            let both = if after { format!("{line}\nother") } else { format!("other\n{line}") };
            match (alone, parse(both.as_bytes())) {
                (Ok(Bound::Values(Values::Names(alone))), Ok(Bound::Values(Values::Names(both)))) => {
                    prop_assert!(alone.iter().all(|word| both.contains(word)));
                    prop_assert!(alone.iter().all(|word| word == line.trim()));
                }
                // JSON, which is not text, or input that neither format accepts.
                (_, Err(_)) => {}
                (alone, both) => prop_assert!(false, "{alone:?} {both:?}"),
            }
        }
    }
}
