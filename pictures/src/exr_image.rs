//! EXR pictures with any channels and layers: read, checked, cut, pasted and written without
//! changing a bit of a sample.

mod layers;

use exr::block::reader::Reader;
use exr::block::writer::ChunksWriter as _;
use exr::block::{BlockIndex, UncompressedBlock};
use exr::compression::Compression;
use exr::image::write::layers::{LayersWriter as _, WritableLayers as _};
use exr::image::{AnyChannel, AnyChannels, Blocks, Encoding, FlatImage, FlatSamples, Image, Layer};
use exr::math::Vec2;
use exr::meta::attribute::{IntegerBounds, LineOrder};
use exr::prelude::{ReadChannels as _, ReadLayers as _, WritableImage as _, f16, read};
use pictor_tasks::units::{Rect, Resolution};
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::{available_parallelism, scope};

/// What is wrong with an EXR file.
#[derive(Debug, thiserror::Error)]
pub enum ExrError {
    /// The file does not exist.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// The file ends before the last of its pixels.
    #[error("{0} is cut short: it ends before all of its pixels")]
    Truncated(PathBuf),
    /// The file is not an EXR, is damaged, or uses something that is not supported (deep pixels).
    #[error("{0} cannot be decoded: {1}")]
    Undecodable(PathBuf, String),
    /// The disk or the file system failed.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// The file decodes, but is not the expected picture.
    #[error("{0} {1}")]
    Wrong(PathBuf, String),
}

/// Counts of samples that are not finite. As fireflies are common, they lead to a note and not to a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Samples of floating-point types, which are those that can be NaN.
    pub floats: u64,
    /// How many of them are NaN.
    pub nan: u64,
    /// How many of them are infinite.
    pub infinite: u64,
}

impl Stats {
    /// A sentence for the user; `None` if all samples are finite.
    pub fn note(self) -> Option<String> {
        let Self { floats, nan, infinite } = self;
        (nan + infinite > 0).then(|| {
            format!("of {floats} values of the picture {nan} are NaN and {infinite} are infinite")
        })
    }

    fn add(&mut self, values: impl Iterator<Item = f32>) {
        for value in values {
            self.floats += 1;
            self.nan += u64::from(value.is_nan());
            self.infinite += u64::from(value.is_infinite());
        }
    }
}

/// A decoded EXR file.
#[derive(Clone, Debug)]
pub struct ExrImage {
    image: FlatImage,
    size: Resolution,
}

/// Reads a picture's size.
pub fn size(path: &Path) -> Result<Resolution, ExrError> {
    size_of(path, &open(path)?)
}

/// Reads and checks a picture: the file must exist, decode to its last pixel, have exactly the size `expected`, and
/// must not consist of NaN only.
pub fn check(path: &Path, expected: Resolution) -> Result<(ExrImage, Stats), ExrError> {
    let wrong = |message: String| Err(ExrError::Wrong(path.to_owned(), message));
    let size = size(path)?;
    if size != expected {
        return wrong(format!("is {size} pixels, not {expected}"));
    }
    let image = ExrImage::read(path)?;
    let stats = image.stats();
    if stats.floats > 0 && stats.floats == stats.nan {
        return wrong("is NaN in every pixel".into());
    }
    Ok((image, stats))
}

impl ExrImage {
    /// Decodes a file, with all of its layers, channels and attributes.
    pub fn read(path: &Path) -> Result<Self, ExrError> {
        let reader = open(path)?;
        let size = size_of(path, &reader)?;
        let image = read()
            .no_deep_data()
            .largest_resolution_level()
            .all_channels()
            .all_layers()
            .all_attributes()
            .from_chunks(reader)
            .map_err(|error| exr_error(path, error))?;
        let subsampled = |c: &AnyChannel<FlatSamples>| c.sampling != Vec2(1, 1);
        if let Some(channel) = channels(&image).find(|c| subsampled(c)) {
            let message = format!("channel {} has fewer samples than pixels", channel.name);
            return Err(ExrError::Undecodable(path.to_owned(), message));
        }
        Ok(Self { image, size })
    }

    /// The width and height, which all layers share.
    pub fn size(&self) -> Resolution {
        self.size
    }

    /// Every channel with its layer, name and sample type, as in `ViewLayer.Depth.Z (f32)`.
    pub fn layout(&self) -> Vec<String> {
        let mut names = Vec::new();
        for layer in &self.image.layer_data {
            let prefix = layer.attributes.layer_name.as_ref().map(|n| format!("{n}: "));
            names.extend(layer.channel_data.list.iter().map(|channel| {
                let kind = match channel.sample_data {
                    FlatSamples::F16(_) => "f16",
                    FlatSamples::F32(_) => "f32",
                    FlatSamples::U32(_) => "u32",
                };
                format!("{}{} ({kind})", prefix.as_deref().unwrap_or(""), channel.name)
            }));
        }
        names
    }

    /// Counts the samples that are not finite.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for channel in channels(&self.image) {
            match &channel.sample_data {
                FlatSamples::F16(values) => stats.add(values.iter().map(|v| v.to_f32())),
                FlatSamples::F32(values) => stats.add(values.iter().copied()),
                FlatSamples::U32(_) => {}
            }
        }
        stats
    }

    /// BLAKE3 over the channels' names, types and bits: the same for the same pixels, whatever the file's compression
    /// and attributes.
    pub fn pixel_digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {:?}", self.size, self.layout()).as_bytes());
        let mut add = |bytes: Vec<u8>| {
            hasher.update(&bytes);
        };
        let width = self.size.width as usize;
        for channel in channels(&self.image) {
            match &channel.sample_data {
                FlatSamples::F16(all) => all.chunks(width).for_each(|row| {
                    add(row.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect());
                }),
                FlatSamples::F32(all) => all.chunks(width).for_each(|row| {
                    add(row.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect());
                }),
                FlatSamples::U32(all) => all.chunks(width).for_each(|row| {
                    add(row.iter().flat_map(|v| v.to_le_bytes()).collect());
                }),
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// A picture of another size with the same layers, channels and attributes; all samples are 0.
    #[must_use]
    pub fn canvas(&self, size: Resolution) -> Self {
        let pixels = size.width as usize * size.height as usize;
        let layers = self.image.layer_data.iter().map(|layer| {
            let list = layer.channel_data.list.iter().map(|channel| AnyChannel {
                name: channel.name.clone(),
                sample_data: match channel.sample_data {
                    FlatSamples::F16(_) => FlatSamples::F16(vec![f16::ZERO; pixels]),
                    FlatSamples::F32(_) => FlatSamples::F32(vec![0.0; pixels]),
                    FlatSamples::U32(_) => FlatSamples::U32(vec![0; pixels]),
                },
                ..*channel
            });
            let mut attributes = layer.attributes.clone();
            attributes.layer_position = Vec2(0, 0);
            Layer {
                channel_data: AnyChannels { list: list.collect() },
                attributes,
                size: Vec2(size.width as usize, size.height as usize),
                encoding: ENCODING,
            }
        });
        let mut attributes = self.image.attributes.clone();
        attributes.display_window =
            IntegerBounds::from_dimensions(Vec2(size.width as usize, size.height as usize));
        Self { image: Image { attributes, layer_data: layers.collect() }, size }
    }

    /// The part of the picture inside `area`, which must lie within the picture.
    #[must_use]
    pub fn cut(&self, area: Rect) -> Self {
        let mut part =
            self.canvas(Resolution { width: area.x1 - area.x0, height: area.y1 - area.y0 });
        copy(self, (area.x0, area.y0), &mut part, area_at_origin(area));
        part
    }

    /// Copies `tile` into the picture with its top left corner at `x`, `y`. It must have the same [`Self::layout`] and
    /// fit.
    pub fn paste(&mut self, tile: &Self, x: u32, y: u32) {
        let area = Rect { x0: x, y0: y, x1: x + tile.size.width, y1: y + tile.size.height };
        copy(tile, (0, 0), self, area);
    }

    /// Writes the file: every sample bit for bit, with ZIP compression on several threads.
    pub fn write(&self, path: &Path) -> Result<(), ExrError> {
        let headers = self.image.write().infer_meta_data();
        let pixels = self.image.layer_data.create_writer(&headers);
        let compress = |&(place, index): &(usize, BlockIndex)| {
            let data = pixels.extract_uncompressed_block(&headers, index);
            let chunk = UncompressedBlock { index, data }.compress_to_chunk(&headers)?;
            Ok((place, chunk))
        };
        let threads = available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let file = File::create(path).map_err(|error| io_error(path, error))?;
        let written =
            exr::block::write(BufWriter::new(file), headers.clone(), true, |meta, file| {
                let blocks: Vec<_> = meta.enumerate_ordered_header_block_indices().collect();
                for batch in blocks.chunks(threads * BLOCKS_PER_THREAD) {
                    for (place, chunk) in in_parallel(batch, &compress)? {
                        file.write_chunk(place, chunk)?;
                    }
                }
                Ok(())
            });
        written.map_err(|error| exr_error(path, error))
    }
}

/// The results of `work`, in the order of the items.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: &(impl Fn(&T) -> exr::error::Result<R> + Sync),
) -> exr::error::Result<Vec<R>> {
    scope(|scope| {
        let parts = items.chunks(BLOCKS_PER_THREAD);
        let start = |part: &'_ [T]| part.iter().map(work).collect::<Vec<_>>();
        let running: Vec<_> = parts.map(|part| scope.spawn(move || start(part))).collect();
        let done = running.into_iter().flat_map(|thread| thread.join().expect("no panic inside"));
        done.collect()
    })
}

/// The most threads that compress one file, and the blocks that each of them takes at a time.
const THREADS_MAX: usize = 8;
const BLOCKS_PER_THREAD: usize = 4;

const ENCODING: Encoding = Encoding {
    compression: Compression::ZIP16,
    blocks: Blocks::ScanLines,
    line_order: LineOrder::Increasing,
};

fn channels(image: &FlatImage) -> impl Iterator<Item = &AnyChannel<FlatSamples>> {
    image.layer_data.iter().flat_map(|layer| &layer.channel_data.list)
}

fn area_at_origin(area: Rect) -> Rect {
    Rect { x0: 0, y0: 0, x1: area.x1 - area.x0, y1: area.y1 - area.y0 }
}

/// Copies pixels from `from`, starting at `at`, into the rectangle `area` of `to`.
fn copy(from: &ExrImage, at: (u32, u32), to: &mut ExrImage, area: Rect) {
    let (width, height) = (area.x1 - area.x0, area.y1 - area.y0);
    assert!(at.0 + width <= from.size.width && at.1 + height <= from.size.height, "cut fits");
    assert!(area.x1 <= to.size.width && area.y1 <= to.size.height, "paste fits");
    let (from_width, to_width) = (from.size.width as usize, to.size.width as usize);
    let source = channels(&from.image);
    let target = to.image.layer_data.iter_mut().flat_map(|layer| &mut layer.channel_data.list);
    for (source, target) in source.zip(target) {
        for row in 0..height {
            let start = (at.1 + row) as usize * from_width + at.0 as usize;
            let read = start..start + width as usize;
            let start = (area.y0 + row) as usize * to_width + area.x0 as usize;
            let write = start..start + width as usize;
            match (&source.sample_data, &mut target.sample_data) {
                (FlatSamples::F16(a), FlatSamples::F16(b)) => b[write].copy_from_slice(&a[read]),
                (FlatSamples::F32(a), FlatSamples::F32(b)) => b[write].copy_from_slice(&a[read]),
                (FlatSamples::U32(a), FlatSamples::U32(b)) => b[write].copy_from_slice(&a[read]),
                _ => unreachable!("pictures of one layout have the same types"),
            }
        }
    }
}

fn open(path: &Path) -> Result<Reader<BufReader<File>>, ExrError> {
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    exr::block::read(BufReader::new(file), false).map_err(|error| exr_error(path, error))
}

/// Returns the size of the layers; an error if they differ in size or the picture is empty.
fn size_of(path: &Path, reader: &Reader<BufReader<File>>) -> Result<Resolution, ExrError> {
    let undecodable = |message: &str| ExrError::Undecodable(path.to_owned(), message.into());
    let headers = reader.headers();
    let size = headers.first().map_or(Vec2(0, 0), |header| header.layer_size);
    if size.area() == 0 || headers.iter().all(|header| header.channels.list.is_empty()) {
        return Err(undecodable("it has no pixels"));
    }
    if headers.iter().any(|header| header.deep) {
        return Err(undecodable("its pixels are deep"));
    }
    if headers.iter().any(|header| header.layer_size != size) {
        return Err(undecodable("its layers have different sizes"));
    }
    let (width, height) = (u32::try_from(size.0), u32::try_from(size.1));
    width
        .ok()
        .zip(height.ok())
        .map(|(width, height)| Resolution { width, height })
        .ok_or_else(|| undecodable("it is too large"))
}

fn io_error(path: &Path, error: std::io::Error) -> ExrError {
    match error.kind() {
        ErrorKind::NotFound => ExrError::Missing(path.to_owned()),
        ErrorKind::UnexpectedEof => ExrError::Truncated(path.to_owned()),
        _ => ExrError::Io(path.to_owned(), error),
    }
}

fn exr_error(path: &Path, error: exr::error::Error) -> ExrError {
    match error {
        exr::error::Error::Io(error) => io_error(path, error),
        // The decoder's message for an unexpected end of the file.
        exr::error::Error::Invalid(message) if message == "reference to missing bytes" => {
            ExrError::Truncated(path.to_owned())
        }
        other => ExrError::Undecodable(path.to_owned(), other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_judged_by_its_size_and_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.exr");
        let expected: Resolution = "8x4".parse().unwrap();
        let write = |value: fn(usize, usize) -> f32| {
            let pixel = move |x, y| (value(x, y), value(x, y), value(x, y));
            exr::prelude::write_rgb_file(&path, 8, 4, pixel).unwrap();
        };
        let reason = || check(&path, expected).unwrap_err().to_string();
        assert!(reason().ends_with("a.exr does not exist"));
        write(|x, y| if (x, y) == (3, 2) { f32::NAN } else { [f32::INFINITY, 1.0, 2.0, 3.0][y] });
        let (image, stats) = check(&path, expected).unwrap();
        assert_eq!((stats.floats, stats.nan, stats.infinite), (96, 3, 24));
        assert!(stats.note().unwrap().contains("of 96 values of the picture 3 are NaN"));
        assert_eq!(image.layout(), ["B (f32)", "G (f32)", "R (f32)"]);
        let other = check(&path, "8x5".parse().unwrap()).unwrap_err().to_string();
        assert!(other.ends_with("is 8x4 pixels, not 8x5"), "{other}");
        write(|_, _| f32::NAN);
        assert!(reason().ends_with("is NaN in every pixel"), "{}", reason());
        write(|_, _| 0.5);
        let (_, stats) = check(&path, expected).unwrap();
        assert_eq!(stats.note(), None);
    }
}
