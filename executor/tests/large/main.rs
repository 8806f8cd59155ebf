//! A picture that would not fit into memory at once. In a process of its own: what is measured is the
//! most memory that the process ever had.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../farm/mod.rs"]
mod farm;
#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "../upscale/job.rs"]
mod job;
#[path = "../weights/mod.rs"]
mod weights;

use job::{Job, farm, input};
use pictor_tasks::message::Input;
use std::io::Write as _;
use std::path::Path;

/// Writes a colour picture row by row.
fn gradient(path: &Path, (width, height): (u32, u32)) {
    let file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    let byte = |value: u32| u8::try_from(value % 256).unwrap();
    for y in 0..height {
        let row: Vec<u8> = (0..width).flat_map(|x| [byte(x / 31), byte(y / 31), 90]).collect();
        stream.write_all(&row).unwrap();
    }
    stream.finish().unwrap();
}

/// The most memory that this process ever had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Tiles of the first row and of the last, and the picture of all tiles. `make soak` takes the size that
/// was promised.
#[tokio::test]
async fn a_huge_picture_needs_little_memory() {
    let soak = std::env::var_os("PICTOR_SOAK").is_some_and(|value| value == "1");
    let (size, pixels, limit) =
        if soak { ((30_000, 30_000), 1000, 1500) } else { ((8000, 3000), 250, 300) };
    let mut farm = farm();
    let source = farm.folder.path().join("huge.png");
    gradient(&source, size);
    let job = Job { pixels, ..Job::default() };
    let tiles = job.tiles(&mut farm, &source).await.unwrap();
    assert_eq!(tiles, size.0 / pixels * (size.1 / pixels));
    let mut made = None;
    for tile in [0, 1, tiles - 1] {
        let products = job.tile(&mut farm, &source, (tile, tiles)).await.unwrap();
        made = Some(products.outputs[0].clone());
    }
    let upscaled = peak_mib();
    // All have one size, so that each can stand for any.
    let tile =
        |number: u32| input("upscale", format!("tile={number}"), number, made.as_ref().unwrap());
    let inputs: Vec<Input> = (0..tiles).map(tile).collect();
    let products = job.stitch(&mut farm, &source, inputs).await.unwrap();
    let (width, height) = image::image_dimensions(farm.artifact(&products.outputs[0])).unwrap();
    assert_eq!((width, height), (2 * size.0, 2 * size.1));
    let (peak, bytes) = (peak_mib(), u64::from(width) * u64::from(height) * 3);
    let whole = bytes >> 20;
    eprintln!("{peak} MiB, {upscaled} after tiles; the result has {whole} MiB of pixels");
    assert!(peak < limit, "{peak} MiB");
}
