//! TIFF pictures: reading their pixels and their metadata.

mod source;

use self::source::Source;
use super::exif::{self, Exif, Field};
use super::jpeg::iptc_of;
use super::read::{Samples, image_error, too_large, turn, unusable, upright};
use super::tags::TAG_BYTES_MAX;
use super::{Depth, Layout, PictureError, Tags, WHOLE_BYTES_MAX};
use image::ImageError;
use image::metadata::Orientation;
use pictor_tasks::units::Resolution;
use std::path::Path;
use tiff::decoder::{BufferLayoutPreference, ChunkType, Decoder, DecodingResult, Limits};
use tiff::tags::{ByteOrder, CompressionMethod, IfdPointer, Tag, Type, ValueBuffer};
use tiff::{ColorType, Directory, TiffError};

const XMP: Tag = Tag::Unknown(700);
const IPTC: Tag = Tag::Unknown(33723);
const PHOTOSHOP: Tag = Tag::Unknown(34377);
/// The flags of a page that is not a picture of its own: a smaller version of another page, or a mask.
const BESIDE: u32 = 1 | 4;

type Result<T> = std::result::Result<T, PictureError>;

/// How the samples of a pixel are interpreted.
enum Colours {
    Grey,
    Rgb,
    YCbCr,
    /// The sample is an index into these colours.
    Palette(Vec<[u8; 3]>),
}

/// A TIFF file with one picture.
pub(super) struct Tiff {
    decoder: Decoder<Source>,
    stored: (u32, u32),
    colours: Colours,
    bits: u8,
    /// How opacity is stored, if there is any: the colours may be premultiplied by it.
    alpha: Option<Alpha>,
    orientation: Orientation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Alpha {
    Associated,
    Unassociated,
}

impl Tiff {
    /// Opens a file with exactly one page, of a supported kind.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let has_palette = source.has_palette();
        let mut decoder = Decoder::new(source).map_err(tiff_error)?.with_limits(limits());
        check_coding(&mut decoder)?;
        let stored = decoder.dimensions().map_err(tiff_error)?;
        let kind = decoder.colortype().map_err(tiff_error)?;
        let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).ok().flatten();
        let alpha = match extra.unwrap_or_default().first() {
            Some(1) => Some(Alpha::Associated),
            Some(2) | None => Some(Alpha::Unassociated),
            Some(_) => None,
        };
        let (colours, bits, alpha) = match kind {
            ColorType::Gray(bits) if has_palette => (Colours::palette(&mut decoder)?, bits, None),
            ColorType::Gray(bits) => (Colours::Grey, bits, None),
            ColorType::Multiband { bit_depth, num_samples } if num_samples > 1 && !has_palette => {
                (Colours::Grey, bit_depth, alpha)
            }
            ColorType::RGB(bits) => (Colours::Rgb, bits, None),
            ColorType::RGBA(bits) => (Colours::Rgb, bits, alpha.or(Some(Alpha::Unassociated))),
            ColorType::YCbCr(8) => (Colours::YCbCr, 8, None),
            ColorType::CMYK(_) | ColorType::CMYKA(_) => return Err(cmyk()),
            other => return Err(unread(&format!("{other:?}"))),
        };
        if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 32) {
            return Err(unread(&format!("{bits} bits")));
        }
        let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
        let orientation =
            orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
        let mut tiff = Self { decoder, stored, colours, bits, alpha, orientation };
        tiff.check_pages()?;
        Ok(tiff)
    }

    /// The width and height of the picture once it is upright.
    pub(super) fn size(&self) -> Resolution {
        upright(self.stored, self.orientation)
    }

    /// Whether pixels may be transparent, and whether samples have more than 8 bits.
    pub(super) fn sampled(&self) -> (bool, bool) {
        (self.alpha.is_some(), self.bits > 8)
    }

    /// More than one page is an error, as the others would be lost.
    fn check_pages(&mut self) -> Result<()> {
        let mut pages = 1_u32;
        let mut next = self.decoder.image_ifd().directory().next();
        let mut seen = 0;
        while let Some(pointer) = next {
            seen += 1;
            // Chains may contain a loop.
            if seen > 100_000 {
                break;
            }
            let directory = self.decoder.read_directory(pointer).map_err(tiff_error)?;
            let mut tags = self.decoder.read_directory_tags(&directory);
            let kind = tags.find_tag_unsigned::<u32>(Tag::NewSubfileType).ok().flatten();
            // An old field, in which 2 is a smaller version.
            let old = tags.find_tag_unsigned::<u16>(Tag::SubfileType).ok().flatten();
            let beside = kind.unwrap_or(0) & BESIDE != 0 || old == Some(2);
            pages += u32::from(!beside);
            next = directory.next();
        }
        if pages == 1 {
            return Ok(());
        }
        Err(unusable(format!(
            "has {pages} pages, and one file holds one picture here: split it first, for example with \
             `tiffsplit FILE page_`, and name the folder or the pattern of the pages as the input"
        )))
    }

    /// What of the pixels is not read, for the user.
    pub(super) fn notes(&mut self) -> Vec<String> {
        let count = self.decoder.find_tag_unsigned::<u16>(Tag::SamplesPerPixel).ok().flatten();
        let more = usize::from(count.unwrap_or(1)).saturating_sub(self.needed());
        let note = format!("channels that are neither colour nor opacity are left out: {more}");
        if more > 0 { vec![note] } else { Vec::new() }
    }

    /// Reads the metadata.
    pub(super) fn tags(&mut self) -> Tags {
        let place = self.decoder.ifd_pointer();
        let main = place.and_then(|place| self.decoder.read_directory(place).ok());
        let Some(main) = main else { return Tags::default() };
        let mut bytes = |tag| {
            let bytes = value(&mut self.decoder, &main, tag)?;
            (!bytes.data.is_empty()).then_some(bytes.data)
        };
        let (icc, xmp) = (bytes(Tag::IccProfile), bytes(XMP));
        let iptc = bytes(IPTC).or_else(|| iptc_of(&bytes(PHOTOSHOP)?));
        let mut field = |tag: u16| value(&mut self.decoder, &main, Tag::from_u16_exhaustive(tag));
        let mut said = Exif {
            main: exif::DESCRIBING.into_iter().filter_map(&mut field).collect(),
            ..Exif::default()
        };
        // The printed size is stored separately.
        let sizes = [282, 283, 296].into_iter().filter_map(&mut field).collect();
        let density = Exif { main: sizes, ..Exif::default() }.density();
        said.camera = self.fields(&main, exif::CAMERA);
        said.place = self.fields(&main, exif::PLACE);
        let tags = Tags { icc, exif: said.to_bytes(), xmp, iptc, density, ..Tags::default() };
        if self.size() == upright(self.stored, Orientation::NoTransforms) {
            tags
        } else {
            tags.turned()
        }
    }

    /// Reads the directory that a field of the main one points to.
    fn fields(&mut self, main: &Directory, leads: u16) -> Vec<Field> {
        let lead = value(&mut self.decoder, main, Tag::from_u16_exhaustive(leads));
        let place = lead.and_then(|field| {
            let mut data = field.data;
            data.resize(8, 0);
            Some(u64::from_le_bytes(data.try_into().ok()?))
        });
        let directory = place.and_then(|at| self.decoder.read_directory(IfdPointer(at)).ok());
        let Some(directory) = directory else { return Vec::new() };
        let tags: Vec<Tag> = directory.iter().map(|(tag, _)| tag).collect();
        tags.into_iter().filter_map(|tag| value(&mut self.decoder, &directory, tag)).collect()
    }

    /// Reads all samples, upright.
    pub(super) fn read(mut self) -> Result<(Layout, Samples)> {
        let (width, height) = self.stored;
        let pixels = u64::from(width) * u64::from(height);
        let count = if matches!(self.colours, Colours::Grey) { 1 } else { 3 };
        let channels = count + usize::from(self.alpha.is_some());
        let wide = u64::from(self.bits.max(8)) / 8 * channels as u64;
        if pixels.saturating_mul(wide) > WHOLE_BYTES_MAX {
            return Err(too_large());
        }
        let mut found = DecodingResult::U8(Vec::new());
        let layout = self.samples(&mut found).map_err(tiff_error)?;
        if found.as_buffer(0).as_bytes().len() < layout.complete_len {
            return Err(too_large());
        }
        let planes = layout.planes.max(1);
        let (width, height) = (width as usize, height as usize);
        let size = (width, height, planes);
        let samples = match found {
            DecodingResult::U8(all) if self.bits < 8 => {
                let stride =
                    layout.row_stride.map_or(all.len() / height.max(1), std::num::NonZero::get);
                Samples::Eight(unpacked(&all, width, stride, self.bits, &self.colours))
            }
            DecodingResult::U8(all) => Samples::Eight(picked(&all, size, self.needed())?),
            DecodingResult::U16(all) => Samples::Sixteen(picked(&all, size, self.needed())?),
            DecodingResult::U32(all) => {
                let all: Vec<u16> = all.into_iter().map(|n| high(n.to_be_bytes())).collect();
                Samples::Sixteen(picked(&all, size, self.needed())?)
            }
            DecodingResult::F16(all) => {
                let all: Vec<f32> = all.into_iter().map(exr::prelude::f16::to_f32).collect();
                Samples::Float(picked(&all, size, self.needed())?)
            }
            DecodingResult::F32(all) => Samples::Float(picked(&all, size, self.needed())?),
            _ => return Err(unread("numbers with a sign, or of 64 bits")),
        };
        let samples = self.meant(samples, channels)?;
        let samples = match samples {
            Samples::Eight(all) => {
                Samples::Eight(turn(all, self.stored, channels, self.orientation))
            }
            Samples::Sixteen(all) => {
                Samples::Sixteen(turn(all, self.stored, channels, self.orientation))
            }
            Samples::Float(all) => {
                Samples::Float(turn(all, self.stored, channels, self.orientation))
            }
        };
        let depth = match samples {
            Samples::Eight(_) => Depth::Eight,
            Samples::Sixteen(_) => Depth::Sixteen,
            Samples::Float(_) => Depth::Float,
        };
        let layout =
            Layout { size: self.size(), colours: count, alpha: self.alpha.is_some(), depth };
        Ok((layout, samples))
    }

    /// Decodes all samples, plane by plane or pixel by pixel as they are stored.
    fn samples(
        &mut self,
        found: &mut DecodingResult,
    ) -> std::result::Result<BufferLayoutPreference, TiffError> {
        let layout = self.decoder.image_buffer_layout()?;
        if layout.planes < 2 || self.decoder.get_chunk_type() == ChunkType::Strip {
            return self.decoder.read_image_to_buffer(found);
        }
        // In tiles of several planes, the decoder takes the padding of the later planes' last rows for pixels.
        found.resize_to(&layout, &limits())?;
        let (tile_width, tile_height) = self.decoder.chunk_dimensions();
        let (across, down) =
            (self.stored.0.div_ceil(tile_width), self.stored.1.div_ceil(tile_height));
        let row_bytes = layout.row_stride.map_or(0, std::num::NonZero::get);
        let plane_bytes = layout.plane_stride.map_or(0, std::num::NonZero::get);
        let pixel_bytes = usize::from(self.bits.max(8) / 8);
        let planes = u32::try_from(layout.planes).unwrap_or(u32::MAX);
        for tile in 0..planes * across * down {
            let (plane, number) = (tile / (across * down), tile % (across * down));
            let (x, y) = (number % across * tile_width, number / across * tile_height);
            let rows = tile_height.min(self.stored.1 - y) as usize;
            let mut part = self.decoder.read_chunk(tile)?;
            let length = self.decoder.chunk_data_dimensions(tile).0 as usize * pixel_bytes;
            let start =
                plane as usize * plane_bytes + y as usize * row_bytes + x as usize * pixel_bytes;
            let (mut whole, part) = (found.as_buffer(0), part.as_buffer(0));
            let whole = whole.as_bytes_mut()[start..].chunks_mut(row_bytes);
            for (to, from) in whole.zip(part.as_bytes().chunks_exact(length).take(rows)) {
                to[..length].copy_from_slice(from);
            }
        }
        Ok(layout)
    }

    /// How many samples of a pixel are used.
    fn needed(&self) -> usize {
        let colours = if matches!(self.colours, Colours::Rgb | Colours::YCbCr) { 3 } else { 1 };
        colours + usize::from(self.alpha.is_some())
    }

    /// Converts samples to the usual interpretation: colours, premultiplied by opacity if they are linear light.
    fn meant(&self, samples: Samples, channels: usize) -> Result<Samples> {
        Ok(match (samples, &self.colours, self.alpha) {
            (Samples::Eight(all), Colours::Palette(colours), _) => {
                let colour = |number: &u8| colours.get(usize::from(*number)).copied();
                Samples::Eight(all.iter().flat_map(|n| colour(n).unwrap_or_default()).collect())
            }
            (Samples::Sixteen(all), Colours::Palette(colours), _) => {
                let colour = |number: &u16| colours.get(usize::from(*number)).copied();
                Samples::Eight(all.iter().flat_map(|n| colour(n).unwrap_or_default()).collect())
            }
            (Samples::Eight(mut all), Colours::YCbCr, _) => {
                all.chunks_exact_mut(3).for_each(rgb);
                Samples::Eight(all)
            }
            (Samples::Float(_), Colours::Palette(_) | Colours::YCbCr, _)
            | (Samples::Sixteen(_), Colours::YCbCr, _) => return Err(unread("such colours")),
            (Samples::Eight(mut all), _, Some(Alpha::Associated)) => {
                for pixel in all.chunks_exact_mut(channels) {
                    let (opacity, colours) = pixel.split_last_mut().expect("it has an opacity");
                    let whole = u32::from(*opacity);
                    for colour in colours.iter_mut().filter(|_| whole > 0) {
                        let divided = (u32::from(*colour) * 255 + whole / 2) / whole;
                        *colour = u8::try_from(divided).unwrap_or(u8::MAX);
                    }
                }
                Samples::Eight(all)
            }
            (Samples::Sixteen(mut all), _, Some(Alpha::Associated)) => {
                for pixel in all.chunks_exact_mut(channels) {
                    let (opacity, colours) = pixel.split_last_mut().expect("it has an opacity");
                    let whole = u64::from(*opacity);
                    for colour in colours.iter_mut().filter(|_| whole > 0) {
                        let divided = (u64::from(*colour) * 65_535 + whole / 2) / whole;
                        *colour = u16::try_from(divided).unwrap_or(u16::MAX);
                    }
                }
                Samples::Sixteen(all)
            }
            (Samples::Float(mut all), _, Some(Alpha::Unassociated)) => {
                for pixel in all.chunks_exact_mut(channels) {
                    let (opacity, colours) = pixel.split_last_mut().expect("it has an opacity");
                    for colour in colours.iter_mut() {
                        *colour *= *opacity;
                    }
                }
                Samples::Float(all)
            }
            (samples, ..) => samples,
        })
    }
}

fn limits() -> Limits {
    let most = usize::try_from(WHOLE_BYTES_MAX).unwrap_or(usize::MAX);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = most;
    limits.intermediate_buffer_size = most;
    limits.ifd_value_size = TAG_BYTES_MAX;
    limits
}

/// Refuses what the decoder cannot decode, and prepares what it decodes wrongly: the order of bits.
fn check_coding(decoder: &mut Decoder<Source>) -> Result<()> {
    let coding = decoder.find_tag_unsigned::<u16>(Tag::Compression).ok().flatten().unwrap_or(1);
    let coding = CompressionMethod::from_u16_exhaustive(coding);
    if matches!(coding, CompressionMethod::Huffman | CompressionMethod::Fax3) {
        return Err(unusable(
            "is compressed as faxes of group 3 are, which is not read: convert it first, for example with \
             `tiffcp -c g4 FILE picture.tif`",
        ));
    }
    let order = decoder.find_tag_unsigned::<u16>(Tag::FillOrder).ok().flatten();
    // JPEG has an order of its own.
    if order != Some(2) || matches!(coding, CompressionMethod::JPEG | CompressionMethod::ModernJPEG)
    {
        return Ok(());
    }
    let (places, lengths) = match decoder.get_chunk_type() {
        ChunkType::Strip => (Tag::StripOffsets, Tag::StripByteCounts),
        ChunkType::Tile => (Tag::TileOffsets, Tag::TileByteCounts),
    };
    let places = decoder.get_tag_u64_vec(places).map_err(tiff_error)?;
    let lengths = decoder.get_tag_u64_vec(lengths).map_err(tiff_error)?;
    let ranges = places.into_iter().zip(lengths);
    decoder.inner().reverse(ranges.map(|(at, length)| at..at.saturating_add(length)).collect());
    Ok(())
}

impl Colours {
    fn palette(decoder: &mut Decoder<Source>) -> Result<Self> {
        let map = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(tiff_error)?;
        // Some programs write entries of 8 bits.
        let small = map.iter().all(|value| *value < 256);
        let eight =
            |value: u16| if small { value.to_be_bytes()[1] } else { value.to_be_bytes()[0] };
        let count = map.len() / 3;
        let colour = |n: usize| [map[n], map[count + n], map[2 * count + n]].map(eight);
        Ok(Self::Palette((0..count).map(colour).collect()))
    }
}

/// The upper half of a 32-bit number.
fn high(bytes: [u8; 4]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// The first samples of each pixel, interleaved.
fn picked<T: Copy>(
    all: &[T],
    (width, height, planes): (usize, usize, usize),
    needed: usize,
) -> Result<Vec<T>> {
    let pixels = width * height;
    let stored = all.len().checked_div(pixels).unwrap_or(0);
    if stored < needed || !all.len().is_multiple_of(pixels) {
        return Err(unread("fewer samples than its pixels need"));
    }
    if planes > 1 {
        return Ok((0..pixels)
            .flat_map(|at| (0..needed).map(move |n| all[n * pixels + at]))
            .collect());
    }
    Ok(all.chunks_exact(stored).flat_map(|pixel| &pixel[..needed]).copied().collect())
}

/// Expands samples of fewer than 8 bits to a byte each: scaled to the full range, or the index of a colour.
fn unpacked(all: &[u8], width: usize, stride: usize, bits: u8, colours: &Colours) -> Vec<u8> {
    let most = (1_u8 << bits) - 1;
    let factor = if matches!(colours, Colours::Grey) { 255 / most } else { 1 };
    let each = usize::from(8 / bits);
    let rows = all.chunks_exact(stride.max(1));
    rows.flat_map(|row| {
        (0..width).map(move |x| {
            let place = u8::try_from(x % each).unwrap_or(0) + 1;
            (row[x / each] >> (8 - place * bits) & most) * factor
        })
    })
    .collect()
}

/// Converts `YCbCr`, as JPEG has it, to red, green and blue.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "limited before")]
fn rgb(pixel: &mut [u8]) {
    let [y, blue, red] = [0_usize, 1, 2].map(|at| f32::from(pixel[at]));
    let (blue, red) = (blue - 128.0, red - 128.0);
    let colours = [y + 1.402 * red, y - 0.344_136 * blue - 0.714_136 * red, y + 1.772 * blue];
    for (sample, colour) in pixel.iter_mut().zip(colours) {
        *sample = colour.round().clamp(0.0, 255.0) as u8;
    }
}

/// Reads a field of a directory, if its type is one that EXIF has.
fn value(decoder: &mut Decoder<Source>, directory: &Directory, tag: Tag) -> Option<Field> {
    let mut buffer = ValueBuffer::empty(Type::BYTE);
    decoder.read_directory_tags(directory).find_tag_buf(tag, &mut buffer).ok().flatten()?;
    let kind = buffer.data_type().to_u16();
    exif::bytes_of(kind)?;
    buffer.set_byte_order(ByteOrder::LittleEndian);
    Some(Field { tag: tag.to_u16(), kind, data: buffer.as_bytes().to_vec() })
}

fn tiff_error(error: TiffError) -> PictureError {
    match error {
        TiffError::IoError(error) => image_error(ImageError::IoError(error)),
        TiffError::LimitsExceeded => too_large(),
        other => unusable(format!("cannot be decoded: {other}")),
    }
}

pub(super) fn cmyk() -> PictureError {
    unusable("has the colours of a printer (CMYK): convert it to RGB first")
}

fn unread(what: &str) -> PictureError {
    unusable(format!(
        "has samples of a kind that is not read ({what}): save it as RGB or grey with 8 or 16 bits, or \
         with floating-point numbers of 32"
    ))
}
