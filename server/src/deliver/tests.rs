//! Folders of outputs: where they land, what two tasks put into the same place, and how a path leads back.

use super::*;
use crate::http::find_delivered;
use pictor_engine::compile;
use pictor_tasks::history::{Ended, TaskRef};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{Execution, Products, RunId, Try, WorkerId};

const JOB: &str = "pictor: v1
name: job
dims: { frame: 1-3 }
steps:
  - name: draw
    over: [frame]
    blender: { scene: { scene: a.blend } }
    deliver: { image: \"frames/{frame:04}.exr\", files: some/nodes, passes: \"passes/{frame}\" }
";

/// A run whose tasks left these outputs: name and content, frame by frame.
async fn run(artifacts: &Artifacts, left: &[&[(&str, &str)]]) -> Run {
    let source = Source { name: "job.yaml".into(), text: JOB.into() };
    let plan = compile(&parse(&source, &[]).unwrap().spec).unwrap();
    let mut run = Run::new(RunId("job-1".into()), Arc::new(plan));
    for (index, outputs) in (0u32..).zip(left) {
        let mut products = Products::default();
        for (name, content) in *outputs {
            let key = format!("runs/job-1/draw/0/{index}/1-00/{name}");
            let stored = artifacts.put(content.as_bytes().to_vec(), &key).await.unwrap();
            let (digest, size_bytes) = (stored.digest, stored.size_bytes);
            products.outputs.push(Output { name: (*name).into(), key, digest, size_bytes });
        }
        run.apply(&row(run.seq() + 1, index, products)).unwrap();
    }
    run
}

/// A task has succeeded.
fn row(seq: u64, index: u32, products: Products) -> Row {
    let ended = Ended {
        task: TaskRef { step: 0, generation: 0, task: Try { index, attempt: 1 } },
        execution: Execution(0),
        worker: WorkerId(1),
        started_ms: 0,
        took_ms: 1,
        outcome: Outcome::Succeeded(products),
    };
    Row { seq, time_ms: 1, fact: Fact::Ended(ended) }
}

/// What lies in the output folder.
fn there(out: &Path, paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| std::fs::read_to_string(out.join(path)).unwrap_or_default()).collect()
}

#[tokio::test]
async fn everything_in_a_folder_is_delivered_below_its_path() {
    let place = tempfile::tempdir().unwrap();
    let (artifacts, out) =
        (Artifacts::folder(&place.path().join("a")).unwrap(), place.path().join("out"));
    let left: [&[(&str, &str)]; 2] = [
        &[
            ("image", "one"),
            ("files/depth/0001.exr", "d1"),
            ("passes/Mist.exr", "m1"),
            ("log", "x"),
        ],
        &[("image", "two"), ("files/depth/0002.exr", "d2"), ("passes/Mist.exr", "m2")],
    ];
    let run = run(&artifacts, &left).await;
    let delivered = deliver_all(&run, &artifacts, &out).await;
    assert_eq!(
        (delivered.files.len(), &delivered.failures[..], &delivered.clashes[..]),
        (6, &[][..], &[][..])
    );
    let paths = [
        "frames/0001.exr",
        "frames/0002.exr",
        "some/nodes/depth/0001.exr",
        "some/nodes/depth/0002.exr",
        "passes/1/Mist.exr",
        "passes/2/Mist.exr",
    ];
    assert_eq!(there(&out, &paths), ["one", "two", "d1", "d2", "m1", "m2"]);
    for (path, content) in paths.into_iter().zip(["one", "two", "d1", "d2", "m1", "m2"]) {
        let found = find_delivered(&run, path).unwrap();
        assert_eq!(artifacts.read(&found.key).await.unwrap(), content.as_bytes(), "{path}");
    }
    for none in [
        "some/nodes",
        "some/nodes/",
        "some/nodes/depth",
        "passes/3/Mist.exr",
        "log",
        "frames/0001.exr/x",
    ] {
        assert!(find_delivered(&run, none).is_none(), "{none}");
    }
}

#[tokio::test]
async fn two_tasks_that_deliver_to_the_same_path_are_told_and_the_first_has_it() {
    let place = tempfile::tempdir().unwrap();
    let (artifacts, out) =
        (Artifacts::folder(&place.path().join("a")).unwrap(), place.path().join("out"));
    let left: [&[(&str, &str)]; 3] = [
        &[("files/still.exr", "same"), ("files/a.exr", "one")],
        &[("files/still.exr", "same"), ("files/a.exr", "two")],
        &[("files/a.exr", "one")],
    ];
    let run = run(&artifacts, &left).await;
    // As it comes, the last one is there.
    let spaces = [run.space(0).cloned()];
    let again = |index| {
        let outputs = run.outputs(0, index).unwrap().1.to_vec();
        row(1, index, Products { outputs, ..Products::default() })
    };
    deliver_rows(run.plan(), &[again(0), again(1)], &spaces, (&artifacts, &out)).await;
    assert_eq!(there(&out, &["some/nodes/a.exr"]), ["two"]);
    let delivered = deliver_all(&run, &artifacts, &out).await;
    assert_eq!(there(&out, &["some/nodes/still.exr", "some/nodes/a.exr"]), ["same", "one"]);
    assert_eq!((delivered.files.len(), delivered.clashes.len()), (2, 1), "{delivered:?}");
    let told = &delivered.clashes[0];
    for part in ["some/nodes/a.exr", "draw[frame=1]", "draw[frame=2]", "`{DIMENSION}`"] {
        assert!(told.contains(part), "{told}");
    }
}
