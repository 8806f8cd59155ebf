//! The metadata of a PNG.

use super::Tags;
use super::read::{PngReader, without_orientation};
use super::tags::{Density, TAG_BYTES_MAX};
use png::chunk::{self, ChunkType};
use png::text_metadata::{ITXtChunk, ZTXtChunk};
use png::{PixelDimensions, ScaledFloat, SourceChromaticities, Unit};

/// The keywords of the texts that hold XMP and IPTC.
const XMP: &str = "XML:com.adobe.xmp";
const IPTC: &str = "Raw profile type iptc";
const INCH: f64 = 0.0254;

/// Reads the metadata ahead of the pixels.
pub(super) fn read(reader: &PngReader) -> Tags {
    let mut info = reader.info().clone();
    let xmp = info.utf8_text.iter_mut().find(|text| text.keyword == XMP).and_then(|text| {
        text.decompress_text_with_limit(TAG_BYTES_MAX).ok()?;
        Some(text.get_text().ok()?.into_bytes())
    });
    let packed = info.compressed_latin1_text.iter_mut().find(|text| text.keyword == IPTC);
    let packed = packed.and_then(|text| {
        text.decompress_text_with_limit(TAG_BYTES_MAX).ok()?;
        text.get_text().ok()
    });
    let plain = info.uncompressed_latin1_text.iter().find(|text| text.keyword == IPTC);
    let iptc = packed.or_else(|| Some(plain?.text.clone())).and_then(|text| profile(&text));
    if xmp.is_some() {
        info.utf8_text.retain(|text| text.keyword != XMP);
    }
    if iptc.is_some() {
        info.compressed_latin1_text.retain(|text| text.keyword != IPTC);
        info.uncompressed_latin1_text.retain(|text| text.keyword != IPTC);
    }
    let density = info.pixel_dims.filter(|dims| dims.unit == Unit::Meter);
    let density =
        density.and_then(|d| Density::of(f64::from(d.xppu) * INCH, f64::from(d.yppu) * INCH));
    let tags = Tags {
        icc: info.icc_profile.as_deref().map(<[u8]>::to_vec),
        exif: info.exif_metadata.as_deref().map(without_orientation),
        xmp,
        iptc,
        density,
        png: Some(Box::new(info)),
        exr: None,
    };
    tags.with_density_of_exif()
}

/// Writes metadata ahead of the pixels of a file.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most a million")]
pub(super) fn put(tags: &Tags, info: &mut png::Info<'static>) {
    info.icc_profile = tags.icc.clone().map(Into::into);
    info.exif_metadata = tags.exif.clone().map(Into::into);
    if let Some(source) = tags.png.as_deref() {
        info.srgb = source.srgb;
        info.source_gamma = source.gama_chunk;
        info.source_chromaticities = source.chrm_chunk;
        info.uncompressed_latin1_text.clone_from(&source.uncompressed_latin1_text);
        info.compressed_latin1_text.clone_from(&source.compressed_latin1_text);
        info.utf8_text.clone_from(&source.utf8_text);
    }
    if let Some(Density { x, y }) = tags.density {
        let [xppu, yppu] = [x, y].map(|to_inch| (to_inch / INCH).round() as u32);
        info.pixel_dims = Some(PixelDimensions { xppu, yppu, unit: Unit::Meter });
    }
    if let Some(Ok(xmp)) = tags.xmp.clone().map(String::from_utf8) {
        info.utf8_text.push(ITXtChunk::new(XMP, xmp));
    }
    if let Some(iptc) = &tags.iptc {
        info.compressed_latin1_text.push(ZTXtChunk::new(IPTC, text(iptc)));
    }
}

/// What a PNG says of its colours and the encoder does not write: the names of chunks and what they contain.
pub(super) fn colours(tags: &Tags) -> Vec<(ChunkType, Vec<u8>)> {
    let Some(info) = tags.png.as_deref() else { return Vec::new() };
    let points = info.coding_independent_code_points.map(|p| {
        let all = [p.color_primaries, p.transfer_function, p.matrix_coefficients];
        (chunk::cICP, [all.as_slice(), &[u8::from(p.is_video_full_range_image)]].concat())
    });
    let mastered = info.mastering_display_color_volume.map(|volume| {
        let SourceChromaticities { white, red, green, blue } = volume.chromaticities;
        // In units of 0.00002, of which the decoder makes 0.00001.
        let half = |number: ScaledFloat| u16::try_from(number.into_scaled() / 2).unwrap_or(0);
        let places = [red, green, blue, white].into_iter().flat_map(|(x, y)| [x, y]);
        let mut data: Vec<u8> = places.flat_map(|number| half(number).to_be_bytes()).collect();
        data.extend(volume.max_luminance.to_be_bytes());
        data.extend(volume.min_luminance.to_be_bytes());
        (chunk::mDCV, data)
    });
    let light = info.content_light_level.map(|light| {
        let levels = [light.max_content_light_level, light.max_frame_average_light_level];
        (chunk::cLLI, levels.map(u32::to_be_bytes).concat())
    });
    points.into_iter().chain(mastered).chain(light).collect()
}

/// Whether a PNG says that its colours are others than those of sRGB, and does so in a way that only PNG has.
pub(super) fn has_other_colours(info: &png::Info<'_>) -> bool {
    if let Some(points) = info.coding_independent_code_points {
        // The primaries of BT.709 with the transfer function of sRGB.
        return (points.color_primaries, points.transfer_function) != (1, 13);
    }
    // A profile is kept, and takes precedence.
    if info.srgb.is_some() || info.icc_profile.is_some() {
        return false;
    }
    let gamma = info.gama_chunk.is_some_and(|gamma| gamma.into_scaled().abs_diff(45_455) > 100);
    gamma
        || info.chrm_chunk.is_some_and(|places| {
            let SourceChromaticities { white, red, green, blue } = places;
            let found = [white, red, green, blue].into_iter().flat_map(|(x, y)| [x, y]);
            let usual = [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000];
            found.zip(usual).any(|(found, usual)| found.into_scaled().abs_diff(usual) > 100)
        })
}

/// The bytes of a profile that is stored as text: its name, its length, and hexadecimal digits.
fn profile(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.trim_start().splitn(3, '\n');
    let (_, length, digits) = (lines.next()?, lines.next()?, lines.next()?);
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks_exact(2).map(pair).collect();
    let bytes = bytes.filter(|bytes| Some(bytes.len()) == length.trim().parse().ok())?;
    // Some programs write the Photoshop resource that contains it.
    super::jpeg::iptc_of(&bytes).or(Some(bytes))
}

fn text(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = format!("\niptc\n{:8}\n", bytes.len());
    for line in bytes.chunks(36) {
        for byte in line {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}
