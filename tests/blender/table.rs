//! The matrix as the table of `docs/blender-matrix.md`, and as a report for those who investigate errors.

use crate::build::{Build, Feature};
use crate::cell::Cell;
use crate::support::root;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- matrix: written by `make blender-matrix` -->\n";
const END: &str = "<!-- end of the matrix -->\n";

/// Results by feature and version.
#[derive(Default)]
pub(crate) struct Table {
    versions: Vec<String>,
    rows: BTreeMap<u32, (Feature, BTreeMap<String, Cell>)>,
}

/// The kinds of cells in the documentation, by title and version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Documented(BTreeMap<(String, String), String>);

impl Table {
    /// The stored results for these builds, of this and earlier runs.
    pub(crate) fn kept(builds: &[Build]) -> Self {
        let mut table = Self::default();
        for build in builds {
            for feature in build.built() {
                if let Some(cell) = Cell::kept(&feature.dir) {
                    table.add(&build.version, &feature, cell);
                }
            }
        }
        table
    }

    fn add(&mut self, version: &str, feature: &Feature, cell: Cell) {
        if !self.versions.iter().any(|known| known == version) {
            self.versions.push(version.to_owned());
        }
        let row = self.rows.entry(feature.number);
        row.or_insert_with(|| (feature.clone(), BTreeMap::new()))
            .1
            .insert(version.to_owned(), cell);
    }

    pub(crate) fn features(&self) -> usize {
        self.rows.len()
    }

    /// The cells with errors, one line each.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let cells = self.rows.values().flat_map(|(feature, cells)| {
            cells.iter().map(move |(version, cell)| (feature, version, cell))
        });
        let wrong = cells.filter(|(.., cell)| cell.is_wrong());
        wrong
            .map(|(f, version, cell)| format!("{} ({}), {version}: {cell}", f.title, f.name))
            .collect()
    }

    /// The table in Markdown, with its footnotes.
    pub(crate) fn text(&self) -> String {
        let mut notes: Vec<String> = Vec::new();
        let mut text = String::new();
        let mut group = "";
        for (feature, cells) in self.rows.values() {
            if feature.group != group {
                group = &feature.group;
                let versions = self.versions.join(" | ");
                let lines = "|---".repeat(self.versions.len() + 1);
                write!(text, "\n| {group} | {versions} |\n{lines}|\n").unwrap();
            }
            write!(text, "| {}", feature.title).unwrap();
            if !feature.why.is_empty() {
                let (linear, levels) = (feature.within, feature.levels);
                let how = match (linear > 0.0, levels) {
                    (true, 0) => format!("{linear:e} in linear values"),
                    (true, levels) => {
                        format!("{linear:e} in linear values, {levels} of 255 in others")
                    }
                    (false, levels) => format!("{levels} of 255 in ordinary pictures"),
                };
                let note = format!("Compared within {how}: {}.", feature.why);
                write!(text, " {}", reference(&mut notes, note)).unwrap();
            }
            for version in &self.versions {
                let cell = cells.get(version);
                let kind = cell.map_or("", Cell::kind);
                write!(text, " | {kind}").unwrap();
                let words = cell.map_or("", Cell::words);
                if !words.is_empty() {
                    write!(text, " {}", reference(&mut notes, general(words))).unwrap();
                }
            }
            text.push_str(" |\n");
        }
        text.push('\n');
        for (i, note) in notes.iter().enumerate() {
            writeln!(text, "{}. {note}", i + 1).unwrap();
        }
        text
    }

    /// Writes the table into the documentation.
    pub(crate) fn write(&self) {
        let text = std::fs::read_to_string(document()).unwrap();
        let (before, rest) = text.split_once(BEGIN).expect("it has a place for the table");
        let (_, after) = rest.split_once(END).expect("it has a place for the table");
        let text = format!("{before}{BEGIN}{}{END}{after}", self.text());
        std::fs::write(document(), text).unwrap();
    }

    /// Writes all results, numbers included, into the folder of the scenes.
    pub(crate) fn report(&self) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix/report.md");
        std::fs::write(&path, format!("{}\n{}", self.wrong().join("\n"), self.text())).unwrap();
        eprintln!("{}", path.display());
    }

    /// The table in the documentation.
    pub(crate) fn documented() -> Documented {
        let text = std::fs::read_to_string(document()).unwrap();
        let table = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        table.map_or_else(|| Documented(BTreeMap::new()), |(table, _)| Documented::read(table))
    }

    /// The table that the documentation would have for these results.
    pub(crate) fn as_documented(&self) -> Documented {
        Documented::read(&self.text())
    }
}

impl Documented {
    /// The kind of a cell. Returns `None` if there is no such cell.
    pub(crate) fn kind(&self, title: &str, version: &str) -> Option<&str> {
        self.0.get(&(title.to_owned(), version.to_owned())).map(String::as_str)
    }

    fn read(text: &str) -> Self {
        let (mut versions, mut kinds) = (Vec::new(), BTreeMap::new());
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            if lines.peek().is_some_and(|next| next.starts_with("|---")) {
                versions = cells[1..].iter().map(ToString::to_string).collect();
            } else if line.starts_with("| ") {
                let bare = |cell: &str| cell.split(" [").next().unwrap_or_default().to_owned();
                for (version, cell) in versions.iter().zip(&cells[1..]) {
                    kinds.insert((bare(cells[0]), version.clone()), bare(cell));
                }
            }
        }
        Self(kinds)
    }
}

fn document() -> PathBuf {
    root().join("docs/blender-matrix.md")
}

/// A reference to this footnote, which is added if it is new.
fn reference(notes: &mut Vec<String>, note: String) -> String {
    let at = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!("[{}]", at + 1)
}

/// Replaces what is specific to this machine: paths of scenes and of what they use.
fn general(words: &str) -> String {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let mut words = words.lines().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    while let Some(at) = words.find(folder) {
        let path = &words[at..];
        let end = path.find([' ', ')', ',']).unwrap_or(path.len());
        words.replace_range(at..at + end, "…");
    }
    words
}
