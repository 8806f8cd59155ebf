//! Mistakes in a job: their messages, their positions, and how both are shown.

use super::path::{Segment, segments};
use super::tree::Node;
use std::{fmt::Write, sync::Arc};

/// The most mistakes that are reported for one file.
const PROBLEMS_MAX: usize = 100;
/// The most characters of a line that are shown.
const LINE_MAX: usize = 120;
/// The most characters of a value that are quoted in a message.
const QUOTE_MAX: usize = 60;

/// The text of a job file and the name to show in errors.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name of the file, as shown in errors.
    pub name: String,
    /// The content of the file.
    pub text: String,
}

/// One mistake in a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The path of the mistake: `steps[2].needs[0]`; empty for the job as a whole.
    pub path: String,
    /// The message that says what is wrong.
    pub message: String,
    /// Advice on how to correct it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A mistake without a hint.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), hint: None }
    }

    /// Adds a hint, if there is one.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// A range of characters in one line of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// The line, from 1.
    pub(super) line: usize,
    /// The number of characters before it in the line.
    pub(super) column: usize,
    pub(super) length: usize,
}

/// The position of something in the input.
#[derive(Clone, Debug)]
pub(super) enum Location {
    /// In the job file.
    Spot(Spot),
    /// On the command line, in this override.
    Override(Arc<str>),
    /// The position is not known.
    Unknown,
}

impl Location {
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Self::Spot(spot) => Some(spot.line),
            _ => None,
        }
    }

    /// A key to sort by: the file from top to bottom, then the command line.
    fn rank(&self) -> (u8, usize, usize) {
        match self {
            Self::Spot(spot) => (0, spot.line, spot.column),
            Self::Override(_) => (1, 0, 0),
            Self::Unknown => (2, 0, 0),
        }
    }

    /// Whether both start at the same character of the file.
    pub(super) fn starts_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Spot(a), Self::Spot(b)) => (a.line, a.column) == (b.line, b.column),
            _ => false,
        }
    }
}

/// The mistakes found so far, each with its position.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<(Location, Diagnostic)>,
    dropped: usize,
}

impl Problems {
    pub(super) fn push(
        &mut self,
        path: &str,
        message: String,
        hint: Option<String>,
        location: Option<&Location>,
    ) {
        if self.found.len() == PROBLEMS_MAX {
            self.dropped += 1;
            return;
        }
        let location = location.cloned().unwrap_or(Location::Unknown);
        self.found.push((location, Diagnostic::new(path, message).with_hint(hint)));
    }

    pub(super) fn append(&mut self, other: Self) {
        self.dropped += other.dropped;
        for (location, Diagnostic { path, message, hint }) in other.found {
            self.push(&path, message, hint, Some(&location));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.found.len() + self.dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// The mistakes of a job file, in the order of their positions.
#[derive(Clone, Debug)]
pub struct Invalid {
    diagnostics: Vec<Diagnostic>,
    locations: Vec<Location>,
    dropped: usize,
}

impl From<Problems> for Invalid {
    fn from(mut problems: Problems) -> Self {
        problems.found.sort_by_key(|(location, _)| location.rank());
        let (locations, diagnostics) = problems.found.into_iter().unzip();
        Self { diagnostics, locations, dropped: problems.dropped }
    }
}

impl Invalid {
    /// The mistakes; at least one.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// For each mistake, its line and column, from 1, if it is in the file.
    pub fn positions(&self) -> impl Iterator<Item = Option<(usize, usize)>> {
        self.locations.iter().map(position)
    }

    /// Formats all mistakes, each with its line of the file, for a terminal.
    pub fn render(&self, source: &Source) -> String {
        let lines: Vec<&str> = source.text.lines().collect();
        let mut text = String::new();
        for (diagnostic, location) in self.diagnostics.iter().zip(&self.locations) {
            render_one(&mut text, diagnostic, location, (&source.name, &lines));
        }
        if self.dropped > 0 {
            let _ = writeln!(text, "error: and {} more", self.dropped);
        }
        text
    }
}

/// The positions of the parts of a job spec in its file.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    root: Option<Arc<Node>>,
}

impl SourceMap {
    pub(super) fn new(root: Node) -> Self {
        Self { root: Some(Arc::new(root)) }
    }

    /// Formats mistakes in the order of the file, each with its line, for a terminal. A path that is not in the file is
    /// shown at its nearest parent that is.
    pub fn render(&self, source: &Source, diagnostics: &[Diagnostic]) -> String {
        let mut problems = Problems::default();
        for Diagnostic { path, message, hint } in diagnostics {
            problems.push(path, message.clone(), hint.clone(), Some(&self.location(path)));
        }
        Invalid::from(problems).render(source)
    }

    /// The line and column, from 1, of the value at a path; `None` if it is not in the file.
    pub fn position(&self, path: &str) -> Option<(usize, usize)> {
        position(&self.location(path))
    }

    fn location(&self, path: &str) -> Location {
        let Some(mut node) = self.root.as_deref() else {
            return Location::Unknown;
        };
        let mut location = &node.location;
        for segment in segments(path).unwrap_or_default() {
            let (spot, child) = match &segment {
                Segment::Key(key) => match node.entry(key) {
                    Some(entry) => (entry.spot(), &entry.value),
                    None => break,
                },
                Segment::Index(index) => match node.items().get(*index) {
                    Some(item) => (&item.location, item),
                    None => break,
                },
            };
            (location, node) = (spot, child);
        }
        location.clone()
    }
}

fn position(location: &Location) -> Option<(usize, usize)> {
    match location {
        Location::Spot(spot) => Some((spot.line, spot.column + 1)),
        _ => None,
    }
}

fn render_one(text: &mut String, problem: &Diagnostic, location: &Location, file: (&str, &[&str])) {
    let (name, lines) = file;
    let _ = writeln!(text, "error: {}", problem.message);
    let mut margin = 1;
    match location {
        Location::Unknown => {
            let _ = writeln!(text, "  --> {name}");
        }
        Location::Override(given) => {
            let _ = writeln!(text, "  --> {given}");
        }
        Location::Spot(spot) => {
            margin = spot.line.to_string().len();
            let gutter = " ".repeat(margin);
            let line = lines.get(spot.line - 1).copied().unwrap_or("");
            let (shown, indent, length) = excerpt(line, *spot);
            let _ = writeln!(text, "{gutter} --> {name}:{}:{}", spot.line, spot.column + 1);
            let _ = writeln!(text, " {gutter} |");
            let _ = writeln!(text, " {} | {shown}", spot.line);
            let _ = writeln!(text, " {gutter} | {}{}", " ".repeat(indent), "^".repeat(length));
        }
    }
    if let Some(hint) = &problem.hint {
        let _ = writeln!(text, " {} = {hint}", " ".repeat(margin));
    }
    text.push('\n');
}

/// The part of the line to show, the offset of the marked text, and its length. Control characters are replaced, as
/// they would let a file control the terminal.
fn excerpt(line: &str, spot: Spot) -> (String, usize, usize) {
    let start = if spot.column > LINE_MAX * 2 / 3 { spot.column - LINE_MAX / 3 } else { 0 };
    let visible = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let shown: String = line.chars().skip(start).take(LINE_MAX).map(visible).collect();
    let indent = spot.column - start;
    let length = spot.length.min((LINE_MAX - indent.min(LINE_MAX - 1)).max(1));
    (shown.trim_end().to_owned(), indent, length)
}

/// A value in backticks, shortened as by [`shown`].
pub(super) fn quoted(value: &str) -> String {
    format!("`{}`", shown(value))
}

/// An untrusted value in a form for messages: shortened, without control characters.
pub(super) fn shown(value: &str) -> String {
    let mut text = String::new();
    for c in value.chars().take(QUOTE_MAX) {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    if value.chars().nth(QUOTE_MAX).is_some() {
        text.push('…');
    }
    text
}

/// The candidate that was probably meant; `None` if none is similar.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > QUOTE_MAX {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
