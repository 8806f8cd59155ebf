//! `make gpu-check`: what a machine's GPU does for pictor. Prints its properties, the turntable with every compute
//! backend against the processors, a job, an upscale, and the load of the GPU meanwhile. It writes to a temporary
//! folder and changes nothing on the machine.
#![expect(clippy::disallowed_methods, reason = "it measures real time")]

use pictor_api::GpuLoad;
use pictor_benches::say;
use pictor_executor::inventory::Telemetry;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The script that renders inside Blender.
const SCRIPT: &str = include_str!("../../gpu.py");
/// Interval between readings of the GPUs' load.
const LOOK: Duration = Duration::from_millis(200);
/// Values above this are treated as equal to it in a comparison.
const BRIGHTEST: f32 = 8.0;

/// The frames to render, their size and samples.
#[derive(Clone, Copy)]
struct Size {
    frames: &'static [i32],
    width: u32,
    height: u32,
    samples: u32,
}

/// The size of `workflows/turntable.yaml`, with enough samples to keep a GPU busy.
const TURNTABLE: Size = Size { frames: &[1, 12], width: 480, height: 270, samples: 64 };

/// Results of one compute backend.
#[derive(Debug, Default)]
struct Rendered {
    cold: f64,
    warm: f64,
    /// Seconds and picture of each frame, by frame and seed.
    frames: BTreeMap<(i64, i64), (f64, PathBuf)>,
    problem: Option<String>,
}

/// The difference of two pictures: Q, and the largest difference of a channel.
#[derive(Debug, PartialEq)]
struct Difference {
    q: f64,
    largest: f32,
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder in the repository");
    let pictor = std::env::args_os().nth(1).map_or(root.join("target/debug/pictor"), PathBuf::from);
    let folder = std::env::temp_dir().join(format!("pictor-gpu-check-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        say(&format!("{}: {error}", folder.display()));
        std::process::exit(1);
    }
    let missing = check(root, &pictor, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    say("");
    match missing.as_slice() {
        [] => say("Nothing is missing."),
        missing => {
            say("Missing:");
            for what in missing {
                say(&format!("- {what}"));
            }
        }
    }
}

/// Runs all checks, prints the tables, and returns what is missing.
fn check(root: &Path, pictor: &Path, folder: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    say("## The machine\n");
    say(&text_of(Command::new(pictor).arg("doctor")));
    let machine =
        serde_json::from_str::<Json>(&text_of(Command::new(pictor).args(["doctor", "--json"])));
    let machine = machine.map(|said| said["machine"].clone()).unwrap_or_default();
    if machine["gpus"].as_array().is_none_or(Vec::is_empty) {
        missing.push("an NVIDIA GPU: NVML, which belongs to the driver, tells of none".into());
    }
    let scene = root.join("workflows/scenes/built/turntable.blend");
    if !scene.exists() {
        missing.push(format!("{}: `make scenes` builds it", scene.display()));
        return missing;
    }
    let Some(blender) = chosen(&machine) else {
        missing.push("a Blender: `pictor setup-blender` installs one".into());
        return missing;
    };
    let (program, version) = (text(&blender["path"]), text(&blender["version"]));
    say(&format!("\n## Blender {version}: the turntable, {}\n", size_text(TURNTABLE)));
    let watch = Watch::start();
    let mut ways = vec!["CPU"];
    for way in ["CUDA", "OPTIX"] {
        if blender["devices"].as_array().is_some_and(|devices| devices.iter().any(|d| d == way)) {
            ways.push(way);
        } else {
            missing.push(format!("{way}: Blender {version} cannot render with it here"));
        }
    }
    let rendered: Vec<(&str, Rendered)> = ways
        .into_iter()
        .map(|way| (way, render(Path::new(&program), &scene, (way, TURNTABLE), folder)))
        .collect();
    for line in table(&rendered, TURNTABLE) {
        say(&line);
    }
    for (way, rendered) in &rendered {
        missing.extend(rendered.problem.iter().map(|problem| format!("{way}: {problem}")));
    }
    say("\n## Jobs\n");
    let gpu = rendered.len() > 1;
    let device = format!("render.device={}", if gpu { "gpu" } else { "any" });
    let turntable = root.join("workflows/turntable.yaml");
    let sets = ["--set", "render.frames=1-2", "--set", &device, "--blender", &program];
    missing.extend(job(pictor, &turntable, &sets, (folder, &format!("turntable, {device}"))));
    if text_of(Command::new(pictor).args(["models", "list"])).contains("realesr") {
        let upscale = root.join("workflows/upscale-image.yaml");
        missing.extend(job(pictor, &upscale, &["--blender", &program], (folder, "upscale-image")));
    } else {
        missing.push("networks for an upscale: `pictor models pull` fetches them".into());
    }
    say("\n## What the GPUs did meanwhile\n");
    let seen = watch.stop();
    if seen.is_empty() {
        say("no GPU was seen");
    }
    for line in &seen {
        say(line);
    }
    missing
}

/// The newest Blender that renders with a GPU; else the newest one.
fn chosen(machine: &Json) -> Option<Json> {
    let blenders = machine["blenders"].as_array()?;
    let on_gpu = |blender: &&Json| blender["devices"].as_array().is_some_and(|d| d.len() > 1);
    blenders.iter().rfind(on_gpu).or(blenders.last()).cloned()
}

/// Renders with plain Blender and one backend.
fn render(blender: &Path, scene: &Path, (way, size): (&str, Size), folder: &Path) -> Rendered {
    let script = folder.join("gpu.py");
    let mut rendered = Rendered::default();
    if let Err(error) = std::fs::write(&script, SCRIPT) {
        rendered.problem = Some(error.to_string());
        return rendered;
    }
    let Size { frames, width, height, samples } = size;
    let wanted = json!({
        "way": way, "out": folder, "frames": frames, "width": width, "height": height, "samples": samples,
    });
    let mut command = Command::new(blender);
    command.args(["-b", "--factory-startup", "-Y"]).arg(scene).arg("-P").arg(script);
    let said = text_of(command.args(["--", &wanted.to_string()]));
    for line in said.lines().filter_map(|line| line.strip_prefix("@gpu ")) {
        let line: Json = serde_json::from_str(line).unwrap_or_default();
        let seconds = line["seconds"].as_f64().unwrap_or(f64::NAN);
        match (line["tile"].as_str(), line["frame"].as_i64(), line["seed"].as_i64()) {
            (Some("cold"), ..) => rendered.cold = seconds,
            (Some(_), ..) => rendered.warm = seconds,
            (None, Some(frame), Some(seed)) => {
                let path = PathBuf::from(text(&line["path"]));
                rendered.frames.insert((frame, seed), (seconds, path));
            }
            _ => rendered.problem = line["problem"].as_str().map(str::to_owned),
        }
    }
    if rendered.problem.is_none() && rendered.frames.is_empty() {
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        rendered.problem = Some(format!("Blender made no picture; its last line: {last}"));
    }
    rendered
}

/// The lines of a table: each backend's times, and its pictures compared with those of the processors.
fn table(rendered: &[(&str, Rendered)], size: Size) -> Vec<String> {
    let mut lines = vec![
        "| | tile cold | tile warm | frame | seconds | Q against CPU | largest difference |"
            .to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    let processors = rendered.iter().find(|(way, _)| *way == "CPU").map(|(_, rendered)| rendered);
    for (way, one) in rendered {
        for frame in size.frames {
            let frame = i64::from(*frame);
            let mut seeds = one.frames.range((frame, i64::MIN)..=(frame, i64::MAX));
            let Some(((_, seed), (seconds, path))) = seeds.next() else { continue };
            let against = processors.and_then(|cpu| {
                let (_, same) = cpu.frames.get(&(frame, *seed))?;
                let (_, other) = cpu.frames.get(&(frame, seed + 1))?;
                compare(path, same, other)
            });
            let (q, largest) = against.map_or(("?".into(), "?".into()), |found| {
                (format!("{:.5}", found.q), format!("{:.2e}", found.largest))
            });
            lines.push(format!(
                "| {way} | {:.2} s | {:.2} s | {frame} | {seconds:.2} | {q} | {largest} |",
                one.cold, one.warm
            ));
        }
    }
    lines
}

/// Q = mean |l(x) - l(same)| / mean |l(same) - l(other)|, with l(v) = ln(1 + v) of values from 0 to 8: 0 means the same
/// picture, 1 a difference as large as the noise of another seed.
fn compare(x: &Path, same: &Path, other: &Path) -> Option<Difference> {
    let [x, same, other] = [colours(x)?, colours(same)?, colours(other)?];
    if x.len() != same.len() || x.len() != other.len() || x.is_empty() {
        return None;
    }
    let l = |value: f32| f64::from(value.clamp(0.0, BRIGHTEST)).ln_1p();
    let apart =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| (l(*a) - l(*b)).abs()).sum() };
    let largest = x.iter().zip(&same).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    Some(Difference { q: apart(&x, &same) / apart(&same, &other).max(f64::MIN_POSITIVE), largest })
}

/// The red, green and blue values of every pixel.
fn colours(path: &Path) -> Option<Vec<f32>> {
    use exr::prelude::*;
    let image = read_first_rgba_layer_from_file(
        path,
        |size, _| (Vec::with_capacity(size.area() * 3), ()),
        |(colours, ()), _, (r, g, b, _): (f32, f32, f32, f32)| colours.extend([r, g, b]),
    );
    image.ok().map(|image| image.layer_data.channel_data.pixels.0)
}

/// Runs a job with pictor and prints how long it took; returns what is missing if it fails.
fn job(pictor: &Path, job: &Path, more: &[&str], (folder, name): (&Path, &str)) -> Option<String> {
    let started = Instant::now();
    let mut command = Command::new(pictor);
    command.arg("run").arg(job).args(more);
    // The networks are the user's; everything else is thrown away.
    command.arg("--data").arg(folder.join("data")).arg("--out").arg(folder.join("out"));
    if std::env::var_os("PICTOR_MODELS").is_none()
        && let Some(home) = std::env::var_os("HOME")
    {
        command.env("PICTOR_MODELS", Path::new(&home).join(".local/share/pictor/models"));
    }
    let said = text_of(&mut command);
    let last = said.lines().find(|line| line.contains(" tasks succeeded")).unwrap_or("did not end");
    say(&format!("{name}: {:.1} s, {last}", started.elapsed().as_secs_f64()));
    said.lines().filter(|line| line.starts_with("note")).for_each(say);
    (!last.contains(" succeeded: ")).then(|| {
        let tail: Vec<&str> = said.lines().rev().take(8).collect();
        format!("{name}: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" / "))
    })
}

/// Reads the load of the GPUs until it is stopped.
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<String, GpuLoad>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start() -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let (until, keep) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let telemetry = Telemetry::new();
            while !until.load(Ordering::Relaxed) {
                for load in telemetry.gpus() {
                    most(&mut keep.lock().expect("no thread fails"), load);
                }
                std::thread::sleep(LOOK);
            }
        });
        Self { stop, seen, thread }
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        let seen = self.seen.lock().expect("no thread fails");
        let line = |load: &GpuLoad| {
            format!(
                "{}: at most {}% busy, {} MiB, {} W, {} °C",
                load.uuid,
                load.utilisation_percent.unwrap_or_default(),
                load.memory_used_bytes.unwrap_or_default() >> 20,
                load.power_watts.map_or_else(|| "?".into(), |watts| format!("{watts:.0}")),
                load.temperature_celsius.unwrap_or_default()
            )
        };
        seen.values().map(line).collect()
    }
}

/// Keeps the largest reading of each value.
fn most(seen: &mut BTreeMap<String, GpuLoad>, load: GpuLoad) {
    let known = seen.entry(load.uuid.clone()).or_default();
    *known = GpuLoad {
        utilisation_percent: known.utilisation_percent.max(load.utilisation_percent),
        memory_used_bytes: known.memory_used_bytes.max(load.memory_used_bytes),
        power_watts: known.power_watts.into_iter().chain(load.power_watts).reduce(f64::max),
        temperature_celsius: known.temperature_celsius.max(load.temperature_celsius),
        uuid: load.uuid,
    };
}

fn size_text(size: Size) -> String {
    format!("{}x{}, {} samples", size.width, size.height, size.samples)
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a program prints to standard output and standard error.
fn text_of(command: &mut Command) -> String {
    match command.output() {
        Ok(said) => String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned(),
        Err(error) => format!("{}: {error}", command.get_program().display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_half_renders_compares_and_is_printed() {
        let folder = std::env::temp_dir().join(format!("pictor-gpu-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let scene = folder.join("scene.blend");
        let python =
            format!("import bpy; bpy.ops.wm.save_as_mainfile(filepath={:?})", scene.display());
        text_of(Command::new("blender").args([
            "-b",
            "--factory-startup",
            "--python-expr",
            &python,
        ]));
        let size = Size { frames: &[1, 2], width: 32, height: 16, samples: 2 };
        let cpu = render(Path::new("blender"), &scene, ("CPU", size), &folder);
        assert_eq!(cpu.problem, None);
        assert!(cpu.frames.len() == 4 && cpu.cold > 0.0 && cpu.warm > 0.0, "{cpu:?}");
        let (same, noise) = (&cpu.frames[&(1, 7)].1, &cpu.frames[&(1, 8)].1);
        assert_eq!(compare(same, same, noise), Some(Difference { q: 0.0, largest: 0.0 }));
        let found = compare(noise, same, noise).unwrap();
        assert!((found.q - 1.0).abs() < 1e-9 && found.largest > 0.0, "another seed: {found:?}");
        // No machine in use has this backend.
        let none = render(Path::new("blender"), &scene, ("OPTIX", size), &folder);
        assert!(none.problem.is_some() && none.frames.is_empty());
        let lines = table(&[("CPU", cpu), ("OPTIX", none)], size);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[2].starts_with("| CPU |") && lines[2].contains("| 0.00000 | 0.00e0 |"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_newest_blender_that_uses_a_gpu_is_taken() {
        let one =
            |version: &str, devices: &[&str]| json!({ "version": version, "devices": devices });
        let blenders =
            [one("3.4.1", &["CPU"]), one("4.5.15", &["CPU", "CUDA"]), one("5.0.1", &["CPU"])];
        let machine = json!({ "blenders": blenders });
        assert_eq!(chosen(&machine).unwrap()["version"], "4.5.15");
        assert_eq!(
            chosen(&json!({ "blenders": [blenders[0], blenders[2]] })).unwrap()["version"],
            "5.0.1"
        );
        assert_eq!(chosen(&json!({})), None);
    }

    #[test]
    fn of_what_a_gpu_does_the_most_is_kept() {
        let load = |percent, watts| GpuLoad {
            uuid: "GPU-1".into(),
            utilisation_percent: Some(percent),
            power_watts: watts,
            ..GpuLoad::default()
        };
        let mut seen = BTreeMap::new();
        for load in [load(20, Some(90.0)), load(97, None), load(3, Some(310.5))] {
            most(&mut seen, load);
        }
        let kept = &seen["GPU-1"];
        assert_eq!((kept.utilisation_percent, kept.power_watts), (Some(97), Some(310.5)));
    }
}
