//! A data folder of an earlier pictor (`tests/old-data`: `done.yaml` ended, `failed.yaml` failed, `cut.yaml` was killed)
//! is opened, read, resumed and retried.

mod support;

use support::{TestDir, files, root};

#[test]
fn a_data_folder_of_an_earlier_version_goes_on() {
    let dir = TestDir::new();
    for (name, bytes) in files(&root().join("tests/old-data")) {
        let path = dir.path("data").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let listed = dir.ok(&["runs"]).out;
    let state = |name: &str| {
        let line = listed.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    let states = ["done-53xa9s", "failed-v4y91n", "cut-fw96h2"].map(state);
    assert_eq!(states, ["succeeded", "failed", "interrupted"], "{listed}");
    let shown = dir.ok(&["show", "failed"]).out;
    assert!(shown.contains("draw[frame=2]: `sh` exited with code 3."), "{shown}");
    let tasks = dir.ok(&["tasks", "done"]).out;
    let succeeded = tasks.lines().filter(|line| line.contains("succeeded")).count();
    assert_eq!(succeeded, 7, "{tasks}");
    let before = dir.attempts().len();

    let resumed = dir.ok(&["resume", "cut", "--out", "out"]);
    assert_eq!(dir.results()["all.txt"], b"picture 1\npicture 2\npicture 3\n", "{resumed}");
    let retried = dir.ok(&["retry", "failed", "--out", "out"]);
    assert!(
        retried.err.contains("4 tasks succeeded") || retried.out.contains("4 tasks succeeded"),
        "{retried}"
    );
    // Two tasks and what joins them, one task and what needs it: nothing that had succeeded was done again.
    assert_eq!(dir.attempts().len() - before, 5);
}
