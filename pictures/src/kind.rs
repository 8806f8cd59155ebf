//! What kind of picture a file is.

use super::PictureError;
use super::read::{animated, unusable};
use pictor_tasks::media::picture_extensions;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// The most bytes that are read of a description of tracks.
const TRACKS_MAX: u64 = 1 << 20;

/// The supported kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    Webp,
    Tiff,
    Exr,
    Gif,
    Bmp,
    Tga,
}

impl Kind {
    /// The kind by the first bytes, as file extensions are not reliable.
    pub(super) fn of(path: &Path) -> Result<Self, PictureError> {
        let mut head = Vec::new();
        File::open(path)?.take(18).read_to_end(&mut head)?;
        Ok(match head.as_slice() {
            [0x89, b'P', b'N', b'G', ..] => Self::Png,
            [0xff, 0xd8, ..] => Self::Jpeg,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::Webp,
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Self::Tiff,
            [0x76, 0x2f, 0x31, 0x01, ..] => Self::Exr,
            [b'G', b'I', b'F', b'8', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            [] => return Err(unusable("is empty")),
            [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] if is_brand(brand) => {
                if is_animated(path)? {
                    return Err(animated());
                }
                return Err(unusable(
                    "is a HEIC or AVIF picture that ffmpeg does not read whole here: convert it first, for example \
                     with `heif-convert FILE picture.png`",
                ));
            }
            head if is_tga(head) => Self::Tga,
            _ => {
                let kinds = picture_extensions();
                return Err(unusable(format!("is no picture of a kind that is read ({kinds})")));
            }
        })
    }
}

/// Whether a file is a HEIC or AVIF of one picture, in a container that is also used for videos.
pub fn is_container(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(12).read_to_end(&mut head));
    let is_picture = head.get(4..8) == Some(b"ftyp") && is_brand(&head[8..]);
    read.is_ok() && is_picture && is_animated(path).is_ok_and(|animated| !animated)
}

/// Whether such a container holds a film: a track of more than one picture.
fn is_animated(path: &Path) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let mut at = 0_u64;
    while at + 8 <= end {
        let mut head = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        let read = (&file).take(16).read(&mut head)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let length = match number(&head[..4]) {
            0 => end - at,
            1 if read == 16 => number(&head[8..]),
            length => length,
        };
        if &head[4..8] == b"moov" {
            let mut tracks = Vec::new();
            file.seek(SeekFrom::Start(at))?;
            (&file).take(length.min(TRACKS_MAX)).read_to_end(&mut tracks)?;
            // The table of sizes has a version, one size for all, and the number of samples.
            let mut counts = tracks.windows(16).filter(|bytes| bytes.starts_with(b"stsz"));
            return Ok(
                counts.clone().next().is_none() || counts.any(|table| number(&table[12..]) > 1)
            );
        }
        at = at.saturating_add(length.max(8));
    }
    Ok(false)
}

fn is_brand(brand: &[u8]) -> bool {
    let brands = [b"heic", b"heix", b"hevc", b"heif", b"mif1", b"msf1", b"avif", b"avis"];
    brands.iter().any(|known| brand.starts_with(*known))
}

/// Whether these are the first bytes of a TGA, which has no magic number.
fn is_tga(head: &[u8]) -> bool {
    let [_, map, kind, _, _, _, _, map_bits, _, _, _, _, w0, w1, h0, h1, bits, _] = *head else {
        return false;
    };
    let known = match kind {
        1 | 9 => map == 1 && bits == 8 && matches!(map_bits, 15 | 16 | 24 | 32),
        2 | 10 => map < 2 && matches!(bits, 15 | 16 | 24 | 32),
        3 | 11 => map < 2 && matches!(bits, 8 | 16),
        _ => false,
    };
    known && (w0, w1) != (0, 0) && (h0, h1) != (0, 0)
}
