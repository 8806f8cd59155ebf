//! Explains malformed requests in plain words: the libraries' own messages are written for Rust programmers.

/// A sentence about a body that is not JSON, or is JSON of the wrong form.
pub(super) fn of_body(text: &str) -> String {
    if let Some(why) = text.strip_prefix("Failed to parse the request body as JSON: ") {
        let (why, at) = cut_position(why);
        let (_, why) = place_and_reason(why);
        let at = at.map(|at| format!(" at {at}")).unwrap_or_default();
        let why = if why.starts_with("EOF while") { "it ends too early" } else { why };
        return format!("the body is not JSON{at}: {why}");
    }
    let Some(why) = text.strip_prefix("Failed to deserialize the JSON body into the target type: ")
    else {
        return text.to_owned();
    };
    let (why, _) = cut_position(why);
    let (place, reason) = place_and_reason(why);
    sentence(place, reason)
}

/// A sentence about a query, or a part of a path, of the wrong form.
pub(super) fn of_query(text: &str) -> String {
    let starts = ["Failed to deserialize query string: ", "Invalid URL: "];
    let Some(why) = starts.iter().find_map(|start| text.strip_prefix(start)) else {
        return text.to_owned();
    };
    let (place, reason) = place_and_reason(why);
    sentence(place, reason).replace("there is no field", "there is no parameter")
}

/// Splits off ` at line 3 column 7`.
fn cut_position(text: &str) -> (&str, Option<String>) {
    let Some((before, at)) = text.rsplit_once(" at line ") else { return (text, None) };
    match at.split_once(" column ") {
        Some((line, column)) => (before, Some(format!("line {line}, column {column}"))),
        None => (text, None),
    }
}

/// How the reasons given by serde and the standard library begin.
const REASONS: [&str; 13] = [
    "missing field",
    "unknown field",
    "duplicate field",
    "unknown variant",
    "invalid type",
    "invalid value",
    "invalid length",
    "data did not match",
    "invalid digit",
    "number too",
    "cannot parse",
    "Cannot parse",
    "provided string was not",
];

/// Splits `steps[0].name: missing field …` into the position and the reason.
fn place_and_reason(text: &str) -> (&str, &str) {
    let found = REASONS.iter().filter_map(|reason| text.find(reason)).min();
    let at = found.or_else(|| text.find(": ").map(|at| at + 2)).unwrap_or(0);
    let place = text[..at].trim_end_matches(": ").trim_matches(['`', ' ']);
    (if place == "." || place == "?" { "" } else { place }, &text[at..])
}

fn sentence(place: &str, reason: &str) -> String {
    let name = if place.is_empty() { "the body".to_owned() } else { format!("`{place}`") };
    let inner = |field: &str| {
        let parent = place.strip_suffix(field).map_or(place, |parent| parent.trim_end_matches('.'));
        if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") }
    };
    let quoted: Vec<&str> = reason.split('`').skip(1).step_by(2).collect();
    let others =
        || quoted[1..].iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    if let (true, [field, ..]) = (reason.starts_with("missing field"), &*quoted) {
        return format!("`{}` is missing", inner(field));
    }
    if let (true, [field, ..]) = (reason.starts_with("duplicate field"), &*quoted) {
        return format!("`{}` is there twice", inner(field));
    }
    if let (true, [field, rest @ ..]) = (reason.starts_with("unknown field"), &*quoted) {
        let known =
            if rest.is_empty() { String::new() } else { format!("; there are {}", others()) };
        return format!("there is no field `{}`{known}", inner(field));
    }
    if let (true, [found, ..]) = (reason.starts_with("unknown variant"), &*quoted) {
        return format!("{name} has to be one of {}, not `{found}`", others());
    }
    let of = ["invalid type: ", "invalid value: ", "invalid length "];
    if let Some(rest) = of.iter().find_map(|start| reason.strip_prefix(start))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        return format!("{name} has to be {}, not {}", wanted(expected), given(found));
    }
    if reason.starts_with("data did not match any variant of untagged enum JobBody")
        || reason.starts_with("data did not match any variant of untagged enum SentJob")
    {
        return format!("{name} has to be the text of a job file, or the job as an object");
    }
    if reason.starts_with("data did not match") {
        return format!("{name} has none of the forms that it may have");
    }
    if reason.starts_with("invalid digit") || reason.starts_with("cannot parse integer") {
        return format!("{name} has to be a whole number");
    }
    if reason.starts_with("number too") {
        return format!("{name} has to be a whole number, and one of this size is not possible");
    }
    if let (true, [found, kind, ..]) = (reason.starts_with("Cannot parse"), &*quoted) {
        let name = if place.is_empty() { "a part of the path" } else { &*name };
        return format!("{name} has to be {}, not `{found}`", wanted(kind));
    }
    if reason.starts_with("provided string was not") {
        return format!("{name} has to be `true` or `false`");
    }
    if place.is_empty() { reason.to_owned() } else { format!("{name}: {reason}") }
}

/// Rewords what serde expected.
fn wanted(expected: &str) -> String {
    let word = match expected.trim_matches('`') {
        "a string" | "str" | "String" | "string" => "a text",
        "a boolean" | "bool" => "`true` or `false`",
        "a map" => "an object",
        "a sequence" => "a list",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        expected if expected.starts_with("struct ") => "an object",
        expected if expected.starts_with("enum ") || expected.starts_with("variant ") => {
            "one of the words that it may be"
        }
        expected => expected,
    };
    word.to_owned()
}

/// Rewords what serde found.
fn given(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    let value = value.trim_matches('`');
    match kind {
        "integer" | "boolean" | "character" => value.to_owned(),
        "floating" => value.trim_start_matches("point ").trim_matches('`').to_owned(),
        "string" => format!("the text {value}"),
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit" => "null".to_owned(),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("a list of {number}"),
        _ => found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        #[default]
        One,
        Two,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only what is wrong is looked at")]
    struct Body {
        name: String,
        #[serde(default)]
        set: BTreeMap<String, String>,
        #[serde(default)]
        size: u32,
        #[serde(default)]
        word: Word,
        #[serde(default)]
        flag: bool,
        #[serde(default)]
        list: Vec<String>,
    }

    fn said(body: &str) -> String {
        let error = axum::Json::<Body>::from_bytes(body.as_bytes()).unwrap_err();
        of_body(&error.body_text())
    }

    #[test]
    fn a_body_that_does_not_fit_is_told_without_the_words_of_rust() {
        for (body, expected) in [
            ("{}", "`name` is missing"),
            (r#"{"name": 7}"#, "`name` has to be a text, not 7"),
            (r#"{"name": null}"#, "`name` has to be a text, not null"),
            (r#"{"name": "a", "set": {"a": 1.5}}"#, "`set.a` has to be a text, not 1.5"),
            (r#"{"name": "a", "set": []}"#, "`set` has to be an object, not a list"),
            (
                r#"{"name": "a", "size": -1}"#,
                "`size` has to be a whole number that is not negative, not -1",
            ),
            (
                r#"{"name": "a", "size": "x"}"#,
                "`size` has to be a whole number that is not negative, not the text \"x\"",
            ),
            (r#"{"name": "a", "word": "tow"}"#, "`word` has to be one of `one`, `two`, not `tow`"),
            (
                r#"{"name": "a", "flag": "yes"}"#,
                "`flag` has to be `true` or `false`, not the text \"yes\"",
            ),
            (r#"{"name": "a", "list": ["a", {}]}"#, "`list[1]` has to be a text, not an object"),
            (
                r#"{"nam": "a"}"#,
                "there is no field `nam`; there are `name`, `set`, `size`, `word`, `flag`, `list`",
            ),
            (r#"{"name": "a", "name": "b"}"#, "`name` is there twice"),
            ("[]", "the body has to be an object, not a list of 0"),
            ("7", "the body has to be an object, not 7"),
        ] {
            assert_eq!(said(body), expected, "{body}");
        }
        assert!(said("{").starts_with("the body is not JSON at line 1, column "), "{}", said("{"));
    }

    #[test]
    fn a_query_that_does_not_fit_is_told_as_well() {
        let text = "Failed to deserialize query string: limit: invalid digit found in string";
        assert_eq!(of_query(text), "`limit` has to be a whole number");
        let text = "Invalid URL: Cannot parse `x` to a `u32`";
        assert_eq!(
            of_query(text),
            "a part of the path has to be a whole number that is not negative, not `x`"
        );
        let text =
            "Failed to deserialize query string: state: unknown variant `a`, expected `b` or `c`";
        assert_eq!(of_query(text), "`state` has to be one of `b`, `c`, not `a`");
    }
}
