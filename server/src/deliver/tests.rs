//! Folders of outputs: where they are delivered, what happens when two tasks deliver to one path, and how a path leads
//! back to its task.

use super::*;
use crate::http::find_delivered;
use pictor_engine::compile;
use pictor_storage::{NewRun, RunRows, SqliteStore};
use pictor_tasks::history::{Control, Ended, Event, ResetTasks, TaskRef};
use pictor_tasks::job::{Source, parse};
use pictor_tasks::message::{Execution, FileRef, Products, RunId, TaskId, Try, WorkerId};

const JOB: &str = "pictor: v1
name: job
dims: { frame: 1-3 }
steps:
  - name: draw
    over: [frame]
    blender: { scene: { scene: a.blend } }
    deliver: { image: \"frames/{frame:04}.exr\", files: some/nodes, passes: \"passes/{frame}\" }
";

/// A store, artifact storage and an output folder for a run.
struct Stage {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    artifacts: Artifacts,
    destination: Destination,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        Self {
            store: SqliteStore::open(&at("data")).await.unwrap(),
            artifacts: Artifacts::folder(&at("a")).unwrap(),
            destination: Destination { folder: at("out"), ..Destination::default() },
            _folder: folder,
        }
    }

    async fn products(&self, task: &str, outputs: &[(&str, &str)]) -> Products {
        let mut products = Products::default();
        for (name, content) in outputs {
            let key = format!("runs/job-1/draw/0/{task}-00/{name}");
            let stored = self.artifacts.put(content.as_bytes().to_vec(), &key).await.unwrap();
            let (digest, size_bytes) = (stored.digest, stored.size_bytes);
            products.outputs.push(Output { name: (*name).into(), key, digest, size_bytes });
        }
        products
    }

    /// A run whose tasks produced these outputs: name and content, frame by frame.
    async fn run(&self, left: &[&[(&str, &str)]]) -> Run {
        let mut run = new_run();
        let new = NewRun {
            id: run.id().clone(),
            name: "job".into(),
            spec: JOB.into(),
            source_name: "job.yaml".into(),
            plan: serde_json::to_string(&**run.plan()).unwrap(),
            fold_version: run.plan().fold_version,
            account: String::new(),
            priority: 0,
            created_ms: 1,
            out_dir: String::new(),
        };
        self.store.create_run(&new, None).await.unwrap();
        for (index, outputs) in (0u32..).zip(left) {
            let products = self.products(&format!("{index}/1"), outputs).await;
            self.apply(&mut run, row(index, products)).await;
        }
        run
    }

    async fn apply(&self, run: &mut Run, mut row: Row) {
        row.seq = run.seq() + 1;
        run.apply(&row).unwrap();
        let rows = RunRows { run: run.id(), rows: &[row], state: None };
        self.store.commit(&[rows]).await.unwrap();
    }

    async fn deliver(&self, run: &Run) -> Delivered {
        deliver_all(run, &self.store, &self.artifacts, &self.destination).await.unwrap()
    }
}

fn new_run() -> Run {
    let source = Source { name: "job.yaml".into(), text: JOB.into() };
    let plan = compile(&parse(&source, &[]).unwrap().spec).unwrap();
    Run::new(RunId("job-1".into()), Arc::new(plan))
}

/// The row of a task that succeeded.
fn row(index: u32, products: Products) -> Row {
    let ended = Ended {
        task: TaskRef { step: 0, generation: 0, task: Try { index, attempt: 1 } },
        execution: Execution(0),
        worker: WorkerId(1),
        started_ms: 0,
        took_ms: 1,
        outcome: Outcome::Succeeded(products),
    };
    Row { seq: 0, time_ms: 1, fact: Fact::Ended(ended) }
}

/// The contents of the files at `paths` in the output folder.
fn there(out: &Path, paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| std::fs::read_to_string(out.join(path)).unwrap_or_default()).collect()
}

#[tokio::test]
async fn everything_in_a_folder_is_delivered_below_its_path() {
    let stage = Stage::new().await;
    let (artifacts, out) = (&stage.artifacts, &stage.destination.folder);
    let left: [&[(&str, &str)]; 2] = [
        &[
            ("image", "one"),
            ("files/depth/0001.exr", "d1"),
            ("passes/Mist.exr", "m1"),
            ("log", "x"),
        ],
        &[("image", "two"), ("files/depth/0002.exr", "d2"), ("passes/Mist.exr", "m2")],
    ];
    let run = stage.run(&left).await;
    let delivered = stage.deliver(&run).await;
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
    assert_eq!(there(out, &paths), ["one", "two", "d1", "d2", "m1", "m2"]);
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
    let stage = Stage::new().await;
    let (artifacts, out) = (&stage.artifacts, &stage.destination.folder);
    let left: [&[(&str, &str)]; 3] = [
        &[("files/still.exr", "same"), ("files/a.exr", "one")],
        &[("files/still.exr", "same"), ("files/a.exr", "two")],
        &[("files/a.exr", "one")],
    ];
    let run = stage.run(&left).await;
    // During the run, the result that is finished first is delivered.
    let spaces = [run.space(0).cloned()];
    let again = |index| {
        let outputs = run.outputs(TaskId { step: 0, index }).unwrap().1.to_vec();
        row(index, Products { outputs, ..Products::default() })
    };
    deliver_rows(run.plan(), &[again(1), again(0)], &spaces, artifacts, &stage.destination).await;
    assert_eq!(there(out, &["some/nodes/a.exr"]), ["two"]);
    let delivered = stage.deliver(&run).await;
    assert_eq!(there(out, &["some/nodes/still.exr", "some/nodes/a.exr"]), ["same", "one"]);
    assert_eq!((delivered.files.len(), delivered.clashes.len()), (2, 1), "{delivered:?}");
    let told = &delivered.clashes[0];
    for part in ["some/nodes/a.exr", "draw[frame=1]", "draw[frame=2]", "`{DIMENSION}`"] {
        assert!(told.contains(part), "{told}");
    }
}

/// The reported files in the way, by their path in the output folder.
fn ways(found: &[InTheWay], out: &Path) -> Vec<(bool, String)> {
    let name = |way: &InTheWay| way.path.strip_prefix(out).unwrap().display().to_string();
    found.iter().map(|way| (way.is_source, name(way))).collect()
}

#[tokio::test]
async fn what_the_run_reads_or_did_not_make_is_not_replaced() {
    let mut stage = Stage::new().await;
    let run = stage.run(&[&[("image", "one")], &[("image", "two")], &[("image", "three")]]).await;
    let out = stage.destination.folder.clone();
    let frames = out.join("frames");
    std::fs::create_dir_all(&frames).unwrap();
    let source = out.join("texture.exr");
    std::fs::write(&source, "texture").unwrap();
    // The source under another name, somebody else's file, and a dangling link.
    std::fs::hard_link(&source, frames.join("0001.exr")).unwrap();
    std::fs::write(frames.join("0002.exr"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", frames.join("0003.exr")).unwrap();
    stage.destination.sources = Sources::of([out.join("frames/../texture.exr")]);
    let paths = ["frames/0001.exr", "frames/0002.exr", "frames/0003.exr"];
    let delivered = stage.deliver(&run).await;
    let found = ways(&delivered.in_the_way, &out);
    assert_eq!(found, paths.map(|path| (path.ends_with("1.exr"), path.to_owned())));
    assert_eq!(there(&out, &paths), ["texture", "mine", ""]);
    assert!(delivered.files.is_empty() && delivered.failures.is_empty(), "{delivered:?}");
    let said = sentences(&delivered.in_the_way);
    assert!(said[0].contains("frames/0001.exr: the run reads what is there"), "{said:?}");
    assert!(said[1].contains("frames/0002.exr and another file: something else"), "{said:?}");
    // With `overwrite`, everything but the source may be replaced.
    stage.destination.overwrite = true;
    let delivered = stage.deliver(&run).await;
    assert_eq!(ways(&delivered.in_the_way, &out), [(true, paths[0].to_owned())]);
    assert_eq!(there(&out, &paths), ["texture", "two", "three"]);
    assert_eq!(there(&out, &["texture.exr"]), ["texture"]);
    let left = std::fs::read_dir(&frames).unwrap().count();
    assert_eq!(left, 3, "nothing is left beside");
}

#[tokio::test]
async fn what_the_run_delivered_before_is_replaced_unless_somebody_changed_it() {
    let stage = Stage::new().await;
    let mut run = stage.run(&[&[("image", "one")], &[("image", "two")]]).await;
    let out = &stage.destination.folder;
    stage.deliver(&run).await;
    std::fs::write(out.join("frames/0002.exr"), "painted over").unwrap();
    // Both are executed again.
    let reset = Event::Reset(vec![ResetTasks { step: 0, tasks: vec![0, 1] }]);
    let event = Fact::Event(Control { id: 7, event: reset });
    stage.apply(&mut run, Row { seq: 0, time_ms: 1, fact: event }).await;
    let open = |state: TaskState| !state.is_terminal();
    let way = in_the_way(&run, open, &stage.destination, Some(&stage.store)).await.unwrap();
    assert_eq!(ways(&way, out), [(false, "frames/0002.exr".to_owned())]);
    for (index, content) in [(0, "one again"), (1, "two again")] {
        let products = stage.products(&format!("{index}/2"), &[("image", content)]).await;
        let mut row = row(index, products);
        let Fact::Ended(ended) = &mut row.fact else { unreachable!() };
        ended.task.task.attempt = 2;
        stage.apply(&mut run, row).await;
    }
    let delivered = stage.deliver(&run).await;
    assert_eq!(there(out, &["frames/0001.exr", "frames/0002.exr"]), ["one again", "painted over"]);
    assert_eq!(ways(&delivered.in_the_way, out), [(false, "frames/0002.exr".to_owned())]);
}

#[tokio::test]
async fn names_that_are_known_before_any_work_are_looked_up_quickly() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_owned();
    std::fs::create_dir(out.join("shots")).unwrap();
    std::fs::create_dir(out.join("frames")).unwrap();
    for name in ["shots/a_0007.png", "shots/a_0009.png", "frames/0009.png", "frames/0010.png"] {
        std::fs::write(out.join(name), name).unwrap();
    }
    let names = |job: &str| {
        let source = Source { name: "job.yaml".into(), text: job.into() };
        let mut plan = compile(&parse(&source, &[]).unwrap().spec).unwrap();
        let shots = out.join("shots").display().to_string();
        let file = FileRef { path: shots, digest: String::new(), size_bytes: 0 };
        plan.files.insert("shots".into(), file);
        let sources = Sources::named(&plan, &out.join("job.yaml"));
        let destination = Destination { folder: out.clone(), sources, overwrite: false };
        (Run::new(RunId("job-1".into()), Arc::new(plan)), destination)
    };
    std::os::unix::fs::symlink("shots", out.join("link")).unwrap();
    // The numbers of a sequence tell which results it will have.
    let upscale = "pictor: v1\nname: job\nupscale: { input: shots, model: m }\n";
    let (run, destination) = names(upscale);
    let found = in_the_way(&run, |_| true, &destination, None).await.unwrap();
    assert_eq!(ways(&found, &out), [(false, "frames/0009.png".to_owned())]);
    let shots = "steps: [{ name: a, over: [frame], command: { run: ['true'], outputs: { o: x } }, \
                 deliver: { o: 'shots/A_{frame:04}.png' } }]";
    let job = format!("pictor: v1\nname: job\ndims: {{ frame: 1-100000 }}\n{shots}\n");
    let (run, destination) = names(&job);
    let found = in_the_way(&run, |_| true, &destination, None).await.unwrap();
    assert_eq!(found, [], "capitals are other names here");
    let (run, destination) = names(&job.replace("shots/A_", "link/a_"));
    let found = in_the_way(&run, |_| true, &destination, None).await.unwrap();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|way| way.is_source), "{found:?}");
}
