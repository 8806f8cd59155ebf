//! Simulations with every Blender on this machine: simulations that are not baked are found, and frames of a baked
//! copy, rendered in any order, equal those that Blender renders from first to last.

use super::Sessions;
use super::scenes::{Bench, assert_same_as, blender_at, scene};
use pictor_tasks::body::{Body, Render, Scene, Simulate};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Input, Products};
use pictor_tasks::space::Coordinates;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/support/simulations.py");

/// The Blenders on this machine, and the kinds of simulations that each can bake. All versions only in the soak test.
fn blenders() -> Vec<(PathBuf, Vec<&'static str>)> {
    let all = ["cloth", "cage", "soft", "rigid", "particles", "hair", "paint"];
    let mut found = vec![(PathBuf::from("blender"), [&all[..], &["smoke"]].concat())];
    let soak = std::env::var_os("PICTOR_SOAK").is_some_and(|value| value == "1");
    let versions: &[&str] = if soak { &["4.2.23", "4.5.15", "5.0.1"] } else { &["5.0.1"] };
    for version in versions {
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap();
        let program = target.join("blenders").join(version).join("blender");
        if program.is_file() {
            found.push((program, [&all[..], &["zone"]].concat()));
        }
    }
    found
}

/// The scenes of these kinds, made by this Blender.
fn built(program: &Path, kinds: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut blender = Command::new(program);
    blender.args(["-b", "--factory-startup", "--python-exit-code", "1", "-P", SCRIPT, "--"]);
    let made = blender.arg(folder.path()).args(kinds).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    folder
}

fn bench(program: &Path) -> Bench {
    let mut bench = Bench::new();
    let config = Arc::get_mut(&mut bench.config).unwrap();
    config.inventory.blenders = vec![blender_at(program)];
    bench
}

/// Runs a task on a scene of the kind.
async fn done(
    bench: &Bench,
    body: Body,
    path: &Path,
    inputs: Vec<Input>,
    sessions: &mut Sessions,
) -> Result<Products, Failure> {
    let digest = blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string();
    let file = FileRef { path: path.to_str().unwrap().into(), digest, size_bytes: 0 };
    let mut work = bench.work_with(body, &[], file);
    work.ctx.inputs = inputs;
    work.on(sessions).await
}

fn render(frame: i64, simulate: Simulate) -> Body {
    let scene = Scene { frame: Some(frame.to_string()), simulate, ..scene("x.blend") };
    Body::Blender(Render { scene, tiles: None })
}

#[tokio::test]
async fn what_is_simulated_and_not_baked_is_refused_by_name() {
    for (program, kinds) in blenders() {
        let folder = built(&program, &[&kinds[..], &["still"]].concat());
        let (bench, mut sessions) = (bench(&program), Sessions::default());
        for kind in kinds {
            let what = format!("{} {kind}", program.display());
            let unbaked = folder.path().join(kind).join("scene.blend");
            let inspect = |simulate| Body::Inspect(Scene { simulate, ..scene("x.blend") });
            let refused = inspect(Simulate::Refuse);
            let failure = done(&bench, refused.clone(), &unbaked, Vec::new(), &mut sessions).await;
            let failure = failure.expect_err(&what);
            assert_eq!(failure.kind, FailureKind::Invalid, "{what}");
            let word = match kind {
                "cage" => "cloth of 'Grid'",
                "soft" => "soft body",
                "rigid" => "rigid bodies",
                "hair" => "hair dynamics",
                "zone" => "simulation zone of 'Cube'",
                other => other,
            };
            assert!(failure.message.contains(word), "{what}: {failure:?}");
            assert!(failure.message.contains("`simulate: bake`"), "{what}: {failure:?}");
            let ignored = inspect(Simulate::Ignore);
            let products = done(&bench, ignored, &unbaked, Vec::new(), &mut sessions).await;
            assert!(products.unwrap().notes[0].contains(word), "{what}");
            let baked = folder.path().join(kind).join("baked.blend");
            let products = done(&bench, refused, &baked, Vec::new(), &mut sessions).await;
            assert_eq!(products.expect(&what).notes, [] as [String; 0], "{what}");
        }
        let still = folder.path().join("still/scene.blend");
        let body = Body::Inspect(scene("x.blend"));
        done(&bench, body, &still, Vec::new(), &mut sessions).await.unwrap();
        // The first frame needs no other. Without `inspect`, every later one is refused.
        let cloth = folder.path().join("cloth/scene.blend");
        let first = render(1, Simulate::Refuse);
        done(&bench, first, &cloth, Vec::new(), &mut sessions).await.unwrap();
        let second = render(2, Simulate::Refuse);
        let failure = done(&bench, second, &cloth, Vec::new(), &mut sessions).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
    }
}

#[tokio::test]
async fn what_is_baked_here_is_what_blender_bakes() {
    for (program, kinds) in blenders() {
        let folder = built(&program, &kinds);
        let (bench, mut sessions) = (bench(&program), Sessions::default());
        for kind in kinds {
            let what = format!("{} {kind}", program.display());
            let path = folder.path().join(kind).join("scene.blend");
            let bake = Body::Bake(Scene { simulate: Simulate::Bake, ..scene("x.blend") });
            let products = done(&bench, bake, &path, Vec::new(), &mut sessions).await.expect(&what);
            let names: Vec<&str> = products.outputs.iter().map(|output| &*output.name).collect();
            assert_eq!(names[0], "baked", "{what}");
            let one = |output| Input {
                step: "bake".into(),
                label: String::new(),
                index: 0,
                coordinates: Coordinates::default(),
                output,
            };
            let baked: Vec<Input> = products.outputs.into_iter().map(one).collect();
            for frame in [5, 2, 6, 1, 3] {
                let body = render(frame, Simulate::Bake);
                let products = done(&bench, body, &path, baked.clone(), &mut sessions).await;
                let ours = bench.path(&products.expect(&what).outputs[0]);
                let plain = folder.path().join(format!("{kind}/plain/{frame:04}.exr"));
                assert_same_as(&ours, &plain, &format!("{what}, frame {frame}"));
            }
            // Without the baked copy the frames would be wrong.
            let lacks = done(&bench, render(5, Simulate::Bake), &path, Vec::new(), &mut sessions);
            let failure = lacks.await.expect_err(&what);
            assert!(failure.message.contains("`bake` step"), "{what}: {failure:?}");
        }
    }
}
