//! The metadata of a PNG.

use super::Tags;
use super::read::{PngReader, without_orientation};
use super::tags::{Density, TAG_BYTES_MAX};
use png::text_metadata::{ITXtChunk, ZTXtChunk};
use png::{PixelDimensions, Unit};

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
        info.gama_chunk = source.gama_chunk;
        info.chrm_chunk = source.chrm_chunk;
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
