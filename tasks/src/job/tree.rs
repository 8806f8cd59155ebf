//! YAML as a tree that records the position of every value. Aliases and tags are refused, so the tree is never larger
//! than its text.

use super::diagnostic::{Location, Problems, Spot, quoted};
use super::path::{field, item};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// The longest text of a job file, in bytes.
pub(super) const TEXT_MAX: usize = 1 << 20;
/// The maximum nesting depth of lists and mappings.
const DEPTH_MAX: usize = 32;

/// One value of the file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) location: Location,
    pub(super) data: Data,
}

/// The content of a value. Numbers and booleans keep the text that they were written as.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Bool(bool, String),
    Int(Number, String),
    Float(f64, String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) location: Location,
    pub(super) value: Node,
}

impl Entry {
    /// The position that errors about the value point to: the value itself if it is a scalar, else the key.
    pub(super) fn spot(&self) -> &Location {
        match self.value.data {
            Data::Null | Data::List(_) | Data::Map(_) => &self.location,
            _ => &self.value.location,
        }
    }
}

impl Node {
    /// The entry with that key, if this is a mapping.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The items of a list; empty if it is something else.
    pub(super) fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The text, if the value is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as JSON, without positions.
    pub(super) fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(truth, _) => Value::Bool(*truth),
            Data::Int(number, _) => Value::Number(number.clone()),
            Data::Float(number, _) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Self::to_json).collect(),
            Data::Map(entries) => {
                let json = |entry: &Entry| (entry.key.clone(), entry.value.to_json());
                Value::Object(entries.iter().map(json).collect::<Map<_, _>>())
            }
        }
    }
}

/// Parses the only document in `text`. `origin` is given if the text is not the job file itself.
pub(super) fn read(text: &str, origin: Option<&Location>, problems: &mut Problems) -> Option<Node> {
    let mut reader = Reader { origin, problems, open: Vec::new(), root: None, documents: 0 };
    if text.len() > TEXT_MAX {
        let message = format!("{} bytes are too many: at most {TEXT_MAX} (1 MiB)", text.len());
        let location = origin.cloned();
        reader.problems.push("", message, None, location.as_ref());
        return None;
    }
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = event.map_err(Stop::Syntax).and_then(|(event, span)| reader.event(event, span));
        match step {
            Ok(()) => {}
            Err(Stop::Syntax(error)) => {
                reader.syntax_error(&error, text);
                return None;
            }
            Err(Stop::Told) => return None,
        }
    }
    if reader.root.is_none() {
        let location = reader.location(Span::default());
        reader.problems.push("", "there is nothing here".into(), None, Some(&location));
    }
    reader.root
}

enum Stop {
    Syntax(ScanError),
    /// The reason has already been added to the problems.
    Told,
}

/// A list or mapping whose end has not been reached.
enum Open {
    List(Location, Vec<Node>),
    Map(Location, Entries),
}

/// The entries of a mapping so far, and the key whose value comes next.
#[derive(Default)]
struct Entries {
    all: Vec<Entry>,
    by_key: HashMap<String, usize>,
    key: Option<(String, Location)>,
}

struct Reader<'a> {
    origin: Option<&'a Location>,
    problems: &'a mut Problems,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.refuse(span, "a second document: a job is exactly one", None);
                }
            }
            Event::Alias(_) => {
                return self.refuse(
                    span,
                    "aliases are not supported",
                    Some("write the value again"),
                );
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                return self.refuse(span, "tags such as `!!str` are not supported", None);
            }
            Event::Scalar(text, ..) if text.contains('\0') => {
                return self.refuse(span, "a NUL character is not supported in a text", None);
            }
            Event::Scalar(text, style, ..) => self.scalar(&text, style, span),
            Event::SequenceStart(..) => {
                self.check_depth(span)?;
                self.open.push(Open::List(self.start(span), Vec::new()));
            }
            Event::MappingStart(..) => {
                self.check_depth(span)?;
                self.open.push(Open::Map(self.start(span), Entries::default()));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn check_depth(&mut self, span: Span) -> Result<(), Stop> {
        if let Some(Open::Map(_, Entries { key: None, .. })) = self.open.last() {
            return self.refuse(span, "a key must be a plain text", None);
        }
        if self.open.len() >= DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} lists and mappings inside each other");
            return self.refuse(span, &message, None);
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) {
        let location = self.location(span);
        if let Some(Open::Map(_, Entries { key: key @ None, .. })) = self.open.last_mut() {
            *key = Some((text.to_owned(), location));
            return;
        }
        let data = match style {
            ScalarStyle::Plain => plain(text),
            _ => Data::Text(text.to_owned()),
        };
        self.add(Node { location, data });
    }

    fn close(&mut self) {
        match self.open.pop() {
            Some(Open::List(location, items)) => {
                self.add(Node { location, data: Data::List(items) });
            }
            Some(Open::Map(location, Entries { all: entries, .. })) => {
                // A block mapping starts where its first key does.
                let location = match entries.first() {
                    Some(first) if first.location.starts_with(&location) => first.location.clone(),
                    _ => location,
                };
                self.add(Node { location, data: Data::Map(entries) });
            }
            None => {}
        }
    }

    fn add(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries)) => {
                let Some((key, location)) = entries.key.take() else {
                    return;
                };
                if let Some(first) = entries.by_key.get(&key) {
                    let first = entries.all[*first].location.line();
                    let hint = first.map(|line| format!("it is also on line {line}"));
                    let path = field(&self.path(), &key);
                    let message = format!("{} is given twice", quoted(&key));
                    self.problems.push(&path, message, hint, Some(&location));
                } else {
                    entries.by_key.insert(key.clone(), entries.all.len());
                    entries.all.push(Entry { key, location, value: node });
                }
            }
        }
    }

    /// The path of the next item of the innermost list, or of the pending key of the innermost mapping.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match open {
            Open::List(_, items) => item(&path, items.len()),
            Open::Map(_, Entries { key: Some((key, _)), .. }) => field(&path, key),
            Open::Map(..) => path,
        })
    }

    fn refuse(&mut self, span: Span, message: &str, hint: Option<&str>) -> Result<(), Stop> {
        let location = self.location(span);
        self.problems.push("", message.to_owned(), hint.map(str::to_owned), Some(&location));
        Err(Stop::Told)
    }

    fn syntax_error(&mut self, error: &ScanError, text: &str) {
        let mark = *error.marker();
        let mut location = self.location(Span::new(mark, mark));
        // The parser reports something missing at the end on a line after the last.
        if let (Location::Spot(spot), Some(last)) = (&mut location, text.lines().last()) {
            let lines = text.lines().count();
            if spot.line > lines {
                *spot = Spot { line: lines, column: last.chars().count(), length: 1 };
            }
        }
        let hint = if error.info().contains("tab") {
            Some("indent with spaces: YAML allows no tabs there")
        } else if error.info().contains("mapping values are not allowed") {
            Some("put quotes around a text that holds `: `")
        } else {
            None
        };
        let message = format!("not valid YAML: {}", error.info());
        self.problems.push("", message, hint.map(str::to_owned), Some(&location));
    }

    /// The position of a list or mapping, which is its first character.
    fn start(&self, span: Span) -> Location {
        self.location(Span::new(span.start, span.start))
    }

    fn location(&self, span: Span) -> Location {
        let Span { start, end } = span;
        let one_line = start.line() == end.line() && end.col() > start.col();
        let length = if one_line { end.col() - start.col() } else { 1 };
        self.origin.cloned().unwrap_or_else(|| Location::Spot(spot(start, length)))
    }
}

fn spot(mark: Marker, length: usize) -> Spot {
    Spot { line: mark.line().max(1), column: mark.col(), length }
}

/// The value of an unquoted scalar by the core schema of YAML 1.2.
fn plain(text: &str) -> Data {
    let raw = || text.to_owned();
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true, raw()),
        "false" | "False" | "FALSE" => return Data::Bool(false, raw()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Data::Float(f64::INFINITY, raw());
        }
        "-.inf" | "-.Inf" | "-.INF" => return Data::Float(f64::NEG_INFINITY, raw()),
        ".nan" | ".NaN" | ".NAN" => return Data::Float(f64::NAN, raw()),
        _ => {}
    }
    if let Some(number) = whole(text) {
        return Data::Int(number, raw());
    }
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    match text.parse::<f64>() {
        Ok(number) if text.bytes().all(numeric) => Data::Float(number, raw()),
        _ => Data::Text(raw()),
    }
}

fn whole(text: &str) -> Option<Number> {
    let radix = |prefix: &str, radix| {
        let digits = text.strip_prefix(prefix)?;
        let plain = digits.chars().all(|digit| digit.is_digit(radix));
        u64::from_str_radix(digits, radix).ok().filter(|_| plain)
    };
    radix("0x", 16)
        .or_else(|| radix("0o", 8))
        .or_else(|| text.parse::<u64>().ok())
        .map(Number::from)
        .or_else(|| text.parse::<i64>().ok().map(Number::from))
}
