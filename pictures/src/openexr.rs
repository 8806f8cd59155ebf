//! EXR pictures as a viewer would show them: three colours or grey, with opacity.

use super::read::{HALF_MAX, unusable};
use super::{Depth, Layout, PictureError, WHOLE_BYTES_MAX};
use crate::exr_image::{self, ExrError};
use exr::compression::Compression;
use exr::image::{AnyChannel, AnyChannels, Blocks, Encoding, FlatSamples, Image, Layer};
use exr::math::Vec2;
use exr::meta::attribute::{IntegerBounds, LineOrder};
use exr::meta::header::{ImageAttributes, LayerAttributes};
use exr::prelude::{ReadChannels as _, ReadLayers as _, WritableImage as _, f16, read as reader};
use pictor_tasks::units::Resolution;
use std::path::Path;

/// The attributes of a picture and of one of its layers.
#[derive(Clone, Debug)]
pub struct Attributes {
    image: ImageAttributes,
    layer: LayerAttributes,
}

pub(super) fn size(path: &Path) -> Result<Resolution, PictureError> {
    exr_image::size(path).map_err(problem)
}

/// Whether any layer has a channel of opacity.
pub(super) fn has_alpha(path: &Path) -> Result<bool, PictureError> {
    let meta = exr::meta::MetaData::read_from_file(path, false)
        .map_err(|error| unusable(format!("cannot be decoded: {error}")))?;
    let channels = meta.headers.iter().flat_map(|header| &header.channels.list);
    Ok(channels.into_iter().any(|channel| channel.name.to_string() == "A"))
}

/// Reads the first layer that can be shown.
pub(super) fn read(path: &Path) -> Result<(Layout, Vec<f32>, Attributes), PictureError> {
    let size = size(path)?;
    if u64::from(size.width) * u64::from(size.height) * 16 > WHOLE_BYTES_MAX {
        let gib = WHOLE_BYTES_MAX >> 30;
        return Err(unusable(format!("has more than {gib} GiB of pixels: cut it into parts")));
    }
    let image = reader()
        .no_deep_data()
        .largest_resolution_level()
        .all_channels()
        .all_layers()
        .all_attributes()
        .from_file(path)
        .map_err(|error| unusable(format!("cannot be decoded: {error}")))?;
    let attributes = image.attributes;
    for layer in image.layer_data {
        let Some(channels) = shown(&layer.channel_data.list) else { continue };
        let half = channels.iter().all(|c| matches!(c.sample_data, FlatSamples::F16(_)));
        let colours = if channels.len() < 3 { 1 } else { 3 };
        let alpha = channels.len() > colours;
        let depth = if half { Depth::Half } else { Depth::Float };
        let pixels = size.width as usize * size.height as usize;
        let mut samples = vec![0.0; pixels * channels.len()];
        for (place, channel) in channels.iter().enumerate() {
            if channel.sample_data.len() != pixels {
                return Err(unusable("has channels with fewer samples than pixels"));
            }
            let places = samples[place..].iter_mut().step_by(channels.len());
            places.zip(channel.sample_data.values_as_f32()).for_each(|(to, from)| *to = from);
        }
        let layout = Layout { size, colours, alpha, depth };
        return Ok((layout, samples, Attributes { image: attributes, layer: layer.attributes }));
    }
    Err(unusable("has neither the channels R, G and B nor Y"))
}

/// The channels that a viewer would show: red, green, blue or grey, and opacity.
fn shown(all: &[AnyChannel<FlatSamples>]) -> Option<Vec<&AnyChannel<FlatSamples>>> {
    let named = |prefix: &str, name: &str| {
        all.iter().find(|channel| channel.name.to_string() == format!("{prefix}{name}"))
    };
    let combined = all.iter().map(|channel| channel.name.to_string());
    let combined = combined.filter_map(|name| Some(name.strip_suffix("Combined.R")?.to_owned()));
    let prefixes = std::iter::once(String::new()).chain(combined.map(|p| format!("{p}Combined.")));
    for prefix in prefixes {
        let colour = ["R", "G", "B"].map(|name| named(&prefix, name));
        let colour = colour.into_iter().collect::<Option<Vec<_>>>();
        if let Some(mut found) = colour.or_else(|| Some(vec![named(&prefix, "Y")?])) {
            found.extend(named(&prefix, "A"));
            return Some(found);
        }
    }
    None
}

/// Writes a picture whose samples are interleaved.
pub(super) fn write(
    path: &Path,
    layout: Layout,
    samples: &[f32],
    attributes: Option<&Attributes>,
) -> Result<(), PictureError> {
    let count = layout.channels();
    let names: &[&str] = match (layout.colours, layout.alpha) {
        (1, false) => &["Y"],
        (1, true) => &["Y", "A"],
        (_, false) => &["R", "G", "B"],
        (_, true) => &["R", "G", "B", "A"],
    };
    let channels = names.iter().enumerate().map(|(place, name)| {
        let values = samples[place..].iter().step_by(count);
        let samples = if layout.depth == Depth::Float {
            FlatSamples::F32(values.copied().collect())
        } else {
            FlatSamples::F16(
                values.map(|value| f16::from_f32(value.clamp(-HALF_MAX, HALF_MAX))).collect(),
            )
        };
        AnyChannel::new(*name, samples)
    });
    let size = (layout.size.width as usize, layout.size.height as usize);
    let encoding = Encoding {
        compression: Compression::ZIP16,
        blocks: Blocks::ScanLines,
        line_order: LineOrder::Increasing,
    };
    let mut layer = attributes.map_or_else(LayerAttributes::default, |all| all.layer.clone());
    layer.layer_position = Vec2(0, 0);
    let layer = Layer::new(size, layer, encoding, AnyChannels::sort(channels.collect()));
    let mut image = Image::from_layer(layer);
    if let Some(all) = attributes {
        image.attributes = all.image.clone();
        image.attributes.display_window = IntegerBounds::from_dimensions(Vec2(size.0, size.1));
    }
    image.write().to_file(path).map_err(|error| unusable(format!("cannot be written: {error}")))
}

fn problem(error: ExrError) -> PictureError {
    match error {
        ExrError::Io(_, error) => PictureError::Io(error),
        ExrError::Missing(_) => PictureError::Io(std::io::ErrorKind::NotFound.into()),
        ExrError::Truncated(_) => unusable("is cut short: it ends before all of its pixels"),
        ExrError::Undecodable(_, problem) => unusable(format!("cannot be decoded: {problem}")),
        ExrError::Wrong(_, problem) => unusable(problem),
    }
}
