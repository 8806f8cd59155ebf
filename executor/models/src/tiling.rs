//! Cuts a picture into tiles that overlap, so that a network's results fit together without a seam.

use pictor_tasks::units::{Rect, Resolution};
use std::num::NonZero;

/// How a picture is cut. Tiles are counted row by row from the top left.
///
/// A network pads its input with zeros at the border. So a tile that ends where the picture ends sees the same there as
/// a run on the whole picture, and needs no overlap; everywhere else the network must see `overlap` real pixels around
/// the part that is kept. All windows have one size, and the last ones are moved inwards instead of being smaller: a
/// network that is warm for one size stays so, and no tile is a sliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    columns: Axis,
    rows: Axis,
}

/// One tile of a picture, in pixels of the picture before it is upscaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The pixels that are passed to the network.
    pub window: Rect,
    /// The pixels whose result is kept. The cores of all tiles cover the picture exactly once.
    pub core: Rect,
}

impl Tiling {
    /// Cuts a picture into cores of about `tile` pixels and windows with `overlap` more on each side. Seams are
    /// invisible, and with exact arithmetic absent, if the overlap is at least the network's receptive field.
    pub fn new(size: Resolution, tile: NonZero<u32>, overlap: u32) -> Self {
        let axis = |length| Axis::new(length, tile.get(), overlap);
        Self { columns: axis(size.width), rows: axis(size.height) }
    }

    /// The number of tiles.
    pub fn count(self) -> u64 {
        u64::from(self.columns.count) * u64::from(self.rows.count)
    }

    /// The size of every window.
    pub fn window(self) -> Resolution {
        Resolution { width: self.columns.window, height: self.rows.window }
    }

    /// The tile with an index; `None` if there are fewer.
    pub fn tile(self, index: u64) -> Option<Tile> {
        let columns = u64::from(self.columns.count);
        let row = u32::try_from(index / columns).ok().filter(|row| *row < self.rows.count)?;
        let column = u32::try_from(index % columns).ok()?;
        let ([x0, x1], [left, right]) = self.columns.span(column);
        let ([y0, y1], [top, bottom]) = self.rows.span(row);
        Some(Tile {
            window: Rect { x0, y0, x1, y1 },
            core: Rect { x0: left, y0: top, x1: right, y1: bottom },
        })
    }

    /// All tiles, row by row from the top left.
    pub fn tiles(self) -> impl Iterator<Item = Tile> {
        (0..self.count()).filter_map(move |index| self.tile(index))
    }
}

/// The cuts along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Axis {
    length: u32,
    tile: u32,
    overlap: u32,
    window: u32,
    count: u32,
}

impl Axis {
    fn new(length: u32, tile: u32, overlap: u32) -> Self {
        let window = overlap.saturating_mul(2).saturating_add(tile).min(length);
        // The first and the last core reach to the border, and so are longer than the others by one overlap.
        let count = if window == length { 1 } else { (length - 2 * overlap).div_ceil(tile) };
        Self { length, tile, overlap, window, count }
    }

    /// The window and the core of a tile, each as its first pixel and one past its last.
    fn span(self, index: u32) -> ([u32; 2], [u32; 2]) {
        let start = (index * self.tile).min(self.length - self.window);
        let first = if index == 0 { 0 } else { index * self.tile + self.overlap };
        let is_last = index + 1 == self.count;
        let end = if is_last { self.length } else { (index + 1) * self.tile + self.overlap };
        ([start, start + self.window], [first, end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks every tile along one axis.
    fn check(length: u32, tile: u32, overlap: u32) {
        let axis = Axis::new(length, tile, overlap);
        let case = format!("length {length}, tile {tile}, overlap {overlap}");
        assert!(axis.count >= 1 && axis.window <= length, "{case}");
        let mut covered = 0;
        for index in 0..axis.count {
            let ([start, stop], [first, end]) = axis.span(index);
            assert_eq!(first, covered, "{case}: cores follow each other");
            assert!(first < end, "{case}: no core is empty");
            assert_eq!(stop - start, axis.window, "{case}: windows are equal");
            assert!(stop <= length && start <= first && end <= stop, "{case}");
            assert!(start == 0 || first - start >= overlap, "{case}: overlap before");
            assert!(stop == length || stop - end >= overlap, "{case}: overlap after");
            covered = end;
        }
        assert_eq!(covered, length, "{case}: cores cover the picture");
    }

    #[test]
    fn cores_cover_the_picture_once_and_windows_overlap_enough() {
        for length in 1..70 {
            for tile in 1..40 {
                for overlap in 0..24 {
                    check(length, tile, overlap);
                }
            }
        }
    }

    #[test]
    fn sizes_at_the_limits_neither_overflow_nor_leave_anything_out() {
        for (length, tile, overlap) in [
            (65_536, 1, 0),
            (65_536, 512, 32),
            (65_536, u32::MAX, u32::MAX),
            (65_536, 1, 32_767),
            (1, u32::MAX, 0),
        ] {
            check(length, tile, overlap);
        }
    }

    #[test]
    fn tiles_are_counted_row_by_row_and_end() {
        let size = Resolution { width: 100, height: 50 };
        let tiling = Tiling::new(size, NonZero::new(30).unwrap(), 5);
        assert_eq!(tiling.window(), Resolution { width: 40, height: 40 });
        assert_eq!(tiling.count(), 6);
        assert_eq!(tiling.tiles().count(), 6);
        let last = Tile {
            window: Rect { x0: 60, y0: 10, x1: 100, y1: 50 },
            core: Rect { x0: 65, y0: 35, x1: 100, y1: 50 },
        };
        assert_eq!(tiling.tile(5), Some(last));
        assert_eq!(tiling.tile(6), None);
        assert_eq!(tiling.tile(u64::MAX), None);
    }
}
