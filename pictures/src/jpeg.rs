//! The segments of a JPEG file, which precede its pixels.

use super::tags::{Density, TAG_BYTES_MAX, Tags};
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const PHOTOSHOP: &[u8] = b"Photoshop 3.0\0";
/// The Photoshop resource that holds IPTC.
const IPTC: u16 = 0x0404;

/// What a file holds ahead of its pixels.
#[derive(Default)]
pub(super) struct JpegHeader {
    /// The number of colours, from the frame header.
    pub(super) components: Option<u8>,
    pub(super) xmp: Option<Vec<u8>>,
    pub(super) iptc: Option<Vec<u8>>,
    pub(super) density: Option<Density>,
}

/// Reads the segments up to the pixels. Damaged ones are left out: the damage is reported when the pixels are read.
pub(super) fn header(path: &Path) -> io::Result<JpegHeader> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(2))?;
    let (mut header, mut mark) = (JpegHeader::default(), [0; 4]);
    let mut photoshop = Vec::new();
    while file.read_exact(&mut mark).is_ok() && mark[0] == 0xff {
        if mark[1] == 0xff {
            // The marker begins one byte later.
            file.seek_relative(-3)?;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([mark[2], mark[3]])).saturating_sub(2);
        let mut segment = vec![0; length];
        if mark[1] == 0xda || file.read_exact(&mut segment).is_err() {
            break;
        }
        match mark[1] {
            0xc0..=0xcf if !matches!(mark[1], 0xc4 | 0xc8 | 0xcc) => {
                header.components = header.components.or(segment.get(5).copied());
            }
            0xe0 => header.density = header.density.or_else(|| density(&segment)),
            0xe1 => {
                let xmp = segment.strip_prefix(XMP).map(<[u8]>::to_vec);
                header.xmp = header.xmp.take().or(xmp);
            }
            0xed if photoshop.len() < TAG_BYTES_MAX => {
                photoshop.extend(segment.strip_prefix(PHOTOSHOP).unwrap_or_default());
            }
            _ => {}
        }
    }
    header.iptc = iptc_of(&photoshop);
    Ok(header)
}

/// The density in a JFIF header.
fn density(segment: &[u8]) -> Option<Density> {
    let header = segment.strip_prefix(b"JFIF\0")?.get(2..7)?;
    let to_inch = match header[0] {
        1 => 1.0,
        2 => 2.54,
        _ => return None,
    };
    let number = |at: usize| f64::from(u16::from_be_bytes([header[at], header[at + 1]])) * to_inch;
    Density::of(number(1), number(3))
}

/// Finds IPTC among the resources of Photoshop.
pub(super) fn iptc_of(mut resources: &[u8]) -> Option<Vec<u8>> {
    loop {
        let rest = resources.strip_prefix(b"8BIM")?;
        let kind = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
        // A name, whose first byte is its length, padded to an even length.
        let name = (usize::from(*rest.get(2)?) + 1).next_multiple_of(2);
        let rest = rest.get(2 + name..)?;
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let rest = &rest[4..];
        let content = rest.get(..length)?;
        if kind == IPTC {
            return Some(content.to_vec());
        }
        resources = rest.get(length.next_multiple_of(2)..)?;
    }
}

/// IPTC wrapped as the only resource of Photoshop.
fn resource(iptc: &[u8]) -> Vec<u8> {
    let mut bytes = b"8BIM".to_vec();
    bytes.extend(IPTC.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(u32::try_from(iptc.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(iptc);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

/// The segments that the encoder does not write itself; they go behind its first ones.
pub(super) fn segments(tags: &Tags) -> Vec<u8> {
    let xmp = tags.xmp.as_ref().map(|xmp| (0xe1, [XMP, xmp].concat()));
    let iptc = tags.iptc.as_ref().map(|iptc| (0xed, [PHOTOSHOP, &resource(iptc)].concat()));
    let mut bytes = Vec::new();
    for (mark, content) in xmp.into_iter().chain(iptc) {
        let Ok(length) = u16::try_from(content.len() + 2) else { continue };
        bytes.extend([0xff, mark]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(content);
    }
    bytes
}

/// The offset at which segments may be inserted into an encoded picture: behind the header and EXIF.
pub(super) fn place(encoded: &[u8]) -> usize {
    let mut at = 2;
    while let Some([0xff, 0xe0 | 0xe1, high, low]) = encoded.get(at..at + 4) {
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    at.min(encoded.len())
}
