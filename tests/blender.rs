//! The matrix: what artists put into scenes, in each Blender under test, rendered by pictor and by that Blender itself.
//! `docs/blender-matrix.md` holds its table. Either the picture is the same bit for bit, or pictor has said before
//! rendering why it refuses, or it has left a note; the table says which, and these tests check that it still holds.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stderr, reason = "what was seen is told while it is seen")]
#![expect(clippy::disallowed_methods, reason = "what runs here takes real time")]

#[path = "blender/build.rs"]
mod build;
#[path = "blender/cell.rs"]
mod cell;
#[path = "blender/picture.rs"]
mod picture;
mod support;
#[path = "blender/table.rs"]
mod table;

use build::{Build, Feature};
use cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;
use table::Table;

/// Scenes that are rendered at a time when nothing else runs.
const AT_A_TIME: usize = 2;

/// Renders these features of a build and compares them.
fn try_out(build: &Build, features: &[Feature], at_a_time: usize) -> Vec<(Feature, Cell)> {
    let begun = Instant::now();
    let queue: Mutex<VecDeque<_>> = Mutex::new(features.iter().cloned().collect());
    let cells = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                while let Some(feature) = { queue.lock().unwrap().pop_front() } {
                    let cell = cell::of(build, &feature);
                    cell.keep(&feature.dir);
                    eprintln!("{} {}: {cell}", build.version, feature.name);
                    cells.lock().unwrap().push((feature, cell));
                }
            });
        }
    });
    let mut cells = cells.into_inner().unwrap();
    cells.sort_by_key(|(feature, _)| feature.number);
    eprintln!("{}: {} features in {:.0?}", build.version, cells.len(), begun.elapsed());
    cells
}

/// The short form: compares the features that are marked `short` with the table.
fn short(build: Option<&Build>, level: u8) {
    let Some(build) = build else { return };
    let documented = Table::documented();
    let features = build.features(level);
    let mut wrong = Vec::new();
    for (feature, cell) in try_out(build, &features, 1) {
        let expected = documented.kind(&feature.title, &build.version);
        if cell.is_wrong() || expected != Some(cell.kind()) {
            let expected = expected.unwrap_or("nothing");
            wrong.push(format!(
                "{}: {cell} (docs/blender-matrix.md says: {expected})",
                feature.title
            ));
        }
    }
    assert!(features.len() > 10, "there is something to see");
    assert!(wrong.is_empty(), "{}:\n{}", build.version, wrong.join("\n"));
}

#[test]
fn scenes_of_debians_blender() {
    short(Some(&Build::in_path()), 1);
}

#[test]
fn scenes_of_blender_5_0() {
    short(Build::installed("5.0").as_ref(), 1);
}

#[test]
fn a_few_scenes_of_blender_4_5() {
    short(Build::installed("4.5").as_ref(), 2);
}

/// Every feature in every build. With `PICTOR_MATRIX=write` the table is replaced by the results. With
/// `PICTOR_BLENDERS=5.0` and `PICTOR_FEATURES=cloth_baked,glare` the rest of it stays as it was.
#[test]
#[ignore = "takes a quarter of an hour: make blender-matrix, make soak"]
fn every_feature_in_every_blender() {
    let builds = Build::all();
    for build in builds.iter().filter(|build| build.is_wanted()) {
        try_out(build, &build.features(0), AT_A_TIME);
    }
    let seen = Table::kept(&builds);
    seen.report();
    assert!(seen.features() >= 80, "there are {} features", seen.features());
    if std::env::var("PICTOR_MATRIX").is_ok_and(|value| value == "write") {
        seen.write();
    }
    let wrong = seen.wrong();
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let documented = Table::documented();
    assert_eq!(seen.as_documented(), documented, "docs/blender-matrix.md: make blender-matrix");
}
