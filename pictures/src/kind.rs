//! What kind of picture a file is.

use super::PictureError;
use super::read::unusable;
use pictor_tasks::media::picture_extensions;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

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

/// Whether a file is a HEIC or AVIF: a picture in a container that is also used for videos.
pub fn is_container(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(12).read_to_end(&mut head));
    read.is_ok() && head.get(4..8) == Some(b"ftyp") && is_brand(&head[8..])
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
