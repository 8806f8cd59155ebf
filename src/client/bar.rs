//! Progress bars of uploads and downloads. They are drawn on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// How often a spinner moves when nothing else happens.
const TURN: Duration = Duration::from_millis(120);

/// A spinner for work that takes a while.
pub(crate) fn spinner(what: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").expect("a valid template");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what);
    bar.enable_steady_tick(TURN);
    bar
}

/// A bar for bytes that are read, uploaded or downloaded.
pub(crate) fn bytes(what: &'static str, size_bytes: u64) -> ProgressBar {
    let style = "{prefix:>12} {bar:32.cyan/238} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}";
    let style = ProgressStyle::with_template(style).expect("a valid template");
    let bar = ProgressBar::new(size_bytes).with_style(style).with_prefix(what);
    bar.enable_steady_tick(TURN);
    bar
}
