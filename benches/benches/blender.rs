//! pictor compared with plain Blender. `blender [NAME…]` measures only those: `tiles`, `turntable`, `heavy`. Both
//! render the same pixels with all cores; their order alternates from round to round.

use pictor_benches::farm::BenchFarm;
use pictor_benches::scene::{finish, scene};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{machine, say};
use pictor_tasks::worker::Inventory;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use tokio::time::Instant;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// Number of trees in the scene that takes long to load.
const TREES: &str = "18000";

fn main() {
    if !machine::measures() {
        return;
    }
    machine::introduce("Blender");
    pictor_benches::runtime().block_on(async {
        if machine::wanted("tiles") {
            let scene = scene("turntable", "../workflows/scenes/turntable.py", &[]);
            tiles("turntable, 16 tiles of 120 × 68 pixels, 4 samples", &scene, 5).await;
        }
        if machine::wanted("turntable") {
            turntable().await;
        }
        if machine::wanted("heavy") {
            let scene = scene("heavy", "heavy.py", &[TREES]);
            let title =
                format!("A forest of {TREES} trees, 16 tiles of 120 × 68 pixels, 4 samples");
            tiles(&title, &scene, 2).await;
        }
    });
}

/// Tiles of one frame: each with a new Blender process, against one that is kept running.
async fn tiles(title: &str, scene: &Path, rounds: u32) {
    const SIZE: [&str; 3] = ["480", "270", "4"];
    let (mut open, mut cold, mut first, mut warm) = <(Series, Series, Series, Series)>::default();
    let (mut ratio, mut whole) = <(Series, Series)>::default();
    let out = machine::fresh_folder("cold");
    let job = format!(
        "pictor: v1\nname: tiles\nrender:\n  scene: {}\n  frames: 1\n  tiles: 4x4\n  \
         resolution: {}x{}\n  samples: {}\n  seed: 7\n",
        scene.display(),
        SIZE[0],
        SIZE[1],
        SIZE[2],
    );
    for _ in 0..rounds {
        open.push(blender(scene, &["--python-expr", "import os; os._exit(0)"]));
        let [width, height, samples] = SIZE;
        let region = ["120", "67", "240", "135"];
        let fresh =
            plain(scene, &out, &[&["1", "1", width, height, samples], &region[..]].concat());
        let mut farm = farm("warm", scene).await;
        let seconds = farm.run(&job).await;
        let took = farm.durations("render").await;
        farm.stop().await;
        let rest: Series = took[1..].iter().copied().collect();
        cold.push(fresh);
        first.push(took[0]);
        warm.push(rest.median());
        ratio.push(fresh / rest.median());
        whole.push(16.0 * fresh / seconds);
    }
    head(title);
    line("open the scene in a fresh Blender", &open, "s", "");
    line("a tile in a fresh Blender", &cold, "s", "");
    line("pictor: the first tile", &first, "s", "after `inspect` has opened the scene");
    line("pictor: each further tile (median of 15)", &warm, "s", "");
    line("fresh Blender ÷ warm tile", &ratio, "×", "");
    line("16 fresh Blenders ÷ the whole run", &whole, "×", "");
}

/// The whole job, against one Blender process that writes the same files.
async fn turntable() {
    const FRAMES: usize = 8;
    const ROUNDS: u32 = 3;
    let scene = scene("turntable", "../workflows/scenes/turntable.py", &[]);
    let (mut alone, mut frame) = <(Series, Series)>::default();
    let mut took = [Series::default(), Series::default()];
    let mut ratios = [Series::default(), Series::default()];
    for round in 0..ROUNDS {
        let mut seconds = [0.0; 3];
        for turn in 0..3 {
            // The order changes, so that a machine that gets slower or faster affects all alike.
            let who = (turn + round as usize) % 3;
            seconds[who] = match who {
                0 => {
                    let out = machine::fresh_folder("plain");
                    plain(&scene, &out, &["1", &FRAMES.to_string(), "480", "270", "16"])
                }
                1 => pictor(&scene, "1x1", FRAMES).await,
                _ => pictor(&scene, "2x2", FRAMES).await,
            };
        }
        alone.push(seconds[0]);
        frame.push(seconds[0] / f64::from(u32::try_from(FRAMES).expect("few")));
        for i in [0, 1] {
            took[i].push(seconds[i + 1]);
            ratios[i].push(seconds[i + 1] / seconds[0]);
        }
    }
    head(&format!("turntable, {FRAMES} frames of 480 × 270, 16 samples: EXR and PNG of each"));
    line("one plain Blender", &alone, "s", "");
    line("the same, a frame", &frame, "s", "");
    line("pictor, whole frames", &took[0], "s", "");
    line("pictor, 2×2 tiles", &took[1], "s", "");
    let met = |series: &Series, limit: f64| series.median() <= limit;
    line("whole frames ÷ plain", &ratios[0], "×", &verdict(met(&ratios[0], 1.05), "≤ 1.05"));
    line("2×2 tiles ÷ plain", &ratios[1], "×", &verdict(met(&ratios[1], 1.2), "≤ 1.2"));
}

/// Seconds from the start of the process until everything is delivered.
async fn pictor(scene: &Path, tiles: &str, frames: usize) -> f64 {
    let job = format!(
        "pictor: v1\nname: turntable\nrender:\n  scene: {}\n  frames: 1-{frames}\n  tiles: {tiles}\n  \
         resolution: 480x270\n  samples: 16\n  seed: 7\n  output: {{ format: exr, preview: png }}\n",
        scene.display()
    );
    let out = machine::fresh_folder("out");
    let started = Instant::now();
    let mut farm = farm("turntable", scene).await;
    farm.run(&job).await;
    assert_eq!(farm.deliver(&out).await, 2 * frames);
    let seconds = started.elapsed().as_secs_f64();
    for step in ["render", "merge", "develop"] {
        if std::env::var_os("PICTOR_BENCH_STEPS").is_some() {
            say(&format!("{tiles} {step}: {:.3?}", farm.durations(step).await));
        }
    }
    farm.stop().await;
    seconds
}

/// A farm with what `pictor run` finds on this machine: one slot with all cores, unless there are GPUs.
async fn farm(name: &str, scene: &Path) -> BenchFarm {
    let folder = machine::fresh_folder(name);
    assert!(scene.is_file(), "the scene was built");
    let programs = pictor_executor::Programs::default();
    let wanted = BTreeSet::from(["blender", "ffmpeg"]);
    let found: Inventory =
        pictor_executor::inventory::find(&folder, &programs, &wanted, &folder, None).await;
    BenchFarm::start(&folder, found).await
}

/// Seconds that plain Blender takes to render frames, or a region of one.
fn plain(scene: &Path, out: &Path, numbers: &[&str]) -> f64 {
    let script = Path::new(HERE).join("plain.py").display().to_string();
    let out = out.display().to_string();
    blender(scene, &[&["-P", &script, "--", &out], numbers].concat())
}

fn blender(scene: &Path, args: &[&str]) -> f64 {
    let started = Instant::now();
    finish(Command::new("blender").args(["-b", "--factory-startup"]).arg(scene).args(args));
    started.elapsed().as_secs_f64()
}
