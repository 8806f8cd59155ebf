//! What a picture's file says beside its pixels.

use super::exif::{self, Exif};
use super::openexr;
use pictor_tasks::body::ImageFormat;
use pictor_tasks::units::Resolution;

/// Larger texts and blocks are left out: files come from strangers.
pub(super) const TAG_BYTES_MAX: usize = 16 << 20;
/// What a segment of a JPEG holds, with its length and the longest name that comes first.
const SEGMENT_BYTES_MAX: usize = 65_535 - 2 - 40;

/// Pixels to an inch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Density {
    /// Across.
    pub(super) x: f64,
    /// Down.
    pub(super) y: f64,
}

impl Density {
    /// Numbers that can be meant.
    pub(super) fn of(x: f64, y: f64) -> Option<Self> {
        // What was counted in metres was rounded to whole pixels: by half of one, and that is 0.0127 to an inch.
        let exact = |value: f64| {
            let whole = value.round();
            if (value - whole).abs() < 0.013 { whole } else { value }
        };
        let meant = |value: f64| (0.01..=1e6).contains(&value);
        (meant(x) && meant(y)).then(|| Self { x: exact(x), y: exact(y) })
    }

    /// A number as a fraction.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a million"
    )]
    pub(super) fn fraction(value: f64) -> [u32; 2] {
        let parts = if value.fract() == 0.0 { 1 } else { 1000 };
        [(value * f64::from(parts)).round() as u32, parts]
    }
}

/// What a picture's file says beside its pixels; carried into the result as far as its format can.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    /// The ICC profile of the colours.
    pub icc: Option<Vec<u8>>,
    /// EXIF, with the orientation taken out.
    pub exif: Option<Vec<u8>>,
    /// XMP: a text in XML.
    pub xmp: Option<Vec<u8>>,
    /// IPTC: the records that newspapers use.
    pub iptc: Option<Vec<u8>>,
    /// Pixels to an inch.
    pub density: Option<Density>,
    /// Of a PNG: its texts and what it says of its colours.
    pub png: Option<Box<png::Info<'static>>>,
    /// Of an EXR: the attributes of the picture and of the layer that is read.
    pub exr: Option<Box<openexr::Attributes>>,
}

impl Tags {
    /// What fits into a file of this format, with pixels of this size told anew. What does not fit is told in `notes`.
    #[must_use]
    pub fn fitted(&self, format: ImageFormat, size: Resolution, notes: &mut Vec<String>) -> Self {
        let mut tags = self.clone();
        if let Some(exif) = &mut tags.exif {
            exif::tell_anew(exif, size);
        }
        tags.xmp = tags.xmp.map(|xmp| told_anew(xmp, size));
        if format == ImageFormat::Webp
            && let Some(density) = tags.density
        {
            // It has no other place for it.
            let exif = tags.exif.as_deref().map_or_else(|| Some(Exif::default()), Exif::parse);
            if let Some(mut exif) = exif.filter(|exif| exif.density().is_none()) {
                exif.set_density(density);
                tags.exif = exif.to_bytes();
            }
        }
        let most = if format == ImageFormat::Jpeg { SEGMENT_BYTES_MAX } else { TAG_BYTES_MAX };
        for (name, tag) in
            [("EXIF", &mut tags.exif), ("XMP", &mut tags.xmp), ("IPTC", &mut tags.iptc)]
        {
            if tag.as_ref().is_some_and(|tag| tag.len() > most) {
                *tag = None;
                notes.push(format!(
                    "the {name} metadata is left out: it is larger than {most} bytes"
                ));
            }
        }
        tags
    }

    /// Of a picture that lay on its side.
    pub(super) fn turned(mut self) -> Self {
        self.density = self.density.map(|Density { x, y }| Density { x: y, y: x });
        self
    }

    /// The density, unless it is known, from EXIF.
    pub(super) fn with_density_of_exif(mut self) -> Self {
        let told = || Exif::parse(self.exif.as_deref()?)?.density();
        self.density = self.density.or_else(told);
        self
    }
}

/// XMP in which the size is that of the picture, which is upright.
fn told_anew(xmp: Vec<u8>, size: Resolution) -> Vec<u8> {
    let mut text = match String::from_utf8(xmp) {
        Ok(text) => text,
        Err(other) => return other.into_bytes(),
    };
    let (width, height) = (size.width.to_string(), size.height.to_string());
    for (name, value) in [
        ("tiff:ImageWidth", &*width),
        ("exif:PixelXDimension", &*width),
        ("tiff:ImageLength", &*height),
        ("exif:PixelYDimension", &*height),
        ("tiff:Orientation", "1"),
    ] {
        for (before, end) in [("=\"", '"'), ("='", '\''), (">", '<')] {
            let before = format!("{name}{before}");
            let mut from = 0;
            while let Some(found) = text[from..].find(&before) {
                let start = from + found + before.len();
                let length = text[start..].find(end).unwrap_or(0);
                let digits =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                if digits(text[start..start + length].trim()) {
                    text.replace_range(start..start + length, value);
                }
                from = start;
            }
        }
    }
    text.into_bytes()
}
