//! Output to the terminal. A closed pipe (`pictor runs | head`) is no error.

use pictor_tasks::worker::BLENDER;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};

/// Prints a line to standard output. On a terminal, nothing in it can move the cursor or change colours, whoever wrote it.
pub(crate) fn say(line: &str) {
    pass_on(format!("{line}\n").as_bytes());
}

/// Moves the terminal's cursor home, and clears the screen with its scrollback.
pub(crate) fn clear() {
    // The reader is gone: there is nobody to tell.
    let _ = std::io::stdout().write_all(b"\x1b[H\x1b[2J\x1b[3J");
}

/// Prints bytes: unchanged, but on a terminal without sequences that move the cursor or change colours.
pub(crate) fn pass_on(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let written_out;
    let bytes = if out.is_terminal() {
        written_out = without_controls(bytes);
        &written_out
    } else {
        bytes
    };
    // As above.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Escapes every control character except tabs and line ends, also where a byte is one by itself, as to terminals that
/// do not expect UTF-8.
fn without_controls(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    // How many more bytes the character has.
    let mut more = 0_u8;
    for &byte in bytes {
        let goes_on = more > 0 && (0x80..0xc0).contains(&byte);
        more = match byte {
            _ if goes_on => more - 1,
            0xc2..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf4 => 3,
            _ => 0,
        };
        let is_whole = !goes_on && !matches!(byte, b'\n' | b'\t');
        // Of two bytes: U+0080 to U+009F.
        let is_second = goes_on && plain.last() == Some(&0xc2);
        let is_high = (0x80..0xa0).contains(&byte);
        if is_second && is_high {
            plain.pop();
        }
        if (is_whole && byte.is_ascii_control()) || ((is_whole || is_second) && is_high) {
            plain.extend_from_slice(format!("\\u{{{byte:x}}}").as_bytes());
        } else {
            plain.push(byte);
        }
    }
    plain
}

/// Prints a line to standard error, marked as an error.
pub(crate) fn complain(line: &str) {
    explain(&marked(line));
}

/// The line with its mark, once: errors of a job file are marked already, also those that a server sends.
fn marked(line: &str) -> String {
    format!("error: {}", line.trim_start_matches("error: "))
}

/// Prints a line of an explanation to standard error.
pub(crate) fn explain(line: &str) {
    let mut error = std::io::stderr().lock();
    let line = if error.is_terminal() { without_controls(line.as_bytes()) } else { line.into() };
    // As above.
    let _ = error.write_all(&line).and_then(|()| error.write_all(b"\n"));
}

/// Text from others, made safe for a terminal: without characters that move the cursor or change colours. Further lines
/// are indented, so that none can pass for a line of ours.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => plain.push_str("\n    "),
            c if c.is_control() || is_invisible(c) => plain.extend(c.escape_unicode()),
            c => plain.push(c),
        }
    }
    plain
}

/// Whether the character changes the direction of writing.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Announces what is about to happen and waits for confirmation.
pub(crate) fn confirm(what: &str) -> bool {
    // No answer means no.
    let mut error = std::io::stderr().lock();
    let asked = write!(error, "{what}; go on? [y/N] ").and_then(|()| error.flush());
    let mut answer = String::new();
    let read = asked.and_then(|()| std::io::stdin().read_line(&mut answer));
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Formats rows as aligned columns, two spaces apart.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line(head);
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text.truncate(text.trim_end().len());
    text
}

/// Programs as `name version`, and each Blender with the devices it renders on.
pub(crate) fn programs<'a>(
    software: &BTreeMap<String, String>,
    blenders: impl Iterator<Item = (&'a str, &'a BTreeSet<String>)>,
) -> Vec<String> {
    let blenders: Vec<String> = blenders
        .map(|(version, devices)| {
            let devices = devices.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("{BLENDER} {version} ({devices})")
        })
        .collect();
    let others = software.iter().filter(|(name, _)| *name != BLENDER || blenders.is_empty());
    let others = others.map(|(name, version)| format!("{name} {version}")).collect();
    [blenders, others].concat()
}

/// Formats a duration: `1:02:03`, `2:03`, `4.2 s` or `37 ms`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..=59 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..=3599 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_marked_once() {
        for line in ["no step", "error: no step", "error: error: no step"] {
            assert_eq!(marked(line), "error: no step");
        }
        let two = "error: no step\n  --> job.yaml\nerror: no body";
        assert_eq!(marked(two), two);
    }

    #[test]
    fn a_log_moves_nothing_on_the_terminal() {
        let plain = without_controls("é \x1b[31mred\u{9b}2J\r\tend\n".as_bytes());
        let expected = "é \\u{1b}[31mred\\u{9b}2J\\u{d}\tend\n";
        assert_eq!(String::from_utf8(plain).unwrap(), expected);
        // Also where a character was cut, or is none.
        let plain = |bytes: &[u8]| String::from_utf8_lossy(&without_controls(bytes)).into_owned();
        assert_eq!(plain(b"a\x9b2Jb\x9d52;c;\x9c"), "a\\u{9b}2Jb\\u{9d}52;c;\\u{9c}");
        assert_eq!(
            plain(b"\xe2\x82\xac \xf0\x9f\x98\x80 \xe2\x82\x9b"),
            "\u{20ac} \u{1f600} \u{209b}"
        );
        assert_eq!(plain(b"\xe2\x1b[2J"), "\u{fffd}\\u{1b}[2J");
        assert_eq!(plain(b"\xc2\xc2\x9b"), "\u{fffd}\\u{9b}");
    }

    #[test]
    fn what_strangers_write_moves_nothing_on_the_terminal() {
        assert_eq!(plain("a \x1b[2Jb\r\u{9b}c\u{202e}d"), "a \\u{1b}[2Jb\\u{d}\\u{9b}c\\u{202e}d");
        assert_eq!(plain("é\nrun-1 succeeded"), "é\n    run-1 succeeded");
    }
}
