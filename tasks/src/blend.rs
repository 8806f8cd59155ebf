//! Reads from the first bytes of a .blend file which Blender saved it. An older Blender may crash on the scene, so this
//! is determined before any Blender is started.

use flate2::read::GzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;

/// How many of a file's first bytes are read: the header of a compressed file is within the first Zstandard block,
/// which has at most half of this.
pub const HEAD_BYTES: u64 = 256 << 10;
/// The length of the longest header, decompressed.
const HEADER_BYTES: usize = 17;
/// The largest window, in bytes, that a compressed file may require. Blender's own files require 2 MiB.
const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// A version of Blender as stored in its files: 3.4, 2.79, 5.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Release {
    /// The number before the dot, such as 3 in `3.4`.
    pub major: u32,
    /// The number after the dot, such as 4 in `3.4`.
    pub minor: u32,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Release {
    /// The release that a full version such as `4.5.15` belongs to.
    pub fn of(version: &str) -> Option<Self> {
        let mut parts = version.split('.').map(|part| part.parse().ok());
        Some(Self { major: parts.next()??, minor: parts.next()?? })
    }

    /// The release that saved a file, by the file's first [`HEAD_BYTES`]. `None` if it is not a .blend file.
    pub fn that_saved(head: &[u8]) -> Option<Self> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let limit = HEADER_BYTES as u64;
        let read = match head {
            [0x1f, 0x8b, ..] => GzDecoder::new(head).take(limit).read_to_end(&mut header),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = FrameDecoder::new();
                decoder.set_max_window_size(WINDOW_BYTES_MAX);
                let stream = StreamingDecoder::new_with_decoder(head, decoder).ok()?;
                stream.take(limit).read_to_end(&mut header)
            }
            _ => head.take(limit).read_to_end(&mut header),
        };
        // Data that cannot be decompressed yields no header, or a short one.
        read.ok().and_then(|_| in_header(&header))
    }
}

/// `BLENDER-v304`: the size of pointers, the byte order, the version. Since 5.0 `BLENDER17-01v0500`: the header's size,
/// the format's version, the version.
fn in_header(header: &[u8]) -> Option<Release> {
    let rest = header.strip_prefix(b"BLENDER")?;
    let number = |digits: &[u8]| {
        let text = std::str::from_utf8(digits).ok()?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok())?
    };
    let version = match rest {
        [b'-' | b'_', b'v' | b'V', version @ ..] => number(version.get(..3)?)?,
        [a, b, b'-', c, d, b'v', version @ ..] => {
            number(&[*a, *b, *c, *d])?;
            number(version.get(..4)?)?
        }
        _ => return None,
    };
    Some(Release { major: version / 100, minor: version % 100 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write as _;

    fn saved(head: &[u8]) -> Option<String> {
        Release::that_saved(head).map(|release| release.to_string())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn every_header_tells_its_version_packed_or_not() {
        let rest = b"REND\0\0\0\0and all that follows".repeat(20_000);
        for (header, version) in [
            ("BLENDER-v304", "3.4"),
            ("BLENDER_V279", "2.79"),
            ("BLENDER_v280", "2.80"),
            ("BLENDER-v405", "4.5"),
            ("BLENDER17-01v0500", "5.0"),
            ("BLENDER17-01v1203", "12.3"),
        ] {
            let whole = [header.as_bytes(), &rest].concat();
            for packed in [whole.clone(), gzip(&whole), zstd(&whole)] {
                let limit = packed.len().min(usize::try_from(HEAD_BYTES).unwrap());
                assert_eq!(saved(&packed[..limit]).as_deref(), Some(version), "{header}");
            }
        }
    }

    #[test]
    fn what_is_no_scene_tells_nothing() {
        let asks_for_much = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0, 0, 0, 0];
        for other in [
            &b""[..],
            b"no scene at all",
            b"BLENDER",
            b"BLENDER-v30",
            b"BLENDER-v3.4",
            b"BLENDER-v+04",
            b"BLENDER17-01v050",
            b"BLENDER1a-01v0500",
            &[0x1f, 0x8b],
            &[0x28, 0xb5, 0x2f, 0xfd],
            &asks_for_much,
            &gzip(b"BLENDER")[..],
            &gzip(b"BLENDER-v304")[..14],
            &zstd(b"BLEND"),
        ] {
            assert_eq!(saved(other), None, "{other:?}");
        }
    }

    #[test]
    fn releases_are_in_order_and_are_found_in_whole_versions() {
        let of = |version| Release::of(version).unwrap();
        assert!(
            of("3.4.1") < of("4.2.23") && of("4.2.23") < of("4.10") && of("4.10") < of("5.0.1")
        );
        assert_eq!([Release::of("5"), Release::of("x.1"), Release::of("")], [None; 3]);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_scene_and_no_panic(
            start in prop::sample::select(vec![&[0x1f, 0x8b, 8][..], &[0x28, 0xb5, 0x2f, 0xfd], b"BLENDER"]),
            rest in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let _ = saved(&[start, &rest].concat());
        }

        #[test]
        fn a_damaged_scene_is_no_panic(at in 0usize..4000, value in any::<u8>(), cut in 0usize..4000) {
            let whole = [&b"BLENDER-v304"[..], &(0u32..999).flat_map(u32::to_le_bytes).collect::<Vec<_>>()].concat();
            for mut packed in [gzip(&whole), zstd(&whole)] {
                if let Some(byte) = packed.get_mut(at) {
                    *byte = value;
                }
                packed.truncate(cut);
                let _ = saved(&packed);
            }
        }
    }
}
