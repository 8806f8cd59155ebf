//! The difference between two pictures.

use crate::support::pictures;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The size of a picture and its channels, each a list of numbers.
struct Picture {
    size: (usize, usize),
    is_linear: bool,
    channels: BTreeMap<String, Vec<f32>>,
}

/// A description of the difference. Returns `None` if the pictures are the same. Values may differ by `within`; linear
/// ones above 1 in proportion.
pub(crate) fn difference(made: &Path, plain: &Path, within: f32) -> Option<String> {
    let (made, plain) = (read(made), read(plain));
    if made.size != plain.size {
        let ((x, y), (w, h)) = (made.size, plain.size);
        return Some(format!("{x}x{y} pixels, not {w}x{h}"));
    }
    let lacks = |a: &Picture, b: &Picture| {
        let names = b.channels.keys().filter(|name| !a.channels.contains_key(*name));
        names.cloned().collect::<Vec<_>>()
    };
    let (missing, extra) = (lacks(&made, &plain), lacks(&plain, &made));
    let mut said = Vec::new();
    for (word, names) in [("without", missing), ("with", extra)] {
        if let [first, rest @ ..] = names.as_slice() {
            let more =
                if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            said.push(format!("{word} {first}{more}"));
        }
    }
    let pixels = made.size.0 * made.size.1;
    let (mut differ, mut largest, mut channel) = (vec![false; pixels], 0.0, "");
    for (name, ours) in &made.channels {
        let Some(theirs) = plain.channels.get(name) else { continue };
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            let apart = match (a - b).abs() {
                _ if a.to_bits() == b.to_bits() => continue,
                apart if apart.is_nan() => f32::INFINITY,
                apart => apart,
            };
            let proportion = if plain.is_linear { b.abs().max(1.0) } else { 1.0 };
            if apart <= within * proportion {
                continue;
            }
            differ[i] = true;
            if apart > largest {
                (largest, channel) = (apart, name);
            }
        }
    }
    let count = differ.iter().filter(|differs| **differs).count();
    if count > 0 {
        said.push(format!("{count} of {pixels} pixels, by {largest:.1e} in {channel}"));
    }
    (!said.is_empty()).then(|| said.join(", "))
}

fn read(path: &Path) -> Picture {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("exr") => {
            let (size, channels) = pictures::exr(path);
            let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
            let channels = channels.into_iter().map(|(name, bits)| (name, floats(bits))).collect();
            Picture { size, is_linear: true, channels }
        }
        Some("png") => png(path),
        _ => decoded(path),
    }
}

/// Reads a PNG in its own bit depth: two depths give two sets of channels.
fn png(path: &Path) -> Picture {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let values: Vec<f32> = match info.bit_depth {
        png::BitDepth::Sixteen => bytes
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]).into())
            .collect(),
        _ => bytes.iter().map(|byte| f32::from(*byte)).collect(),
    };
    let (samples, depth) = (info.color_type.samples(), info.bit_depth as u8);
    let channel = |c: usize| values.iter().skip(c).step_by(samples).copied().collect();
    let name = |c: usize| format!("{:?}{depth}.{c}", info.color_type);
    let size = (info.width as usize, info.height as usize);
    Picture {
        size,
        is_linear: false,
        channels: (0..samples).map(|c| (name(c), channel(c))).collect(),
    }
}

/// Reads any other picture with ffmpeg.
fn decoded(path: &Path) -> Picture {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0", "-show_entries", "stream=width,height,pix_fmt"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(probe.stdout).unwrap();
    let parts: Vec<&str> = text.trim().split(',').collect();
    let [width, height, format] = parts[..] else { panic!("{}: {text}", path.display()) };
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(path);
    let raw = ffmpeg.args(["-f", "rawvideo", "-pix_fmt", "rgba64le", "-"]).output().unwrap().stdout;
    let values: Vec<f32> =
        raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]).into()).collect();
    let channel = |c: usize| values.iter().skip(c).step_by(4).copied().collect();
    Picture {
        size: (width.parse().unwrap(), height.parse().unwrap()),
        is_linear: false,
        channels: (0..4).map(|c| (format!("{format}.{c}"), channel(c))).collect(),
    }
}
