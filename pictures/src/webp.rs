//! The colour profile, EXIF and XMP of a WebP file, which ffmpeg does not write: chunks of its container.

use super::read::unusable;
use super::{PictureError, Tags};
use std::path::Path;

const PROFILE: u8 = 0x20;
const ALPHA: u8 = 0x10;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

/// Adds the tags to a WebP file.
pub fn add_tags(path: &Path, tags: &Tags) -> Result<(), PictureError> {
    if tags.icc.is_none() && tags.exif.is_none() && tags.xmp.is_none() {
        return Ok(());
    }
    let file = std::fs::read(path)?;
    let tagged = with_tags(&file, tags).ok_or_else(|| unusable("is no WebP picture"))?;
    Ok(std::fs::write(path, tagged)?)
}

/// The file with an extended header, the profile before the pixels and EXIF behind them.
fn with_tags(file: &[u8], tags: &Tags) -> Option<Vec<u8>> {
    let size = image_size(file)?;
    let mut flags = 0;
    let mut pixels = Vec::new();
    let mut rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WEBP")?;
    while let Some((name, after)) = rest.split_at_checked(4).filter(|(name, _)| name.len() == 4) {
        let (length, after) = after.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let content = after.get(..length)?;
        match name {
            b"VP8X" => flags |= content.first()? & ALPHA,
            b"ALPH" => flags |= ALPHA,
            // The fifth byte of a lossless picture holds a flag for transparency.
            b"VP8L" => flags |= if content.get(4)? & 0x10 == 0 { 0 } else { ALPHA },
            _ => {}
        }
        if matches!(name, b"ALPH" | b"VP8 " | b"VP8L") {
            chunk(&mut pixels, name.try_into().ok()?, content);
        }
        rest = after.get(length.next_multiple_of(2)..).unwrap_or_default();
    }
    flags |= if tags.icc.is_some() { PROFILE } else { 0 };
    flags |= if tags.exif.is_some() { EXIF } else { 0 };
    flags |= if tags.xmp.is_some() { XMP } else { 0 };
    let mut header = vec![flags, 0, 0, 0];
    for length in [size.0, size.1] {
        header.extend(&(length - 1).to_le_bytes()[..3]);
    }
    let mut body = b"WEBP".to_vec();
    chunk(&mut body, *b"VP8X", &header);
    if let Some(icc) = &tags.icc {
        chunk(&mut body, *b"ICCP", icc);
    }
    body.extend(pixels);
    if let Some(exif) = &tags.exif {
        chunk(&mut body, *b"EXIF", exif);
    }
    if let Some(xmp) = &tags.xmp {
        chunk(&mut body, *b"XMP ", xmp);
    }
    let mut file = b"RIFF".to_vec();
    file.extend(u32::try_from(body.len()).ok()?.to_le_bytes());
    file.extend(body);
    Some(file)
}

fn chunk(to: &mut Vec<u8>, name: [u8; 4], content: &[u8]) {
    to.extend(name);
    to.extend(u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend(content);
    if content.len() % 2 == 1 {
        to.push(0);
    }
}

fn image_size(file: &[u8]) -> Option<(u32, u32)> {
    use image::ImageDecoder as _;
    let decoder = image::codecs::webp::WebPDecoder::new(std::io::Cursor::new(file)).ok()?;
    Some(decoder.dimensions())
}
