//! Quantities in human-readable form: durations, sizes in bytes, picture sizes and grids of tiles. Each has one text
//! form for parsing and printing, which is also its form in JSON and in the job file.

use serde::{Deserialize, Serialize, de};
use std::{fmt, str::FromStr};

/// The longest duration: ten years of 365 days.
const MILLIS_MAX: u64 = 3_650 * 86_400_000;
/// The largest size in bytes: the limit of a signed 64-bit integer in a database.
const BYTES_MAX: u64 = i64::MAX as u64;
/// The largest width or height of a picture.
const PIXELS_MAX: u32 = 65_536;
/// The most columns or rows of a grid.
const GRID_MAX: u32 = 256;

const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// The error for a text that is not a valid quantity. Says what was wrong and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// A text, or an integer that is taken as the text in which it is written.
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl de::Visitor<'_> for TextVisitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A duration in milliseconds, written as a number with one of the units `ms`, `s`, `m`, `h`, `d`; a number alone is in
/// seconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "Text", into = "String")]
pub struct Millis(pub u64);

impl FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "expected a duration such as `500ms`, `5s`, `90m`, `1.5h` or `2d`";
        let unit = |unit: &str| match unit {
            "" => (!text.contains('.')).then_some(1_000),
            _ => DURATIONS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size),
        };
        quantity(text, unit, MILLIS_MAX)
            .map(Self)
            .map_err(|problem| problem.explain(text, expected, "3650d"))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, size): &&(&str, u64)| self.0.is_multiple_of(*size);
        let seconds = ("s", 1_000);
        let (unit, size) = match self.0 {
            0 => seconds,
            _ => *DURATIONS.iter().find(exact).expect("one millisecond divides everything"),
        };
        write!(f, "{}{unit}", self.0 / size)
    }
}

/// A size in bytes, written as a number with a unit: `8GiB`, `500MB`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "Text", into = "String")]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "expected a size such as `8GiB`, `500MB` or `4096B`";
        let unit = |unit: &str| {
            SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, size)| *size)
        };
        quantity(text, unit, BYTES_MAX)
            .map(Self)
            .map_err(|problem| problem.explain(text, expected, "8 388 607 TiB"))
    }
}

impl Bytes {
    /// The shortest integer and unit that give exactly this size.
    fn exact(self) -> (u64, &'static str) {
        SIZES
            .iter()
            .filter(|(_, size)| self.0.is_multiple_of(*size) && self.0 >= *size)
            .map(|(unit, size)| (self.0 / size, *unit))
            .min_by_key(|(number, _)| *number)
            .unwrap_or((self.0, "B"))
    }
}

/// Prints `24 GiB`, `500 MB`, or a rounded `7.6 GiB` for other sizes. The form in JSON is exact.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = self.exact();
        if number < 10_000 {
            return write!(f, "{number} {unit}");
        }
        let binary = |(unit, size): &&(&str, u64)| unit.contains('i') && self.0 >= *size;
        let (unit, size) = SIZES.iter().find(binary).expect("10 000 bytes are more than a KiB");
        let tenths = (u128::from(self.0) * 10 + u128::from(size / 2)) / u128::from(*size);
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// The size of a picture in pixels, written `1280x720`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Resolution {
    /// Columns of pixels, 1 to 65,536.
    pub width: u32,
    /// Rows of pixels, 1 to 65,536.
    pub height: u32,
}

impl FromStr for Resolution {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (width, height) = pair(text, PIXELS_MAX).ok_or_else(|| {
            UnitError(format!(
                "`{text}` is not a picture size: expected WIDTHxHEIGHT such as `1280x720`, \
                 each 1 to {PIXELS_MAX}"
            ))
        })?;
        Ok(Self { width, height })
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A grid of tiles, written `4x4`: columns, then rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Grid {
    /// Tiles side by side, 1 to 256.
    pub columns: u32,
    /// Tiles one above the other, 1 to 256.
    pub rows: u32,
}

/// A part of a picture in pixels. The origin is the top left corner, and the ends are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rect {
    /// The leftmost column, from 0.
    pub x0: u32,
    /// The topmost row, from 0.
    pub y0: u32,
    /// One past the last column.
    pub x1: u32,
    /// One past the last row.
    pub y1: u32,
}

impl Grid {
    /// The number of tiles in the grid.
    pub fn tiles(self) -> u32 {
        self.columns * self.rows
    }

    /// The pixels of a tile; tiles are counted row by row from the top left. They cover the picture exactly and differ
    /// by at most one pixel in width and height. Returns `None` if there is no such tile, or if the picture has fewer
    /// pixels than the grid has columns or rows.
    pub fn rect(self, tile: u32, size: Resolution) -> Option<Rect> {
        if tile >= self.tiles() || self.columns > size.width || self.rows > size.height {
            return None;
        }
        let (column, row) = (tile % self.columns, tile / self.columns);
        Some(Rect {
            x0: column * size.width / self.columns,
            y0: row * size.height / self.rows,
            x1: (column + 1) * size.width / self.columns,
            y1: (row + 1) * size.height / self.rows,
        })
    }
}

impl FromStr for Grid {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (columns, rows) = pair(text, GRID_MAX).ok_or_else(|| {
            UnitError(format!(
                "`{text}` is not a grid: expected COLUMNSxROWS such as `4x4`, each 1 to {GRID_MAX}"
            ))
        })?;
        Ok(Self { columns, rows })
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.columns, self.rows)
    }
}

impl TryFrom<Text> for Millis {
    type Error = UnitError;
    fn try_from(text: Text) -> Result<Self, UnitError> {
        text.0.parse()
    }
}

impl TryFrom<Text> for Bytes {
    type Error = UnitError;
    fn try_from(text: Text) -> Result<Self, UnitError> {
        text.0.parse()
    }
}

impl TryFrom<Text> for Resolution {
    type Error = UnitError;
    fn try_from(text: Text) -> Result<Self, UnitError> {
        text.0.parse()
    }
}

impl TryFrom<Text> for Grid {
    type Error = UnitError;
    fn try_from(text: Text) -> Result<Self, UnitError> {
        text.0.parse()
    }
}

impl From<Millis> for String {
    fn from(millis: Millis) -> Self {
        millis.to_string()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        let (number, unit) = bytes.exact();
        format!("{number}{unit}")
    }
}

impl From<Resolution> for String {
    fn from(resolution: Resolution) -> Self {
        resolution.to_string()
    }
}

impl From<Grid> for String {
    fn from(grid: Grid) -> Self {
        grid.to_string()
    }
}

enum Problem {
    Malformed,
    TooLarge,
}

impl Problem {
    fn explain(self, text: &str, expected: &str, limit: &str) -> UnitError {
        UnitError(match self {
            Self::Malformed => format!("`{text}`: {expected}"),
            Self::TooLarge => format!("`{text}` is too large: at most {limit}"),
        })
    }
}

/// Parses a decimal number and its unit exactly, and rounds to the nearest integer of the base unit.
fn quantity(text: &str, unit: impl Fn(&str) -> Option<u64>, max: u64) -> Result<u64, Problem> {
    let text = text.trim();
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.find(|c| !is_number(c)).unwrap_or(text.len());
    let size = unit(text[end..].trim_start()).ok_or(Problem::Malformed)?;
    let (whole, fraction) = text[..end].split_once('.').unwrap_or((&text[..end], "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(Problem::Malformed);
    }
    let whole: u64 = whole.parse().map_err(|_| Problem::TooLarge)?;
    let part: u64 = fraction.parse().map_err(|_| Problem::Malformed)?;
    let scale = (0..fraction.len()).fold(1_u128, |scale, _| scale * 10);
    let total = u128::from(whole) * scale + u128::from(part);
    let rounded = (total * u128::from(size) + scale / 2) / scale;
    u64::try_from(rounded).ok().filter(|n| *n <= max).ok_or(Problem::TooLarge)
}

fn pair(text: &str, max: u32) -> Option<(u32, u32)> {
    let number = |digits: &str| {
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|n| plain && (1..=max).contains(n))
    };
    let (first, second) = text.trim().split_once('x')?;
    Some((number(first)?, number(second)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_every_unit_and_with_fractions() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5_000), ("1.5h", 5_400_000), ("7", 7_000), ("2 d", 172_800_000)]
        {
            assert_eq!(text.parse(), Ok(Millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5", "1..5s", "1.s", ".5s", "5 weeks", "1e3s", "99999d"] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_people_write_them() {
        for (bytes, text) in [
            (24 << 30, "24 GiB"),
            (500_000_000, "500 MB"),
            (0, "0 B"),
            (8_160_437_862, "7.6 GiB"),
            (1_023, "1023 B"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!("1.5gib".parse(), Ok(Bytes(3 << 29)));
        for text in ["8", "8G", "GiB", "9999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        for text in ["0x1", "1x0", "65537x1", "1280", "1280x720x2", "+1x1", "axb", "1 x 1"] {
            assert!(text.parse::<Resolution>().is_err(), "{text}");
        }
        assert!("257x1".parse::<Grid>().is_err());
        let small = Resolution { width: 3, height: 9 };
        assert_eq!(Grid { columns: 4, rows: 1 }.rect(0, small), None);
        assert_eq!(Grid { columns: 2, rows: 2 }.rect(4, small), None);
    }

    proptest! {
        #[test]
        fn quantities_survive_their_text_form(n in 0..=MILLIS_MAX, b in 0..=BYTES_MAX) {
            let json = serde_json::to_string(&(Millis(n), Bytes(b))).unwrap();
            prop_assert_eq!(serde_json::from_str::<(Millis, Bytes)>(&json).unwrap(), (Millis(n), Bytes(b)));
        }

        #[test]
        fn tiles_cover_every_pixel_exactly_once(
            (columns, rows) in (1..=256_u32, 1..=256_u32),
            (more_width, more_height) in (0..=65_280_u32, 0..=65_280_u32),
        ) {
            let grid = Grid { columns, rows };
            let size = Resolution { width: columns + more_width, height: rows + more_height };
            prop_assert_eq!(grid.to_string().parse(), Ok(grid));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let rect = |column, row| grid.rect(row * columns + column, size).unwrap();
            let mut x = 0;
            for column in 0..columns {
                let tile = rect(column, 0);
                prop_assert_eq!(tile.x0, x);
                prop_assert!((tile.x1 - tile.x0).abs_diff(size.width / columns) <= 1);
                x = tile.x1;
            }
            prop_assert_eq!(x, size.width);
            let mut y = 0;
            for row in 0..rows {
                let (tile, last) = (rect(0, row), rect(columns - 1, row));
                prop_assert_eq!((tile.y0, last.y0, last.y1), (y, y, tile.y1));
                prop_assert!((tile.y1 - tile.y0).abs_diff(size.height / rows) <= 1);
                y = tile.y1;
            }
            prop_assert_eq!(y, size.height);
        }

        #[test]
        fn no_text_makes_a_quantity_panic(text in "\\PC{0,24}", digits in "[0-9.]{0,30}[a-zA-Z]{0,3}") {
            for text in [text, digits] {
                let _ = (text.parse::<Millis>(), text.parse::<Bytes>());
                let _ = (text.parse::<Resolution>(), text.parse::<Grid>());
            }
        }
    }
}
