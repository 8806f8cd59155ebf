//! Writing pictures. PNG and TIFF are written as the rows arrive.

use super::exif::{self, Exif, Field};
use super::read::{image_error, unusable};
use super::tags::Density;
use super::{
    Depth, Layout, PictureError, Tags, WHOLE_BYTES_MAX, jpeg as segments, openexr, png_tags,
};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::codecs::jpeg::{JpegEncoder, PixelDensity, PixelDensityUnit};
use image::{ExtendedColorType, ImageEncoder as _};
use pictor_tasks::body::ImageFormat;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use tiff::TiffError;
use tiff::encoder::{DirectoryEncoder, Rational, TiffEncoder, TiffKind};
use tiff::tags::{CompressionMethod, ExtraSamples, ResolutionUnit, Tag, Type};

/// The rows of a TIFF that are compressed together.
const STRIP_ROWS: u32 = 64;

type Result<T> = std::result::Result<T, PictureError>;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The size, channels and depth of the rows.
    pub layout: Layout,
    /// The file's format. WebP is left to ffmpeg.
    pub format: ImageFormat,
    /// The quality of a JPEG, from 1 to 100.
    pub quality: u8,
    /// Whether fast compression matters more than a small file, as for one that nobody keeps.
    pub passing: bool,
}

/// Writes a picture. `rows` fills in the next row; samples of a linear depth are linear light, all others coded for a
/// display. As JPEG has no opacity, transparent parts become black.
pub fn write(
    path: &Path,
    target: Target,
    tags: &Tags,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
) -> Result<()> {
    match target.format {
        ImageFormat::Png | ImageFormat::Webp => png(path, target, tags, rows),
        ImageFormat::Jpeg => jpeg(path, target, tags, rows),
        ImageFormat::Tiff => tiff(path, target, tags, rows),
        ImageFormat::Exr => {
            let all = whole(target.layout, 4, rows, |row, all| all.extend(row))?;
            openexr::write(path, target.layout, &all, tags.exr.as_deref())
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded and limited before"
)]
fn eight(sample: f32) -> u8 {
    (sample.clamp(0.0, 1.0) * 255.0).round() as u8
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded and limited before"
)]
fn sixteen(sample: f32) -> u16 {
    (sample.clamp(0.0, 1.0) * 65_535.0).round() as u16
}

fn png(
    path: &Path,
    target: Target,
    tags: &Tags,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
) -> Result<()> {
    let failed = |error: png::EncodingError| match error {
        png::EncodingError::IoError(error) => PictureError::Io(error),
        other => unusable(format!("cannot be written: {other}")),
    };
    let layout = target.layout;
    let mut info = png::Info::with_size(layout.size.width, layout.size.height);
    info.color_type = match (layout.colours, layout.alpha) {
        (1, false) => png::ColorType::Grayscale,
        (1, true) => png::ColorType::GrayscaleAlpha,
        (_, false) => png::ColorType::Rgb,
        (_, true) => png::ColorType::Rgba,
    };
    let deep = layout.depth != Depth::Eight;
    info.bit_depth = if deep { png::BitDepth::Sixteen } else { png::BitDepth::Eight };
    png_tags::put(tags, &mut info);
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::with_info(file, info).map_err(failed)?;
    let (fast, balanced) = (png::Compression::Fast, png::Compression::Balanced);
    encoder.set_compression(if target.passing { fast } else { balanced });
    let mut writer = encoder.write_header().map_err(failed)?;
    for (name, data) in png_tags::colours(tags) {
        writer.write_chunk(name, &data).map_err(failed)?;
    }
    let mut stream = writer.stream_writer_with_size(1 << 20).map_err(failed)?;
    let (mut row, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..layout.size.height {
        rows(&mut row)?;
        bytes.clear();
        if deep {
            bytes.extend(row.iter().flat_map(|sample| sixteen(*sample).to_be_bytes()));
        } else {
            bytes.extend(row.iter().map(|sample| eight(*sample)));
        }
        stream.write_all(&bytes)?;
    }
    stream.finish().map_err(failed)?;
    writer.finish().map_err(failed)
}

/// Collects all rows, for formats that need them at once.
fn whole<T>(
    layout: Layout,
    sample_bytes: u64,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
    mut add: impl FnMut(&[f32], &mut Vec<T>),
) -> Result<Vec<T>> {
    let bytes = u64::from(layout.size.height) * layout.row_samples() as u64 * sample_bytes;
    if bytes > WHOLE_BYTES_MAX {
        let (size, gib) = (layout.size, WHOLE_BYTES_MAX >> 30);
        return Err(unusable(format!(
            "would have {size} pixels, and its format is not written row by row beyond {gib} GiB: \
             choose `format: png` or `tiff`"
        )));
    }
    let (mut row, mut all) = (Vec::new(), Vec::new());
    for _ in 0..layout.size.height {
        rows(&mut row)?;
        add(&row, &mut all);
    }
    Ok(all)
}

fn jpeg(
    path: &Path,
    target: Target,
    tags: &Tags,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
) -> Result<()> {
    let layout = target.layout;
    let (width, height) = (layout.size.width, layout.size.height);
    if width.max(height) > 65_535 {
        return Err(unusable(format!("would have {} pixels, too many for JPEG", layout.size)));
    }
    let all = whole(layout, 1, rows, |row, all| {
        for pixel in row.chunks_exact(layout.channels()) {
            let opacity = if layout.alpha { pixel[layout.colours] } else { 1.0 };
            all.extend(pixel[..layout.colours].iter().map(|sample| eight(sample * opacity)));
        }
    })?;
    let mut encoded = Vec::new();
    let mut jpeg = JpegEncoder::new_with_quality(&mut encoded, target.quality);
    if let Some(Density { x, y }) = tags.density {
        let unit = PixelDensityUnit::Inches;
        jpeg.set_pixel_density(PixelDensity { density: (dots(x), dots(y)), unit });
    }
    if let Some(icc) = &tags.icc {
        // This format refuses no profile.
        let _ = jpeg.set_icc_profile(icc.clone());
    }
    if let Some(exif) = &tags.exif {
        let _ = jpeg.set_exif_metadata(exif.clone());
    }
    let colour = if layout.colours == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    jpeg.write_image(&all, width, height, colour).map_err(image_error)?;
    let (before, after) = encoded.split_at(segments::place(&encoded));
    let mut file = BufWriter::new(File::create(path)?);
    for part in [before, &segments::segments(tags), after] {
        file.write_all(part)?;
    }
    Ok(file.flush()?)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
fn dots(to_inch: f64) -> u16 {
    to_inch.round().clamp(1.0, f64::from(u16::MAX)) as u16
}

fn tiff_error(error: TiffError) -> PictureError {
    match error {
        TiffError::IoError(error) => PictureError::Io(error),
        other => unusable(format!("cannot be written: {other}")),
    }
}

fn tiff(
    path: &Path,
    target: Target,
    tags: &Tags,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
) -> Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let layout = target.layout;
    // Offsets in a plain TIFF have 32 bits. Compression makes no picture much larger.
    let bytes = u64::from(layout.size.height) * layout.row_samples() as u64 * 2;
    if bytes < u64::from(u32::MAX / 2) {
        let mut encoder = TiffEncoder::new(file).map_err(tiff_error)?;
        directories(&mut encoder, layout, tags, rows)
    } else {
        let mut encoder = TiffEncoder::new_big(file).map_err(tiff_error)?;
        directories(&mut encoder, layout, tags, rows)
    }
}

/// Writes the EXIF directories of the camera and of GPS, and then the picture.
fn directories<K: TiffKind>(
    encoder: &mut TiffEncoder<BufWriter<File>, K>,
    layout: Layout,
    tags: &Tags,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
) -> Result<()> {
    let said = tags.exif.as_deref().and_then(Exif::parse).unwrap_or_default();
    let mut described = said.main;
    described.retain(|field| exif::DESCRIBING.contains(&field.tag));
    for (tag, fields) in [(exif::CAMERA, said.camera), (exif::PLACE, said.place)] {
        if fields.is_empty() {
            continue;
        }
        let mut directory = encoder.extra_directory().map_err(tiff_error)?;
        put(&mut directory, &fields)?;
        let place = directory.finish_with_offsets().map_err(tiff_error)?.pointer.0;
        let place = u32::try_from(place).expect("it is at the beginning of the file");
        described.push(Field { tag, kind: 4, data: place.to_le_bytes().to_vec() });
    }
    let mut image = encoder.image_directory().map_err(tiff_error)?;
    put(&mut image, &described)?;
    strips(image, layout, tags, rows)
}

/// Writes fields in the byte order of the machine, which is that of the file.
fn put<K: TiffKind>(
    directory: &mut DirectoryEncoder<'_, BufWriter<File>, K>,
    fields: &[Field],
) -> Result<()> {
    for Field { tag, kind, data } in fields {
        let (Some(kind), Some((number, _))) = (Type::from_u16(*kind), exif::bytes_of(*kind)) else {
            continue;
        };
        let mut data = data.clone();
        if cfg!(target_endian = "big") {
            data.chunks_exact_mut(number).for_each(<[u8]>::reverse);
        }
        let entry = directory.write_entry_bytes(kind, &data).map_err(tiff_error)?;
        let mut one = tiff::Directory::empty();
        one.extend([(Tag::from_u16_exhaustive(*tag), entry)]);
        directory.extend_from(&one);
    }
    Ok(())
}

/// Writes a TIFF's rows, compressed strip by strip, and the fields that describe them.
fn strips<K: TiffKind>(
    mut image: DirectoryEncoder<'_, BufWriter<File>, K>,
    layout: Layout,
    tags: &Tags,
    rows: &mut dyn FnMut(&mut Vec<f32>) -> Result<()>,
) -> Result<()> {
    let (deep, height) = (layout.depth != Depth::Eight, layout.size.height);
    let (mut row, mut strip) = (Vec::new(), ZlibEncoder::new(Vec::new(), Compression::fast()));
    let (mut offsets, mut lengths) = (Vec::new(), Vec::new());
    for y in 1..=height {
        rows(&mut row)?;
        for value in &row {
            if deep {
                strip.write_all(&sixteen(*value).to_ne_bytes())?;
            } else {
                strip.write_all(&[eight(*value)])?;
            }
        }
        if y % STRIP_ROWS == 0 || y == height {
            let packed = strip.reset(Vec::new())?;
            let offset = image.write_data(packed.as_slice()).map_err(tiff_error)?;
            offsets.push(K::convert_offset(offset).map_err(tiff_error)?);
            lengths.push(K::convert_offset(packed.len() as u64).map_err(tiff_error)?);
        }
    }
    let samples = u16::try_from(layout.channels()).expect("at most four");
    let bits = vec![if deep { 16_u16 } else { 8 }; layout.channels()];
    let mut write = || {
        image.write_tag(Tag::ImageWidth, layout.size.width)?;
        image.write_tag(Tag::ImageLength, height)?;
        image.write_tag(Tag::BitsPerSample, bits.as_slice())?;
        image.write_tag(Tag::Compression, CompressionMethod::Deflate.to_u16())?;
        let photometric: u16 = if layout.colours == 1 { 1 } else { 2 };
        image.write_tag(Tag::PhotometricInterpretation, photometric)?;
        image.write_tag(Tag::SamplesPerPixel, samples)?;
        image.write_tag(Tag::RowsPerStrip, STRIP_ROWS.min(height))?;
        image.write_tag(Tag::StripOffsets, K::convert_slice(&offsets))?;
        image.write_tag(Tag::StripByteCounts, K::convert_slice(&lengths))?;
        if layout.alpha {
            image.write_tag(Tag::ExtraSamples, ExtraSamples::UnassociatedAlpha.to_u16())?;
        }
        if let Some(icc) = &tags.icc {
            image.write_tag(Tag::IccProfile, icc.as_slice())?;
        }
        for (tag, bytes) in [(700, &tags.xmp), (33723, &tags.iptc)] {
            if let Some(bytes) = bytes {
                image.write_tag(Tag::from_u16_exhaustive(tag), bytes.as_slice())?;
            }
        }
        if let Some(density) = tags.density {
            for (tag, value) in [(Tag::XResolution, density.x), (Tag::YResolution, density.y)] {
                let [n, d] = Density::fraction(value);
                image.write_tag(tag, Rational { n, d })?;
            }
            image.write_tag(Tag::ResolutionUnit, ResolutionUnit::Inch.to_u16())?;
        }
        Ok(())
    };
    write().map_err(tiff_error)?;
    image.finish().map_err(tiff_error)
}
