//! The metadata of a picture's file.

use super::exif::{self, Exif};
use super::{openexr, png_tags};
use pictor_tasks::body::ImageFormat;
use pictor_tasks::units::Resolution;

/// Larger texts and blocks are left out, as files are not trusted.
pub(super) const TAG_BYTES_MAX: usize = 16 << 20;
/// The capacity of a JPEG segment, after its length and the longest name that precedes the data.
const SEGMENT_BYTES_MAX: usize = 65_535 - 2 - 40;

/// Pixels per inch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Density {
    pub(super) x: f64,
    pub(super) y: f64,
}

impl Density {
    /// Returns `None` for numbers that cannot be meant.
    pub(super) fn of(x: f64, y: f64) -> Option<Self> {
        // A count per metre was rounded to whole pixels, by up to one half, which is 0.0127 per inch.
        let exact = |value: f64| {
            let whole = value.round();
            if (value - whole).abs() < 0.013 { whole } else { value }
        };
        let meant = |value: f64| (0.01..=1e6).contains(&value);
        (meant(x) && meant(y)).then(|| Self { x: exact(x), y: exact(y) })
    }

    /// Approximates a number by a fraction.
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

/// The metadata of a picture's file; kept in the result as far as its format allows.
#[derive(Clone, Debug, Default)]
pub struct Tags {
    /// The ICC profile of the colours.
    pub icc: Option<Vec<u8>>,
    /// EXIF, with the orientation removed.
    pub exif: Option<Vec<u8>>,
    /// XMP: a text in XML.
    pub xmp: Option<Vec<u8>>,
    /// IPTC: the records that news agencies use.
    pub iptc: Option<Vec<u8>>,
    /// Pixels per inch.
    pub density: Option<Density>,
    /// Of a PNG: its texts and its information about colours.
    pub png: Option<Box<png::Info<'static>>>,
    /// Of an EXR: the attributes of the picture and of the layer that is read.
    pub exr: Option<Box<openexr::Attributes>>,
}

impl Tags {
    /// The part of it that a file of this format can hold, updated to pixels of this size. Whatever has to be dropped
    /// is reported in `notes`.
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
            // The format stores the density nowhere else.
            let exif = tags.exif.as_deref().map_or_else(|| Some(Exif::default()), Exif::parse);
            if let Some(mut exif) = exif.filter(|exif| exif.density().is_none()) {
                exif.set_density(density);
                tags.exif = exif.to_bytes();
            }
        }
        if format != ImageFormat::Png
            && tags.png.take().is_some_and(|info| png_tags::has_other_colours(&info))
        {
            notes.push(
                "what the PNG says of its colours (gAMA, cHRM or cICP) is left out: the picture is taken for sRGB"
                    .into(),
            );
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

    /// For a picture that was rotated by 90 degrees.
    pub(super) fn turned(mut self) -> Self {
        self.density = self.density.map(|Density { x, y }| Density { x: y, y: x });
        self
    }

    /// Fills in the density from EXIF, unless it is known.
    pub(super) fn with_density_of_exif(mut self) -> Self {
        let told = || Exif::parse(self.exif.as_deref()?)?.density();
        self.density = self.density.or_else(told);
        self
    }
}

/// Updates the size in XMP to that of the picture, which is upright.
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
