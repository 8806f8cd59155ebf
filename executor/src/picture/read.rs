//! Reading pictures. PNG files are decoded row by row, unless they are interlaced or turned.

use super::{Depth, Layout, PictureError, Tags, WHOLE_BYTES_MAX, openexr};
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageBuffer, ImageDecoder, ImageError, Limits};
use pictor_tasks::body::ImageFormat;
use pictor_tasks::units::Resolution;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use tiff::TiffError;
use tiff::decoder::DecodingResult;
use tiff::tags::Tag;

type PngReader = png::Reader<BufReader<File>>;
type TiffReader = tiff::decoder::Decoder<BufReader<File>>;
type Result<T> = std::result::Result<T, PictureError>;

/// A picture that is being read, from the top.
pub(crate) struct Reader {
    layout: Layout,
    tags: Tags,
    rows: Rows,
    next: u32,
}

enum Rows {
    /// Decoded as they are asked for.
    Streamed(Box<PngReader>),
    /// All of them.
    Whole(Samples),
}

/// All samples of a picture, pixel by pixel.
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
    Float(Vec<f32>),
}

impl Reader {
    /// Opens a picture of any format that is read here, known by its first bytes. `lenient` takes a
    /// JPEG that is cut short: what is missing is grey.
    pub(crate) fn open(path: &Path, lenient: bool) -> Result<Self> {
        match format(path)? {
            ImageFormat::Png => {
                let reader = open_png(path)?;
                if !reader.info().interlaced && png_orientation(&reader) == UPRIGHT {
                    return Ok(Self::streamed(reader));
                }
                let decoder = PngDecoder::new(BufReader::new(File::open(path)?));
                let picture = whole(decoder.map_err(image_error)?)?;
                Ok(Self { tags: png_tags(&reader), ..picture })
            }
            ImageFormat::Jpeg => {
                if !lenient && !jpeg_ends(path)? {
                    return Err(unusable("is cut short: it ends before all of its pixels"));
                }
                whole(jpeg(path)?)
            }
            ImageFormat::Webp => whole(webp(path)?),
            ImageFormat::Tiff => match grey_with_opacity(path)? {
                Some(decoder) => whole_grey_with_opacity(decoder),
                None => whole(tiff(path)?),
            },
            ImageFormat::Exr => {
                let (layout, samples, attributes) = openexr::read(path)?;
                let tags = Tags { exr: Some(Box::new(attributes)), ..Tags::default() };
                Ok(Self { layout, tags, rows: Rows::Whole(Samples::Float(samples)), next: 0 })
            }
        }
    }

    fn streamed(reader: PngReader) -> Self {
        let (layout, tags) = (png_layout(&reader), png_tags(&reader));
        Self { layout, tags, rows: Rows::Streamed(Box::new(reader)), next: 0 }
    }

    /// What the rows consist of.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// What the file says beside its pixels.
    pub(crate) fn tags(&self) -> &Tags {
        &self.tags
    }

    /// The number of the row that comes next.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Reads the next row.
    pub(crate) fn row(&mut self, out: &mut Vec<f32>) -> Result<()> {
        if self.next >= self.layout.size.height {
            return Err(unusable("has no more rows"));
        }
        let length = self.layout.row_samples();
        let start = self.next as usize * length;
        out.clear();
        match &mut self.rows {
            Rows::Streamed(reader) => {
                let row = reader.next_row().map_err(png_error)?;
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

/// A picture's width and height, upright. Reads no further than that.
pub(crate) fn size(path: &Path) -> Result<Resolution> {
    let of = |mut decoder: Box<dyn ImageDecoder>| {
        let turned = swaps(decoder.orientation().map_err(image_error)?);
        Ok(upright(decoder.dimensions(), turned))
    };
    match format(path)? {
        ImageFormat::Png => {
            let reader = open_png(path)?;
            let (width, height) = reader.info().size();
            Ok(upright((width, height), swaps(png_orientation(&reader))))
        }
        ImageFormat::Jpeg => of(Box::new(jpeg(path)?)),
        ImageFormat::Webp => of(Box::new(webp(path)?)),
        ImageFormat::Tiff => match grey_with_opacity(path)? {
            Some(mut decoder) => {
                let turned = swaps(tiff_orientation(&mut decoder));
                Ok(upright(decoder.dimensions().map_err(tiff_error)?, turned))
            }
            None => of(Box::new(tiff(path)?)),
        },
        ImageFormat::Exr => openexr::size(path),
    }
}

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

fn upright((width, height): (u32, u32), turned: bool) -> Resolution {
    if turned { Resolution { width: height, height: width } } else { Resolution { width, height } }
}

/// The format that the first bytes say: names lie.
fn format(path: &Path) -> Result<ImageFormat> {
    let mut head = Vec::new();
    File::open(path)?.take(12).read_to_end(&mut head)?;
    Ok(match head.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => ImageFormat::Png,
        [0xff, 0xd8, ..] => ImageFormat::Jpeg,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => ImageFormat::Webp,
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => ImageFormat::Tiff,
        [0x76, 0x2f, 0x31, 0x01, ..] => ImageFormat::Exr,
        [] => return Err(unusable("is empty")),
        _ => return Err(unusable("is no PNG, JPEG, WebP, TIFF or EXR picture")),
    })
}

fn open_png(path: &Path) -> Result<PngReader> {
    let mut decoder = png::Decoder::new(BufReader::with_capacity(1 << 16, File::open(path)?));
    decoder.set_transformations(png::Transformations::EXPAND);
    decoder
        .set_limits(png::Limits { bytes: usize::try_from(WHOLE_BYTES_MAX).unwrap_or(usize::MAX) });
    let reader = decoder.read_info().map_err(png_error)?;
    if reader.info().animation_control.is_some_and(|control| control.num_frames > 1) {
        return Err(animated());
    }
    Ok(reader)
}

fn animated() -> PictureError {
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

fn png_tags(reader: &PngReader) -> Tags {
    let info = reader.info();
    Tags {
        icc: info.icc_profile.as_deref().map(<[u8]>::to_vec),
        exif: info.exif_metadata.as_deref().map(without_orientation),
        png: Some(Box::new(info.clone())),
        exr: None,
    }
}

fn without_orientation(exif: &[u8]) -> Vec<u8> {
    let mut exif = exif.to_vec();
    // There may be none.
    let _ = Orientation::remove_from_exif_chunk(&mut exif);
    exif
}

fn jpeg(path: &Path) -> Result<JpegDecoder<BufReader<File>>> {
    if jpeg_components(path)? == Some(4) {
        return Err(cmyk());
    }
    JpegDecoder::new(BufReader::new(File::open(path)?)).map_err(image_error)
}

fn cmyk() -> PictureError {
    unusable("has the colours of a printer (CMYK): convert it to RGB first")
}

fn webp(path: &Path) -> Result<WebPDecoder<BufReader<File>>> {
    let decoder = WebPDecoder::new(BufReader::new(File::open(path)?)).map_err(image_error)?;
    if decoder.has_animation() { Err(animated()) } else { Ok(decoder) }
}

fn tiff(path: &Path) -> Result<TiffDecoder<BufReader<File>>> {
    let decoder = TiffDecoder::new(BufReader::new(File::open(path)?)).map_err(image_error)?;
    match decoder.original_color_type() {
        ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16 => Err(cmyk()),
        _ => Ok(decoder),
    }
}

/// A TIFF of grey and opacity, which `image` does not know.
fn grey_with_opacity(path: &Path) -> Result<Option<TiffReader>> {
    let file = BufReader::new(File::open(path)?);
    let mut decoder = tiff::decoder::Decoder::new(file).map_err(tiff_error)?;
    let is_one = matches!(
        decoder.colortype().map_err(tiff_error)?,
        tiff::ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 }
    );
    Ok(is_one.then_some(decoder))
}

fn tiff_orientation(decoder: &mut TiffReader) -> Orientation {
    let tag = decoder.get_tag_unsigned::<u8>(Tag::Orientation).ok();
    tag.and_then(Orientation::from_exif).unwrap_or(UPRIGHT)
}

fn whole_grey_with_opacity(mut decoder: TiffReader) -> Result<Reader> {
    let (width, height) = decoder.dimensions().map_err(tiff_error)?;
    if u64::from(width) * u64::from(height) * 4 > WHOLE_BYTES_MAX {
        return Err(too_large());
    }
    let mut limits = tiff::decoder::Limits::default();
    limits.decoding_buffer_size = usize::try_from(WHOLE_BYTES_MAX).unwrap_or(usize::MAX);
    decoder = decoder.with_limits(limits);
    let tags = Tags { icc: decoder.get_tag_u8_vec(Tag::IccProfile).ok(), ..Tags::default() };
    let orientation = tiff_orientation(&mut decoder);
    let picture = match decoder.read_image().map_err(tiff_error)? {
        DecodingResult::U8(samples) => {
            ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLumaA8)
        }
        DecodingResult::U16(samples) => {
            ImageBuffer::from_raw(width, height, samples).map(DynamicImage::ImageLumaA16)
        }
        _ => None,
    };
    let picture = picture.ok_or_else(|| unusable("has samples of a kind that is not read"))?;
    Ok(turned(picture, orientation, tags))
}

fn tiff_error(error: TiffError) -> PictureError {
    match error {
        TiffError::IoError(error) => image_error(ImageError::IoError(error)),
        TiffError::LimitsExceeded => too_large(),
        other => unusable(format!("cannot be decoded: {other}")),
    }
}

/// Components of a JPEG picture: the byte that its frame header gives.
fn jpeg_components(path: &Path) -> Result<Option<u8>> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(2))?;
    let mut head = [0; 4];
    while file.read_exact(&mut head).is_ok() && head[0] == 0xff {
        let length = i64::from(u16::from_be_bytes([head[2], head[3]]));
        if matches!(head[1], 0xc0..=0xcf) && !matches!(head[1], 0xc4 | 0xc8 | 0xcc) {
            let mut frame = [0; 6];
            return Ok(file.read_exact(&mut frame).is_ok().then_some(frame[5]));
        }
        file.seek_relative(length - 2)?;
    }
    Ok(None)
}

/// Whether a JPEG has its end mark. Some programs write something behind it.
fn jpeg_ends(path: &Path) -> Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(64 << 10)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail.windows(2).any(|pair| pair == [0xff, 0xd9]))
}

/// Decodes a picture as a whole, and turns it upright.
fn whole(mut decoder: impl ImageDecoder) -> Result<Reader> {
    if decoder.total_bytes() > WHOLE_BYTES_MAX {
        return Err(too_large());
    }
    let mut limits = Limits::no_limits();
    // For the pixels, and for those that are still packed.
    limits.max_alloc = Some(2 * WHOLE_BYTES_MAX);
    decoder.set_limits(limits).map_err(image_error)?;
    let orientation = decoder.orientation().map_err(image_error)?;
    let tags = Tags {
        icc: decoder.icc_profile().map_err(image_error)?,
        exif: decoder.exif_metadata().map_err(image_error)?.as_deref().map(without_orientation),
        ..Tags::default()
    };
    let picture = DynamicImage::from_decoder(decoder).map_err(image_error)?;
    Ok(turned(picture, orientation, tags))
}

fn too_large() -> PictureError {
    unusable(format!(
        "has more than {} GiB of pixels and cannot be read row by row: save it as a PNG without \
         interlacing and rotation",
        WHOLE_BYTES_MAX >> 30
    ))
}

fn turned(mut picture: DynamicImage, orientation: Orientation, tags: Tags) -> Reader {
    picture.apply_orientation(orientation);
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
