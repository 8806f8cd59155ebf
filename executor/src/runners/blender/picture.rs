//! Checks whether a picture file is complete and has the right size.

use crate::ground::failure::failure;
use pictor_tasks::body::PictureFormat;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::units::Resolution;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Checks that the picture exists and has exactly the size `expected`. A PNG is decoded to its last row; of JPEG and
/// TIFF only the headers are read.
pub(super) fn check(
    path: &Path,
    format: PictureFormat,
    expected: Resolution,
) -> Result<(), Failure> {
    let size = match format {
        PictureFormat::Png => png_size(path),
        PictureFormat::Jpeg => std::fs::read(path).map_err(|e| e.to_string()).and_then(|bytes| {
            jpeg_size(&bytes).ok_or_else(|| "it is not a whole JPEG file".into())
        }),
        PictureFormat::Tiff => std::fs::read(path).map_err(|e| e.to_string()).and_then(|bytes| {
            tiff_size(&bytes).ok_or_else(|| "it is not a whole TIFF file".into())
        }),
    };
    let wrong = match size {
        Ok(size) if size == expected => return Ok(()),
        Ok(size) => format!("is {size} pixels, not {expected}"),
        Err(error) => format!("cannot be decoded: {error}"),
    };
    Err(failure(FailureKind::BadOutput, format!("{} {wrong}.", path.display())))
}

fn png_size(path: &Path) -> Result<Resolution, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut reader =
        png::Decoder::new(BufReader::new(file)).read_info().map_err(|error| error.to_string())?;
    let size = Resolution { width: reader.info().width, height: reader.info().height };
    let mut rows = 0;
    while reader.next_row().map_err(|error| error.to_string())?.is_some() {
        rows += 1;
    }
    reader.finish().map_err(|error| error.to_string())?;
    if rows < size.height { Err(format!("it has {rows} rows")) } else { Ok(size) }
}

/// The size from the frame header; the file must have a JPEG's end marker.
fn jpeg_size(bytes: &[u8]) -> Option<Resolution> {
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    bytes.ends_with(&[0xff, 0xd9]).then_some(())?;
    loop {
        let [0xff, marker, high, low, ..] = *rest else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // A start of frame, but not one of the tables that share its range of numbers.
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            let number = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
            let (height, width) = (number(5)?, number(7)?);
            return Some(Resolution { width: width.into(), height: height.into() });
        }
        rest = rest.get(2 + length..)?;
    }
}

/// The size from the first directory, in either byte order.
fn tiff_size(bytes: &[u8]) -> Option<Resolution> {
    let little = match bytes.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, length: usize| {
        let digits = bytes.get(at..at + length)?.iter();
        let add = |sum: usize, digit: &u8| sum << 8 | usize::from(*digit);
        Some(if little { digits.rev().fold(0, add) } else { digits.fold(0, add) })
    };
    let directory = number(4, 4)?;
    let mut size = (None, None);
    for entry in 0..number(directory, 2)? {
        let at = directory + 2 + entry * 12;
        // A short value occupies the first half of its field.
        let length = if number(at + 2, 2)? == 3 { 2 } else { 4 };
        match number(at, 2)? {
            256 => size.0 = number(at + 8, length),
            257 => size.1 = number(at + 8, length),
            _ => {}
        }
    }
    let (width, height) = (u32::try_from(size.0?).ok()?, u32::try_from(size.1?).ok()?);
    Some(Resolution { width, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_picture_of_the_right_size_passes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let mut bytes = Vec::new();
        let mut png = png::Encoder::new(&mut bytes, 40, 30);
        png.set_color(png::ColorType::Rgb);
        let noise: Vec<u8> = (0..40 * 30 * 3_u32).map(|n| (n * n % 251).to_le_bytes()[0]).collect();
        png.write_header().unwrap().write_image_data(&noise).unwrap();
        let size = "40x30".parse().unwrap();
        let reason = |format, bytes: &[u8], size| {
            std::fs::write(&path, bytes).unwrap();
            check(&path, format, size).map_err(|failure| failure.message)
        };
        assert_eq!(reason(PictureFormat::Png, &bytes, size), Ok(()));
        let wrong = reason(PictureFormat::Png, &bytes, "40x31".parse().unwrap()).unwrap_err();
        assert!(wrong.contains("is 40x30 pixels, not 40x31"), "{wrong}");
        for end in [0, 7, 40, bytes.len() / 2] {
            let wrong = reason(PictureFormat::Png, &bytes[..end], size).unwrap_err();
            assert!(wrong.contains("cannot be decoded"), "{end}: {wrong}");
        }
        for format in [PictureFormat::Jpeg, PictureFormat::Tiff] {
            let wrong = reason(format, &bytes, size).unwrap_err();
            assert!(wrong.contains("it is not a whole"), "{wrong}");
        }
    }
}
