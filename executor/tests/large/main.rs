//! A picture that would not fit into memory at once. Runs in a separate process, as the peak memory of the process is
//! measured.
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

/// A value that Linux reports about this process's memory, in MiB.
fn memory_mib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// The peak memory of a task in MiB: in total, and in addition to what was in use before.
struct Peak {
    before: u64,
}

impl Peak {
    fn begin() -> Self {
        // Resets the recorded peak.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { before: memory_mib("VmRSS:") }
    }

    fn end(self) -> (u64, u64) {
        let peak = memory_mib("VmHWM:");
        (peak, peak.saturating_sub(self.before))
    }
}

/// Tiles of the first and the last row, and the picture of all tiles. `make soak` uses the size that the documentation
/// promises.
#[tokio::test]
async fn a_huge_picture_needs_little_memory() {
    let soak = std::env::var_os("PICTOR_SOAK").is_some_and(|value| value == "1");
    let (size, pixels, limit) =
        if soak { ((30_000, 30_000), 1000, 1500) } else { ((6000, 1000), 200, 500) };
    let mut farm = farm();
    let source = farm.folder.path().join("huge.png");
    gradient(&source, size);
    let job = Job { pixels, ..Job::default() };
    let tiles = job.tiles(&mut farm, &source).await.unwrap();
    assert_eq!(tiles, size.0 / pixels * (size.1 / pixels));
    let (mut made, upscaling) = (None, Peak::begin());
    for tile in [0, 1, tiles - 1] {
        let products = job.tile(&mut farm, &source, (tile, tiles)).await.unwrap();
        made = Some(products.outputs[0].clone());
    }
    let (upscaling, _) = upscaling.end();
    // All have the same size, so that any can take the place of another.
    let tile =
        |number: u32| input("upscale", format!("tile={number}"), number, made.as_ref().unwrap());
    let inputs: Vec<Input> = (0..tiles).map(tile).collect();
    let stitching = Peak::begin();
    let products = job.stitch(&mut farm, &source, inputs).await.unwrap();
    let (peak, stitching) = stitching.end();
    let (width, height) = image::image_dimensions(farm.artifact(&products.outputs[0])).unwrap();
    assert_eq!((width, height), (2 * size.0, 2 * size.1));
    let whole = (u64::from(width) * u64::from(height) * 3) >> 20;
    let said = format!(
        "{upscaling} MiB for tiles, {peak} for the picture, of which stitching took {stitching}; its \
         pixels are {whole} MiB"
    );
    assert!(upscaling.max(peak) < limit && stitching < whole / 2, "{said}");
    eprintln!("{said}");
}
