//! Reading pictures. PNG files are decoded row by row, unless they are interlaced or rotated.

use super::guard::guarded;
use super::kind::Kind;
use super::tiff::{Tiff, cmyk};
use super::{Depth, Layout, PictureError, Tags, WHOLE_BYTES_MAX, jpeg, openexr, png_tags};
use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tga::TgaDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder as _, DynamicImage, ImageDecoder, ImageError, Limits};
use pictor_tasks::units::Resolution;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The most bytes that a PNG may take besides its pixels: one row of it, and its profile, which is compressed.
const PNG_BYTES_MAX: u64 = 64 << 20;

pub(super) type PngReader = png::Reader<BufReader<File>>;
type Result<T> = std::result::Result<T, PictureError>;

/// A picture that is being read, row by row from the top.
pub struct Reader {
    layout: Layout,
    tags: Tags,
    /// What was not read as it is in the file.
    notes: Vec<String>,
    rows: Rows,
    next: u32,
}

enum Rows {
    /// Rows are decoded on demand.
    Streamed(Box<PngReader>),
    /// All rows are in memory.
    Whole(Samples),
}

/// All samples of a picture, pixel by pixel.
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
    Float(Vec<f32>),
}

impl Reader {
    /// Opens a picture of any supported format, which is recognised by its first bytes. With `lenient`, a truncated
    /// JPEG is accepted: its missing part is grey.
    pub fn open(path: &Path, lenient: bool) -> Result<Self> {
        guarded(|| Self::decode(path, lenient))
    }

    fn decode(path: &Path, lenient: bool) -> Result<Self> {
        match Kind::of(path)? {
            Kind::Png => {
                let reader = open_png(path)?;
                if !reader.info().interlaced && png_orientation(&reader) == UPRIGHT {
                    return Ok(Self::streamed(reader));
                }
                let mut limits = Limits::no_limits();
                limits.max_alloc = Some(PNG_BYTES_MAX);
                let decoder = PngDecoder::with_limits(BufReader::new(File::open(path)?), limits);
                let picture = whole(decoder.map_err(image_error)?)?;
                Ok(Self { tags: png_tags::read(&reader), ..picture })
            }
            Kind::Jpeg => {
                if !lenient && !jpeg_ends(path)? {
                    return Err(unusable("is cut short: it ends before all of its pixels"));
                }
                let (decoder, header) = open_jpeg(path)?;
                let mut picture = whole(decoder)?;
                let tags = std::mem::take(&mut picture.tags);
                let jpeg::JpegHeader { xmp, iptc, density, .. } = header;
                picture.tags = Tags { xmp, iptc, density, ..tags }.with_density_of_exif();
                Ok(picture)
            }
            Kind::Webp => whole(webp(path)?),
            Kind::Tiff => {
                let mut tiff = Tiff::open(path)?;
                let tags = tiff.tags();
                let notes = tiff.notes();
                let (layout, samples) = tiff.read()?;
                let rows = Rows::Whole(samples);
                Ok(Self { layout, tags, notes, rows, next: 0 }.finite())
            }
            Kind::Exr => {
                let (layout, samples, attributes) = openexr::read(path)?;
                let tags = Tags { exr: Some(Box::new(attributes)), ..Tags::default() };
                let rows = Rows::Whole(Samples::Float(samples));
                Ok(Self { layout, tags, notes: Vec::new(), rows, next: 0 }.finite())
            }
            Kind::Gif => whole(gif(path)?).map(opaque),
            Kind::Bmp => {
                let picture = whole(BmpDecoder::new(buffered(path)?).map_err(image_error)?)?;
                Ok(if has_palette(path)? { grey(picture) } else { picture })
            }
            Kind::Tga => whole(TgaDecoder::new(buffered(path)?).map_err(image_error)?),
        }
    }

    fn streamed(reader: PngReader) -> Self {
        let (layout, tags) = (png_layout(&reader), png_tags::read(&reader));
        let rows = Rows::Streamed(Box::new(reader));
        Self { layout, tags, notes: Vec::new(), rows, next: 0 }
    }

    /// Replaces numbers that are not finite, as renderers make them now and then.
    fn finite(mut self) -> Self {
        let Rows::Whole(Samples::Float(all)) = &mut self.rows else { return self };
        let mut replaced = 0_u64;
        for pixel in all.chunks_exact_mut(self.layout.channels()) {
            replaced += u64::from(pixel.iter().any(|sample| !sample.is_finite()));
            let (colours, opacity) = pixel.split_at_mut(self.layout.colours);
            for sample in colours.iter_mut().filter(|sample| !sample.is_finite()) {
                *sample = if *sample == f32::INFINITY { HALF_MAX } else { 0.0 };
            }
            for sample in opacity.iter_mut().filter(|sample| !sample.is_finite()) {
                *sample = if *sample == f32::NEG_INFINITY { 0.0 } else { 1.0 };
            }
        }
        if replaced > 0 {
            self.notes.push(format!(
                "{replaced} of its pixels hold NaN or infinity: black and opaque stand in for NaN, and {HALF_MAX} for \
                 infinite light"
            ));
        }
        self
    }

    /// The size, channels and depth of the rows.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The metadata of the file.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// What was not read as it is in the file, for the user.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The index of the next row, from 0.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Reads the next row into `out`, in place of what that held.
    pub fn row(&mut self, out: &mut Vec<f32>) -> Result<()> {
        if self.next >= self.layout.size.height {
            return Err(unusable("has no more rows"));
        }
        let length = self.layout.row_samples();
        let start = self.next as usize * length;
        out.clear();
        match &mut self.rows {
            Rows::Streamed(reader) => {
                let row = guarded(|| reader.next_row().map_err(png_error))?;
                let row = row.ok_or_else(|| unusable("ends before all of its pixels"))?;
                if self.layout.depth == Depth::Sixteen {
                    let pairs = row.data().chunks_exact(2);
                    out.extend(pairs.map(|pair| sixteen(u16::from_be_bytes([pair[0], pair[1]]))));
                } else {
                    out.extend(row.data().iter().copied().map(eight));
                }
            }
            Rows::Whole(Samples::Eight(all)) => {
                out.extend(all[start..start + length].iter().copied().map(eight));
            }
            Rows::Whole(Samples::Sixteen(all)) => {
                out.extend(all[start..start + length].iter().copied().map(sixteen));
            }
            Rows::Whole(Samples::Float(all)) => out.extend(&all[start..start + length]),
        }
        self.next += 1;
        Ok(())
    }
}

/// The width and height of a picture once it is upright. Reads no more of the file than that takes.
pub fn size(path: &Path) -> Result<Resolution> {
    guarded(|| stated_size(path))
}

fn stated_size(path: &Path) -> Result<Resolution> {
    let of = |mut decoder: Box<dyn ImageDecoder>| {
        let orientation = decoder.orientation().map_err(image_error)?;
        Ok(upright(decoder.dimensions(), orientation))
    };
    match Kind::of(path)? {
        Kind::Png => {
            let reader = open_png(path)?;
            Ok(upright(reader.info().size(), png_orientation(&reader)))
        }
        Kind::Jpeg => of(Box::new(open_jpeg(path)?.0)),
        Kind::Webp => of(Box::new(webp(path)?)),
        Kind::Tiff => Ok(Tiff::open(path)?.size()),
        Kind::Exr => openexr::size(path),
        Kind::Gif => of(Box::new(gif(path)?)),
        Kind::Bmp => of(Box::new(BmpDecoder::new(buffered(path)?).map_err(image_error)?)),
        Kind::Tga => of(Box::new(TgaDecoder::new(buffered(path)?).map_err(image_error)?)),
    }
}

/// Whether pixels of a picture may be transparent, and whether its samples have more than 8 bits. Reads no more of the
/// file than that takes.
pub fn sampled(path: &Path) -> Result<(bool, bool)> {
    guarded(|| stated_samples(path))
}

fn stated_samples(path: &Path) -> Result<(bool, bool)> {
    let of = |decoder: &dyn ImageDecoder| (decoder.color_type().has_alpha(), false);
    Ok(match Kind::of(path)? {
        Kind::Png => {
            let Layout { alpha, depth, .. } = png_layout(&open_png(path)?);
            (alpha, depth != Depth::Eight)
        }
        Kind::Jpeg => (false, false),
        Kind::Webp => of(&webp(path)?),
        Kind::Tiff => Tiff::open(path)?.sampled(),
        Kind::Exr => (openexr::has_alpha(path)?, true),
        // Only its pixels show whether any is transparent.
        Kind::Gif => (Reader::open(path, true)?.layout().alpha, false),
        Kind::Bmp => of(&BmpDecoder::new(buffered(path)?).map_err(image_error)?),
        Kind::Tga => of(&TgaDecoder::new(buffered(path)?).map_err(image_error)?),
    })
}

/// The brightest light that 16 bits hold.
pub(super) const HALF_MAX: f32 = 65_504.0;
const UPRIGHT: Orientation = Orientation::NoTransforms;

pub(super) fn unusable(problem: impl Into<String>) -> PictureError {
    PictureError::Unusable(problem.into())
}

fn eight(sample: u8) -> f32 {
    f32::from(sample) / 255.0
}

fn sixteen(sample: u16) -> f32 {
    f32::from(sample) / 65_535.0
}

fn swaps(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH)
}

/// The size of a picture that is stored with this orientation, once it is upright.
pub(super) fn upright((width, height): (u32, u32), orientation: Orientation) -> Resolution {
    if swaps(orientation) {
        Resolution { width: height, height: width }
    } else {
        Resolution { width, height }
    }
}

/// Rotates and mirrors the samples of a picture until it is upright.
pub(super) fn turn<T: Copy>(
    all: Vec<T>,
    stored: (u32, u32),
    channels: usize,
    orientation: Orientation,
) -> Vec<T> {
    use Orientation::{
        FlipHorizontal, FlipVertical, NoTransforms, Rotate90, Rotate90FlipH, Rotate180, Rotate270,
        Rotate270FlipH,
    };
    if orientation == NoTransforms {
        return all;
    }
    let (width, height) = (stored.0 as usize, stored.1 as usize);
    let size = upright(stored, orientation);
    let mut turned = Vec::with_capacity(all.len());
    for y in 0..size.height as usize {
        for x in 0..size.width as usize {
            let (column, row) = match orientation {
                NoTransforms => (x, y),
                FlipHorizontal => (width - 1 - x, y),
                Rotate180 => (width - 1 - x, height - 1 - y),
                FlipVertical => (x, height - 1 - y),
                Rotate90FlipH => (y, x),
                Rotate90 => (y, height - 1 - x),
                Rotate270FlipH => (width - 1 - y, height - 1 - x),
                Rotate270 => (width - 1 - y, x),
            };
            turned.extend(&all[(row * width + column) * channels..][..channels]);
        }
    }
    turned
}

fn open_png(path: &Path) -> Result<PngReader> {
    let mut decoder = png::Decoder::new(BufReader::with_capacity(1 << 16, File::open(path)?));
    decoder.set_transformations(png::Transformations::EXPAND);
    let bytes = usize::try_from(PNG_BYTES_MAX).unwrap_or(usize::MAX);
    decoder.set_limits(png::Limits { bytes });
    let reader = decoder.read_info().map_err(png_error)?;
    if reader.info().animation_control.is_some_and(|control| control.num_frames > 1) {
        return Err(animated());
    }
    Ok(reader)
}

pub(super) fn animated() -> PictureError {
    unusable("is animated: convert it to a video first")
}

fn png_layout(reader: &PngReader) -> Layout {
    use png::ColorType::{GrayscaleAlpha, Rgb, Rgba};
    let (width, height) = reader.info().size();
    let (colour, depth) = reader.output_color_type();
    Layout {
        size: Resolution { width, height },
        colours: if matches!(colour, Rgb | Rgba) { 3 } else { 1 },
        alpha: matches!(colour, GrayscaleAlpha | Rgba),
        depth: if depth == png::BitDepth::Sixteen { Depth::Sixteen } else { Depth::Eight },
    }
}

fn png_orientation(reader: &PngReader) -> Orientation {
    let exif = reader.info().exif_metadata.as_deref();
    exif.and_then(Orientation::from_exif_chunk).unwrap_or(UPRIGHT)
}

pub(super) fn without_orientation(exif: &[u8]) -> Vec<u8> {
    let mut exif = exif.to_vec();
    // There may be no orientation to remove.
    let _ = Orientation::remove_from_exif_chunk(&mut exif);
    exif
}

fn buffered(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path)?))
}

fn open_jpeg(path: &Path) -> Result<(JpegDecoder<BufReader<File>>, jpeg::JpegHeader)> {
    let header = jpeg::header(path)?;
    if header.components == Some(4) {
        return Err(cmyk());
    }
    Ok((JpegDecoder::new(buffered(path)?).map_err(image_error)?, header))
}

/// Drops the opacity if the whole picture is opaque.
fn opaque(mut picture: Reader) -> Reader {
    if let Rows::Whole(Samples::Eight(all)) = &mut picture.rows
        && picture.layout.alpha
        && all.chunks_exact(4).all(|pixel| pixel[3] == 255)
    {
        *all = all.chunks_exact(4).flat_map(|pixel| &pixel[..3]).copied().collect();
        picture.layout.alpha = false;
    }
    picture
}

/// Whether a BMP has a palette: it has no other way to be grey.
fn has_palette(path: &Path) -> Result<bool> {
    let mut head = [0; 30];
    File::open(path)?.read_exact(&mut head)?;
    // An old header of 12 bytes has the number of bits elsewhere.
    let bits = if head[14] == 12 { head[24] } else { head[28] };
    Ok(bits <= 8)
}

/// Makes a picture grey if all of its pixels are.
fn grey(mut picture: Reader) -> Reader {
    if let Rows::Whole(Samples::Eight(all)) = &mut picture.rows
        && picture.layout.channels() == 3
        && all.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2])
    {
        *all = all.iter().step_by(3).copied().collect();
        picture.layout.colours = 1;
    }
    picture
}

/// Opens a GIF, which must have one frame only.
fn gif(path: &Path) -> Result<GifDecoder<BufReader<File>>> {
    let open = || GifDecoder::new(buffered(path)?).map_err(image_error);
    let decoder = open()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) * 4 > WHOLE_BYTES_MAX {
        return Err(too_large());
    }
    // Damage is reported when the picture is read.
    if decoder.into_frames().take(2).flatten().count() > 1 {
        return Err(animated());
    }
    open()
}

fn webp(path: &Path) -> Result<WebPDecoder<BufReader<File>>> {
    let decoder = WebPDecoder::new(BufReader::new(File::open(path)?)).map_err(image_error)?;
    if decoder.has_animation() { Err(animated()) } else { Ok(decoder) }
}

/// Whether a JPEG has its end marker. Some programs append data behind it.
fn jpeg_ends(path: &Path) -> Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(64 << 10)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail.windows(2).any(|pair| pair == [0xff, 0xd9]))
}

/// Decodes a whole picture and turns it upright.
fn whole(mut decoder: impl ImageDecoder) -> Result<Reader> {
    if decoder.total_bytes() > WHOLE_BYTES_MAX {
        return Err(too_large());
    }
    let mut limits = Limits::no_limits();
    // Twice: for the pixels, and for the compressed ones.
    limits.max_alloc = Some(2 * WHOLE_BYTES_MAX);
    decoder.set_limits(limits).map_err(image_error)?;
    let orientation = decoder.orientation().map_err(image_error)?;
    let tags = Tags {
        icc: decoder.icc_profile().map_err(image_error)?,
        exif: decoder.exif_metadata().map_err(image_error)?.as_deref().map(without_orientation),
        xmp: decoder.xmp_metadata().map_err(image_error)?,
        ..Tags::default()
    };
    let tags = tags.with_density_of_exif();
    let picture = DynamicImage::from_decoder(decoder).map_err(image_error)?;
    Ok(turned(picture, orientation, tags))
}

pub(super) fn too_large() -> PictureError {
    unusable(format!(
        "has more than {} GiB of pixels and cannot be read row by row: save it as a PNG without \
         interlacing and rotation",
        WHOLE_BYTES_MAX >> 30
    ))
}

fn turned(mut picture: DynamicImage, orientation: Orientation, tags: Tags) -> Reader {
    picture.apply_orientation(orientation);
    let tags = if swaps(orientation) { tags.turned() } else { tags };
    let colour = picture.color();
    let (size, colours) = (Resolution { width: picture.width(), height: picture.height() }, colour);
    let samples = match picture {
        DynamicImage::ImageLuma8(buffer) => Samples::Eight(buffer.into_raw()),
        DynamicImage::ImageLumaA8(buffer) => Samples::Eight(buffer.into_raw()),
        DynamicImage::ImageRgb8(buffer) => Samples::Eight(buffer.into_raw()),
        DynamicImage::ImageRgba8(buffer) => Samples::Eight(buffer.into_raw()),
        DynamicImage::ImageLuma16(buffer) => Samples::Sixteen(buffer.into_raw()),
        DynamicImage::ImageLumaA16(buffer) => Samples::Sixteen(buffer.into_raw()),
        DynamicImage::ImageRgb16(buffer) => Samples::Sixteen(buffer.into_raw()),
        DynamicImage::ImageRgba16(buffer) => Samples::Sixteen(buffer.into_raw()),
        DynamicImage::ImageRgb32F(buffer) => Samples::Float(buffer.into_raw()),
        other => Samples::Float(other.into_rgba32f().into_raw()),
    };
    let depth = match samples {
        Samples::Eight(_) => Depth::Eight,
        Samples::Sixteen(_) => Depth::Sixteen,
        Samples::Float(_) => Depth::Float,
    };
    let (colours, alpha) = (if colours.has_color() { 3 } else { 1 }, colours.has_alpha());
    Reader {
        layout: Layout { size, colours, alpha, depth },
        tags,
        notes: Vec::new(),
        rows: Rows::Whole(samples),
        next: 0,
    }
}

fn png_error(error: png::DecodingError) -> PictureError {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            unusable("is cut short: it ends before all of its pixels")
        }
        png::DecodingError::IoError(error) => PictureError::Io(error),
        png::DecodingError::LimitsExceeded => too_large(),
        other => unusable(format!("cannot be decoded: {other}")),
    }
}

pub(super) fn image_error(error: ImageError) -> PictureError {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            unusable("is cut short: it ends before all of its pixels")
        }
        ImageError::IoError(error) => PictureError::Io(error),
        ImageError::Limits(_) => too_large(),
        other => unusable(format!("cannot be decoded: {other}")),
    }
}
