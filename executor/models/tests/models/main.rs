//! Neural networks with their real weights, the real ONNX Runtime and, as the reference, the real ncnn.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod adding;
mod damage;
mod reference;
mod scene;
mod seams;
#[path = "../../../tests/weights/mod.rs"]
mod weights;

use pictor_models::{Device, Net, Planar, Runtime};
use std::fs::File;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use weights::{folder, kept, wheel};

fn runtime() -> Runtime {
    Runtime::load(&Runtime::find(folder().path()).unwrap()).unwrap()
}

fn net(name: &str) -> Net {
    let folder = folder();
    let bytes = folder.read(&folder.find(name).unwrap()).unwrap();
    Net::load(&runtime(), &bytes, Device::Cpu(NonZero::new(2).unwrap())).unwrap()
}

/// The largest difference of two pictures of the same size, and the mean one.
fn difference(a: &Planar, b: &Planar) -> (f32, f64) {
    assert_eq!((a.channels(), a.size()), (b.channels(), b.size()));
    let each = || a.samples().iter().zip(b.samples()).map(|(a, b)| (a - b).abs());
    let sum: f64 = each().map(f64::from).sum();
    let samples = u32::try_from(a.samples().len()).unwrap();
    (each().fold(0.0, f32::max), sum / f64::from(samples))
}

/// Runs Python with the packages that the reference needs, which are downloaded unless they are there.
fn reference_python(script: &str, arguments: &[&Path]) {
    let packages = kept().join("python");
    let lock = File::create(kept().join("lock")).unwrap();
    lock.lock().unwrap();
    if !packages.join("ncnn").exists() || !packages.join("numpy").exists() {
        let status = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(&packages)
            .args(["numpy", "ncnn==1.0.20261020"])
            .status()
            .unwrap();
        assert!(status.success(), "pip cannot fetch the reference");
    }
    drop(lock);
    let output = Command::new("python3")
        .args(["-c", script])
        .args(arguments)
        .env("PYTHONPATH", packages)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
