//! Validates a tree against the JSON Schema of the job file and reports every mistake with its position. Supports
//! exactly the part of JSON Schema that [`super::schema`] uses.

use super::diagnostic::{Location, Problems, nearest, quoted};
use super::formats;
use super::path::{field, item};
use super::tree::{Data, Entry, Node};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// The longest text, in characters, where the schema sets no limit.
pub(super) const CHARACTERS_MAX: u64 = 4_096;
/// The error for an unknown field lists the known ones if there are no more than this many.
const FIELDS_SHOWN: usize = 12;

/// Validates `root` against `schema`.
pub(super) fn check(root: &Node, schema: &Value, problems: &mut Problems) {
    let mut checker = Checker { schema, problems: Problems::default() };
    checker.node(&At { path: "", location: &root.location }, root, schema);
    problems.append(checker.problems);
}

/// The path of a value, and the position that errors about it point to.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a str,
    location: &'a Location,
}

impl At<'_> {
    fn name(&self) -> String {
        if self.path.is_empty() { "the job".to_owned() } else { quoted(self.path) }
    }
}

struct Checker<'a> {
    schema: &'a Value,
    problems: Problems,
}

impl<'a> Checker<'a> {
    fn node(&mut self, at: &At<'_>, node: &Node, schema: &'a Value) {
        let schema = self.resolve(schema);
        if let Some(choices) = choices(schema) {
            return self.choice(at, node, &choices);
        }
        if let Some(forms) = forms(schema) {
            return self.any(at, node, forms);
        }
        if !fits(node, schema) {
            let expected = self.expected(schema);
            return self.mismatch(at, node, schema, &expected);
        }
        if let Some((message, hint)) = respelled(node, schema) {
            return self.say(at, format!("{}: {message}", at.name()), Some(hint));
        }
        match &node.data {
            Data::Map(entries) => self.map(at, entries, schema),
            Data::List(items) => self.list(at, items, schema),
            Data::Text(text) => self.text(at, text, schema),
            Data::Int(_, raw) if takes(schema, "string") => self.text(at, raw, schema),
            Data::Int(number, raw) => self.number(at, number.as_f64(), raw, schema),
            Data::Float(number, raw) => self.number(at, Some(*number), raw, schema),
            Data::Bool(..) | Data::Null => {}
        }
    }

    /// Follows a reference into the definitions.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let pointer = reference.and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.schema.pointer(pointer)).unwrap_or(schema)
    }

    fn say(&mut self, at: &At<'_>, message: String, hint: Option<String>) {
        self.problems.push(at.path, message, hint, Some(at.location));
    }

    fn choice(&mut self, at: &At<'_>, node: &Node, choices: &[&Value]) {
        let found = node.to_json();
        if choices.contains(&&found) && !matches!(node.data, Data::Null) {
            return;
        }
        let words: Vec<String> = choices.iter().map(|choice| plain(choice)).collect();
        let hint =
            node.text().and_then(|text| did_you_mean(text, words.iter().map(String::as_str)));
        let expected = one_of(words.iter().map(|word| format!("`{word}`")));
        let message = match node.data {
            Data::Null => format!("{} has no value: expected {expected}", at.name()),
            _ => format!("{} must be {expected}, not {}", at.name(), found_in(node)),
        };
        self.say(at, message, hint);
    }

    /// Validates the alternative whose type fits; if there are several, reports the one with the fewest mistakes.
    fn any(&mut self, at: &At<'_>, node: &Node, forms: &'a [Value]) {
        let mut best: Option<Problems> = None;
        for form in forms {
            let form = self.resolve(form);
            if !fits(node, form) {
                continue;
            }
            let mut attempt = Checker { schema: self.schema, problems: Problems::default() };
            attempt.node(at, node, form);
            if best.as_ref().is_none_or(|best| attempt.problems.len() < best.len()) {
                best = Some(attempt.problems);
            }
        }
        if let Some(problems) = best {
            return self.problems.append(problems);
        }
        let mut expected: Vec<String> = Vec::new();
        for form in forms {
            let one = self.expected(form);
            if !expected.contains(&one) {
                expected.push(one);
            }
        }
        self.mismatch(at, node, &forms[0], &one_of(expected.into_iter()));
    }

    fn mismatch(&mut self, at: &At<'_>, node: &Node, schema: &Value, expected: &str) {
        let hint = match &node.data {
            Data::Int(_, raw) | Data::Float(_, raw) | Data::Bool(_, raw)
                if takes(schema, "string") && schema.get("format").is_none_or(is_free_text) =>
            {
                Some(format!("put quotes around it: \"{raw}\""))
            }
            Data::Text(text) if takes(schema, "boolean") => match text.as_str() {
                "yes" | "Yes" | "on" | "On" => Some("write `true`".to_owned()),
                "no" | "No" | "off" | "Off" => Some("write `false`".to_owned()),
                _ => None,
            },
            Data::Text(text) if takes(schema, "integer") || takes(schema, "number") => {
                text.parse::<f64>().is_ok().then(|| "remove the quotes".to_owned())
            }
            Data::Text(text) if takes(schema, "array") && text.len() < 40 => {
                Some(format!("write a list: [{}]", text.trim()))
            }
            _ => None,
        };
        let message = match node.data {
            Data::Null => format!("{} has no value: expected {expected}", at.name()),
            _ => format!("{} must be {expected}, not {}", at.name(), found_in(node)),
        };
        self.say(at, message, hint);
    }

    fn map(&mut self, at: &At<'_>, entries: &[Entry], schema: &'a Value) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        let names = schema.get("propertyNames").unwrap_or(&Value::Null);
        for entry in entries {
            let path = field(at.path, &entry.key);
            let key = At { path: &path, location: &entry.location };
            let value = At { path: &path, location: entry.spot() };
            match properties.and_then(|known| known.get(&entry.key)).or(others) {
                Some(known) => {
                    self.text(&key, &entry.key, names);
                    self.node(&value, &entry.value, known);
                }
                None => self.unknown(&key, &entry.key, (at, properties)),
            }
        }
        self.missing(at, entries, schema);
        self.size(at, entries.len(), (schema, "minProperties", "maxProperties"), "entries");
    }

    fn missing(&mut self, at: &At<'_>, entries: &[Entry], schema: &Value) {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if entries.iter().any(|entry| entry.key == name) {
                continue;
            }
            let about = schema["properties"].get(name).and_then(description);
            let hint = about.map(|about| format!("`{name}`: {about}"));
            self.say(at, format!("{} lacks the field `{name}`", at.name()), hint);
        }
    }

    fn unknown(&mut self, key: &At<'_>, name: &str, of: (&At<'_>, Option<&Map<String, Value>>)) {
        let (parent, fields) = of;
        let fields = || fields.into_iter().flat_map(Map::keys).map(String::as_str);
        let hint = did_you_mean(name, fields()).or_else(|| {
            let list: Vec<String> = fields().map(|field| format!("`{field}`")).collect();
            (list.len() <= FIELDS_SHOWN).then(|| format!("its fields are {}", list.join(", ")))
        });
        self.say(key, format!("{} is not a field of {}", quoted(name), parent.name()), hint);
    }

    fn list(&mut self, at: &At<'_>, items: &[Node], schema: &'a Value) {
        self.size(at, items.len(), (schema, "minItems", "maxItems"), "items");
        if let Some(of) = schema.get("items") {
            for (index, node) in items.iter().enumerate() {
                let location =
                    if matches!(node.data, Data::Null) { at.location } else { &node.location };
                self.node(&At { path: &item(at.path, index), location }, node, of);
            }
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = HashSet::new();
            for (index, node) in items.iter().enumerate() {
                if !seen.insert(node.to_json().to_string()) {
                    let path = item(at.path, index);
                    let message = format!("{} is in the list twice", found_in(node));
                    self.say(&At { path: &path, location: &node.location }, message, None);
                }
            }
        }
    }

    fn text(&mut self, at: &At<'_>, text: &str, schema: &Value) {
        self.length(at, text, schema);
        if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            self.say(at, format!("{} holds a control character", at.name()), None);
        }
        let format = schema.get("format").and_then(Value::as_str).and_then(formats::find);
        let result = format.map_or(Ok(()), |format| (format.check)(text));
        if let Err(problem) = result {
            let told = problem.contains(text) || at.path.ends_with(text);
            let value = if told { String::new() } else { format!("{}: ", quoted(text)) };
            self.say(at, format!("{}: {value}{problem}", at.name()), None);
        }
    }

    fn length(&mut self, at: &At<'_>, text: &str, schema: &Value) {
        let limit = |key| schema.get(key).and_then(Value::as_u64);
        let length = text.chars().count() as u64;
        let max = limit("maxLength").unwrap_or(CHARACTERS_MAX);
        if length > max {
            let message = format!("{} has {length} characters: at most {max}", at.name());
            self.say(at, message, None);
        }
        if limit("minLength").is_some_and(|min| length < min) {
            self.say(at, format!("{} must not be empty", at.name()), None);
        }
    }

    fn number(&mut self, at: &At<'_>, number: Option<f64>, raw: &str, schema: &Value) {
        let limit = |key| schema.get(key).filter(|limit| limit.is_number());
        let (min, max) = (limit("minimum"), limit("maximum"));
        let beyond = |limit: Option<&Value>, outside: fn(f64, f64) -> bool| {
            number.zip(limit.and_then(Value::as_f64)).is_some_and(|(n, limit)| outside(n, limit))
        };
        if !beyond(min, |n, min| n < min) && !beyond(max, |n, max| n > max) {
            return;
        }
        let plain = |limit: &Value| limit.to_string().trim_end_matches(".0").to_owned();
        let wanted = match (min.map(plain), max.map(plain)) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, max) => format!("at most {}", max.unwrap_or_default()),
        };
        self.say(at, format!("{} must be {wanted}, not {}", at.name(), quoted(raw)), None);
    }

    fn size(&mut self, at: &At<'_>, size: usize, limits: (&Value, &str, &str), what: &str) {
        let (schema, min, max) = limits;
        let limit = |key| schema.get(key).and_then(Value::as_u64);
        let size = size as u64;
        if let Some(max) = limit(max).filter(|max| size > *max) {
            let message = format!("{} has {size} {what}: at most {max}", at.name());
            self.say(at, message, None);
        }
        if limit(min).is_some_and(|min| size < min) {
            self.say(at, format!("{} is empty", at.name()), None);
        }
    }

    /// A description of the valid values, for messages.
    fn expected(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        if let Some(choices) = choices(schema) {
            return one_of(choices.iter().map(|choice| format!("`{}`", plain(choice))));
        }
        let format = schema.get("format").and_then(Value::as_str).and_then(formats::find);
        if let Some(format) = format {
            return format.expected.to_owned();
        }
        if let Some(forms) = forms(schema) {
            return one_of(forms.iter().map(|form| self.expected(form)));
        }
        let types = types(schema).into_iter().map(|name| match name {
            "string" => "a text".to_owned(),
            "integer" => "a whole number".to_owned(),
            "number" => "a number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "array" => "a list".to_owned(),
            _ => "a mapping".to_owned(),
        });
        one_of(types)
    }
}

/// Detects a number that may be meant as text, since it would be printed differently: with leading zeros (which YAML
/// 1.1 reads as octal), or, as a value of a dimension, in any other notation. Returns a message and a hint.
fn respelled(node: &Node, schema: &Value) -> Option<(String, String)> {
    let (Data::Int(_, raw) | Data::Float(_, raw)) = &node.data else { return None };
    let number = node.to_json().to_string();
    let is_value = schema.get("format").is_some_and(|name| name == "pictor-number-value");
    let digits = raw.trim_start_matches(['+', '-']).as_bytes();
    let zeros = digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit();
    let odd = if is_value { *raw != number } else { zeros && !takes(schema, "string") };
    let hint = format!("put quotes around it: \"{raw}\", or write {number}");
    odd.then(|| (format!("{} would become {number}", quoted(raw)), hint))
}

fn is_free_text(format: &Value) -> bool {
    matches!(format.as_str(), Some("pictor-template" | "pictor-word" | "pictor-file-name"))
}

/// The alternatives of a schema (`anyOf` or `oneOf`), if it has any.
fn forms(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array)
}

/// The values that an enumeration allows, if the schema is one.
fn choices(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(choice) = schema.get("const") {
        return Some(vec![choice]);
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        return Some(choices.iter().collect());
    }
    let nested: Option<Vec<_>> = schema.get("oneOf")?.as_array()?.iter().map(choices).collect();
    nested.map(|nested| nested.into_iter().flatten().collect())
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

fn takes(schema: &Value, name: &str) -> bool {
    types(schema).contains(&name)
        || forms(schema).is_some_and(|forms| forms.iter().any(|form| takes(form, name)))
}

fn fits(node: &Node, schema: &Value) -> bool {
    let types = types(schema);
    let is = |name| types.contains(&name);
    match &node.data {
        Data::Null => false,
        Data::Bool(..) => is("boolean"),
        Data::Int(..) => is("integer") || is("number"),
        Data::Float(number, _) => is("number") && number.is_finite(),
        Data::Text(_) => is("string"),
        Data::List(_) => is("array"),
        Data::Map(_) => is("object"),
    }
}

fn found_in(node: &Node) -> String {
    match &node.data {
        Data::Null => "nothing".to_owned(),
        Data::Bool(_, raw) => format!("the truth value `{raw}`"),
        Data::Int(_, raw) | Data::Float(_, raw) => format!("the number {}", quoted(raw)),
        Data::Text(text) => quoted(text),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a mapping".to_owned(),
    }
}

fn plain(choice: &Value) -> String {
    choice.as_str().map_or_else(|| choice.to_string(), str::to_owned)
}

fn one_of(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "something else".to_owned(),
    }
}

fn description(schema: &Value) -> Option<String> {
    let text = schema.get("description")?.as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}
