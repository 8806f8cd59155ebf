//! Pictures as linear pixels, and the Merkle root that binds a worker to them: a checker fetches only the blocks that
//! it compares, each with its path to the signed root. The root shows which pixels were sent, not that they are right.

use crate::hex::Digest;
use pictor_tasks::units::Rect;
use serde::{Deserialize, Serialize};

/// The side of a block, in pixels. Blocks at the right and lower border are smaller.
pub const BLOCK: u32 = 64;
/// The largest width or height.
pub const SIDE_MAX: u32 = 65_536;
/// The most channels.
pub const CHANNELS_MAX: u32 = 256;

/// What a picture's size must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPicture {
    /// A side or the number of channels is zero or too large.
    #[error(
        "{0} is not a picture of 1 to {SIDE_MAX} pixels on a side and 1 to {CHANNELS_MAX} channels"
    )]
    Shape(Shape),
    /// The number of values is not width × height × channels.
    #[error("{shape} has not {values} values")]
    Values {
        /// The shape.
        shape: Shape,
        /// How many values there are.
        values: usize,
    },
}

/// The size of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Values of a pixel.
    pub channels: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{} with {} channels", self.width, self.height, self.channels)
    }
}

impl Shape {
    /// Checks the limits of sides and channels.
    pub fn check(self) -> Result<(), BadPicture> {
        let side = 1..=SIDE_MAX;
        let fits = side.contains(&self.width)
            && side.contains(&self.height)
            && (1..=CHANNELS_MAX).contains(&self.channels);
        if fits { Ok(()) } else { Err(BadPicture::Shape(self)) }
    }

    /// How many blocks lie side by side.
    pub fn columns(self) -> u32 {
        self.width.div_ceil(BLOCK)
    }

    /// How many blocks there are, counted row by row from the top left.
    pub fn blocks(self) -> u32 {
        self.columns() * self.height.div_ceil(BLOCK)
    }

    /// The pixels of a block; `None` if there is no such block.
    pub fn block(self, index: u32) -> Option<Rect> {
        if index >= self.blocks() {
            return None;
        }
        let (x, y) = (index % self.columns() * BLOCK, index / self.columns() * BLOCK);
        let (x1, y1) = ((x + BLOCK).min(self.width), (y + BLOCK).min(self.height));
        Some(Rect { x0: x, y0: y, x1, y1 })
    }

    /// A rectangle with so many more pixels on each side, as far as the picture has them: what to render where pixels
    /// depend on their neighbours, as with adaptive sampling.
    #[must_use]
    pub fn widen(self, rect: Rect, pixels: u32) -> Rect {
        Rect {
            x0: rect.x0.saturating_sub(pixels),
            y0: rect.y0.saturating_sub(pixels),
            x1: rect.x1.saturating_add(pixels).min(self.width),
            y1: rect.y1.saturating_add(pixels).min(self.height),
        }
    }

    /// The number of values of a rectangle inside the picture.
    fn values(self, rect: Rect) -> u64 {
        u64::from(rect.x1 - rect.x0) * u64::from(rect.y1 - rect.y0) * u64::from(self.channels)
    }
}

/// Linear pixels, row by row from the top, each with its channels.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    shape: Shape,
    values: &'a [f32],
}

impl<'a> Picture<'a> {
    /// A picture of a shape. Fails if the shape is out of its limits or has another number of values.
    pub fn new(shape: Shape, values: &'a [f32]) -> Result<Self, BadPicture> {
        shape.check()?;
        let whole = Rect { x0: 0, y0: 0, x1: shape.width, y1: shape.height };
        if shape.values(whole) != values.len() as u64 {
            return Err(BadPicture::Values { shape, values: values.len() });
        }
        Ok(Self { shape, values })
    }

    /// Its size.
    pub fn shape(self) -> Shape {
        self.shape
    }

    /// Its values.
    pub fn values(self) -> &'a [f32] {
        self.values
    }

    /// The values of a rectangle; `None` if it is empty or not inside the picture.
    pub fn crop(self, rect: Rect) -> Option<Vec<f32>> {
        let Shape { width, height, channels } = self.shape;
        let Rect { x0, y0, x1, y1 } = rect;
        if x0 >= x1 || x1 > width || y0 >= y1 || y1 > height {
            return None;
        }
        let at = |column: u32| column as usize * channels as usize;
        let rows = self.values.chunks_exact(at(width)).skip(y0 as usize).take((y1 - y0) as usize);
        Some(rows.flat_map(|row| &row[at(x0)..at(x1)]).copied().collect())
    }
}

/// The bits of a value that are hashed. Values that are equal have equal bits: -0.0 is taken as 0.0, and every NaN as
/// the quiet one without payload.
fn bits(value: f32) -> u32 {
    match value {
        _ if value.is_nan() => 0x7fc0_0000,
        0.0 => 0,
        _ => value.to_bits(),
    }
}

fn leaf(index: u32, rect: Rect, values: &[f32]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(13 + 4 * values.len());
    bytes.push(0);
    let (width, height) = (rect.x1 - rect.x0, rect.y1 - rect.y0);
    bytes.extend([index, width, height].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(values.iter().flat_map(|value| bits(*value).to_le_bytes()));
    blake3::hash(&bytes).into()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(&[1]).update(left).update(right).finalize().into()
}

/// Binds the shape too: 128x64 and 64x128 pixels may have the same blocks.
fn crown(shape: Shape, top: &[u8; 32]) -> Digest {
    let mut hash = blake3::Hasher::new();
    hash.update(&[2]);
    for side in [shape.width, shape.height, shape.channels] {
        hash.update(&side.to_le_bytes());
    }
    Digest(hash.update(top).finalize().into())
}

/// The Merkle tree over the blocks of a picture. A leaf is BLAKE3 of 0, the block's index, width and height (u32,
/// little endian) and its values (f32, little endian, row by row, in the form of a picture of its own); a node that of
/// 1 and its two children; a node without a sibling moves up as it is; the root is BLAKE3 of 2, the picture's width,
/// height and channels, and the topmost node.
#[derive(Clone, Debug)]
pub struct Tree {
    shape: Shape,
    /// The leaves, the nodes above them, …, the topmost node.
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    /// The tree of a picture.
    pub fn new(picture: Picture<'_>) -> Self {
        let shape = picture.shape;
        let blocks = (0..shape.blocks()).filter_map(|index| Some((index, shape.block(index)?)));
        let leaves: Vec<_> = blocks
            .filter_map(|(index, rect)| Some(leaf(index, rect, &picture.crop(rect)?)))
            .collect();
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                rest => rest[0],
            });
            levels.push(above.collect());
        }
        Self { shape, levels }
    }

    /// The root.
    pub fn root(&self) -> Digest {
        let top = self.levels.last().and_then(|level| level.first());
        crown(self.shape, top.expect("a picture has at least one block"))
    }

    /// The siblings on the way from a block to the root; `None` if there is no such block.
    pub fn path(&self, index: u32) -> Option<Vec<Digest>> {
        if index >= self.shape.blocks() {
            return None;
        }
        let levels = self.levels.iter().enumerate();
        let sibling = |(up, level): (usize, &Vec<[u8; 32]>)| {
            level.get((index as usize >> up) ^ 1).map(|hash| Digest(*hash))
        };
        Some(levels.filter_map(sibling).collect())
    }
}

/// What is signed of the decoded pixels of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPixels {
    /// Width, height and channels.
    pub shape: Shape,
    /// The Merkle root over the linear pixels: [`Tree::root`].
    pub root: Digest,
}

/// Why a block does not belong to a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    /// The picture has no such block.
    #[error("the picture has no block {0}")]
    NoBlock(u32),
    /// The number of values is not that of the block.
    #[error("the block has not {0} values")]
    Values(usize),
    /// The path is too short or too long.
    #[error("the path has {found} digests instead of {expected}")]
    Path {
        /// How many it must have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// The root is that of other pixels.
    #[error("these are not the pixels that the root stands for")]
    OtherPixels,
}

/// Verifies that these values are a block of the picture that a root stands for.
pub fn verify(
    pixels: &SignedPixels,
    index: u32,
    values: &[f32],
    path: &[Digest],
) -> Result<(), BadBlock> {
    let shape = pixels.shape;
    let in_bounds = shape.check().ok();
    let rect = in_bounds.and_then(|()| shape.block(index)).ok_or(BadBlock::NoBlock(index))?;
    if shape.values(rect) != values.len() as u64 {
        return Err(BadBlock::Values(values.len()));
    }
    let mut hash = leaf(index, rect, values);
    let (mut at, mut of, mut used) = (index, shape.blocks(), 0);
    while of > 1 {
        if at ^ 1 < of {
            if let Some(Digest(sibling)) = path.get(used) {
                hash = if at & 1 == 0 { node(&hash, sibling) } else { node(sibling, &hash) };
            }
            used += 1;
        }
        (at, of) = (at / 2, of.div_ceil(2));
    }
    if used != path.len() {
        return Err(BadBlock::Path { expected: used, found: path.len() });
    }
    if crown(shape, &hash) != pixels.root {
        return Err(BadBlock::OtherPixels);
    }
    Ok(())
}
