//! Reads pictures and videos without any of pictor's code.

use exr::prelude::{ReadChannels, ReadLayers};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Every channel of an EXR, by layer and name, as bits.
pub(crate) type Channels = BTreeMap<String, Vec<u32>>;

/// Reads a whole EXR: its size and its channels.
pub(crate) fn exr(path: &Path) -> ((usize, usize), Channels) {
    let image = exr::prelude::read()
        .no_deep_data()
        .largest_resolution_level()
        .all_channels()
        .all_layers()
        .all_attributes()
        .from_file(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut channels = Channels::new();
    let mut size = (0, 0);
    for layer in &image.layer_data {
        size = (layer.size.0, layer.size.1);
        // Blender 5 writes an empty name where there is no layer.
        let name = layer.attributes.layer_name.as_ref().map(ToString::to_string);
        let name = name.filter(|name| !name.is_empty());
        for channel in &layer.channel_data.list {
            let name = match &name {
                Some(layer) => format!("{layer}.{}", channel.name),
                None => channel.name.to_string(),
            };
            let bits = channel.sample_data.values_as_f32().map(f32::to_bits).collect();
            assert!(channels.insert(name, bits).is_none(), "a channel twice");
        }
    }
    (size, channels)
}

/// Asserts that two EXRs are equal in every bit of every channel.
#[track_caller]
pub(crate) fn assert_same(made: &Path, plain: &Path) {
    let ((size, made_channels), (plain_size, plain_channels)) = (exr(made), exr(plain));
    assert_eq!(size, plain_size, "{}", made.display());
    let names = |channels: &Channels| channels.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made_channels), names(&plain_channels), "{}", made.display());
    assert!(!made_channels.is_empty());
    for (name, bits) in &made_channels {
        let differ = bits.iter().zip(&plain_channels[name]).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{}: pixels of channel {name} that differ", made.display());
    }
}

/// Reads a PNG: its size, and its bytes without alpha.
pub(crate) fn png(path: &Path) -> ((u32, u32), Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.bit_depth, png::BitDepth::Eight);
    let samples = info.color_type.samples();
    let colours = bytes.chunks(samples).flat_map(|pixel| pixel[..3.min(samples)].to_vec());
    ((info.width, info.height), colours.collect())
}

/// Asserts that no byte of two PNGs differs by more than 1.
#[track_caller]
pub(crate) fn assert_close(made: &Path, plain: &Path) {
    let ((size, made_bytes), (plain_size, plain_bytes)) = (png(made), png(plain));
    assert_eq!(size, plain_size);
    assert!(made_bytes.iter().max() > made_bytes.iter().min(), "it shows something");
    let worst = made_bytes.iter().zip(&plain_bytes).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{}: differs by {worst:?}", made.display());
}

/// Width, height and number of frames of a video, all of which are decoded.
pub(crate) fn video(path: &Path) -> (u32, u32, u32) {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=width,height,nb_read_frames"])
        .arg(path)
        .output()
        .unwrap();
    let (text, err) = (String::from_utf8(probe.stdout).unwrap(), probe.stderr);
    assert!(probe.status.success() && err.is_empty(), "{}", String::from_utf8_lossy(&err));
    let numbers: Vec<u32> = text.trim().split(',').map(|n| n.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2])
}
