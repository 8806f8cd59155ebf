//! EXIF: directories of fields, laid out as in a TIFF file. A picture's own EXIF is kept as it is, apart from what no
//! longer holds; a TIFF's fields are turned into EXIF, and EXIF into fields of a TIFF.

use super::tags::Density;
use pictor_tasks::units::Resolution;

/// The limit on the number of fields of a directory.
const FIELDS_MAX: usize = 1000;
/// The fields of a TIFF that describe the picture rather than how it is stored.
pub(super) const DESCRIBING: [u16; 18] = [
    269, 270, 271, 272, 285, 305, 306, 315, 316, 333, 18246, 18249, 33432, 40091, 40092, 40093,
    40094, 40095,
];
/// The field of the main directory that points to the camera's directory, followed by the one that points to GPS.
pub(super) const CAMERA: u16 = 34665;
pub(super) const PLACE: u16 = 34853;
/// The field of the camera's directory that points to one which only names the standard that is met.
const INTEROPERABILITY: u16 = 40965;
const ORIENTATION: u16 = 274;
const WIDTHS: [u16; 2] = [256, 40962];
const HEIGHTS: [u16; 2] = [257, 40963];
const RESOLUTIONS: [u16; 2] = [282, 283];
const RESOLUTION_UNIT: u16 = 296;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) tag: u16,
    /// The type of its values, as a TIFF numbers them.
    pub(super) kind: u16,
    /// The values, in little-endian order.
    pub(super) data: Vec<u8>,
}

/// The directories of an EXIF block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exif {
    pub(super) main: Vec<Field>,
    pub(super) camera: Vec<Field>,
    /// The GPS directory.
    pub(super) place: Vec<Field>,
}

/// The bytes of one number of a type, and of one value of that type; `None` for a type that EXIF does not have.
pub(super) fn bytes_of(kind: u16) -> Option<(usize, usize)> {
    Some(match kind {
        1 | 2 | 6 | 7 => (1, 1),
        3 | 8 => (2, 2),
        4 | 9 | 11 | 13 => (4, 4),
        5 | 10 => (4, 8),
        12 => (8, 8),
        _ => return None,
    })
}

struct Block<'a> {
    bytes: &'a [u8],
    big: bool,
}

/// The position of a field within a block.
struct Entry {
    tag: u16,
    kind: u16,
    count: usize,
    /// The offset of its type, which is followed by the count.
    at: usize,
}

impl<'a> Block<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let big = match bytes.get(..4)? {
            b"II*\0" => false,
            b"MM\0*" => true,
            _ => return None,
        };
        Some(Self { bytes, big })
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        let number = if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
        usize::try_from(number).ok()
    }

    fn entries(&self, directory: usize) -> Vec<Entry> {
        let count = usize::from(self.short(directory).unwrap_or(0)).min(FIELDS_MAX);
        let entry = |number: usize| {
            let start = directory + 2 + 12 * number;
            let (tag, kind) = (self.short(start)?, self.short(start + 2)?);
            Some(Entry { tag, kind, count: self.long(start + 4)?, at: start + 2 })
        };
        (0..count).map_while(entry).collect()
    }

    fn field(&self, entry: &Entry) -> Option<Field> {
        let (number, value) = bytes_of(entry.kind)?;
        let length = entry.count.checked_mul(value)?;
        let at = if length <= 4 { entry.at + 6 } else { self.long(entry.at + 6)? };
        let mut data = self.bytes.get(at..at.checked_add(length)?)?.to_vec();
        if self.big {
            data.chunks_exact_mut(number).for_each(<[u8]>::reverse);
        }
        Some(Field { tag: entry.tag, kind: entry.kind, data })
    }

    fn directory(&self, main: &[Entry], leads: u16) -> Vec<Entry> {
        let place = main.iter().find(|entry| entry.tag == leads);
        place.and_then(|entry| self.long(entry.at + 6)).map_or(vec![], |at| self.entries(at))
    }
}

impl Exif {
    /// Parses a block; damaged parts of it are left out.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let block = Block::of(bytes)?;
        let main = block.entries(block.long(4)?);
        let fields = |entries: &[Entry]| -> Vec<Field> {
            let known = entries.iter().filter_map(|entry| block.field(entry));
            known.filter(|field| ![CAMERA, PLACE, INTEROPERABILITY].contains(&field.tag)).collect()
        };
        let camera = fields(&block.directory(&main, CAMERA));
        let place = fields(&block.directory(&main, PLACE));
        Some(Self { main: fields(&main), camera, place })
    }

    /// Returns the block, or `None` if it would be empty.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut main: Vec<Field> = self.main.clone();
        let pointers: Vec<(u16, &Vec<Field>)> = [(CAMERA, &self.camera), (PLACE, &self.place)]
            .into_iter()
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        if main.is_empty() && pointers.is_empty() {
            return None;
        }
        let long = |tag, value: usize| {
            let value = u32::try_from(value).unwrap_or(0);
            Field { tag, kind: 4, data: value.to_le_bytes().to_vec() }
        };
        let own = main.len();
        main.extend(pointers.iter().map(|(tag, _)| long(*tag, 0)));
        let mut at = 8 + directory(&main, 8).len();
        let mut rest = Vec::new();
        for (number, (tag, fields)) in pointers.into_iter().enumerate() {
            main[own + number] = long(tag, at);
            let bytes = directory(fields, at);
            at += bytes.len();
            rest.extend(bytes);
        }
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        bytes.extend(directory(&main, 8));
        bytes.extend(rest);
        Some(bytes)
    }

    /// The resolution in pixels per inch.
    pub(super) fn density(&self) -> Option<Density> {
        let field = |tag| self.main.iter().find(|field| field.tag == tag);
        let number = |tag| {
            let data = &field(tag).filter(|field| field.kind == 5)?.data;
            let part = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
            Some(f64::from(part(0)?) / f64::from(part(4)?))
        };
        let unit = field(RESOLUTION_UNIT).and_then(|field| field.data.first().copied());
        let to_inch = match unit {
            None | Some(2) => 1.0,
            Some(3) => 2.54,
            Some(_) => return None,
        };
        Density::of(number(RESOLUTIONS[0])? * to_inch, number(RESOLUTIONS[1])? * to_inch)
    }

    /// Sets the resolution in pixels per inch.
    pub(super) fn set_density(&mut self, density: Density) {
        self.main.retain(|f| !RESOLUTIONS.contains(&f.tag) && f.tag != RESOLUTION_UNIT);
        for (tag, value) in RESOLUTIONS.into_iter().zip([density.x, density.y]) {
            let [number, parts] = Density::fraction(value);
            let data = [number.to_le_bytes(), parts.to_le_bytes()].concat();
            self.main.push(Field { tag, kind: 5, data });
        }
        self.main.push(Field { tag: RESOLUTION_UNIT, kind: 3, data: vec![2, 0] });
    }
}

/// A directory that begins at the offset `at`, followed by the values that do not fit into it.
fn directory(fields: &[Field], at: usize) -> Vec<u8> {
    let mut fields: Vec<&Field> = fields.iter().take(FIELDS_MAX).collect();
    fields.sort_by_key(|field| field.tag);
    let length = u16::try_from(fields.len()).unwrap_or(u16::MAX);
    let mut table = length.to_le_bytes().to_vec();
    let (mut values, start) = (Vec::new(), at + 2 + 12 * fields.len() + 4);
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    for field in fields {
        let (_, value) = bytes_of(field.kind).unwrap_or((1, 1));
        table.extend(field.tag.to_le_bytes());
        table.extend(field.kind.to_le_bytes());
        table.extend(number(field.data.len() / value));
        if field.data.len() <= 4 {
            let mut inside = field.data.clone();
            inside.resize(4, 0);
            table.extend(inside);
        } else {
            table.extend(number(start + values.len()));
            values.extend(&field.data);
            values.resize(values.len().next_multiple_of(2), 0);
        }
    }
    table.extend([0; 4]);
    table.extend(values);
    table
}

/// Rewrites the size of the picture and its orientation (upright) in place, and leaves the rest of the block as it is:
/// makers' notes refer to absolute offsets.
pub(super) fn tell_anew(bytes: &mut [u8], size: Resolution) {
    let mut changes = Vec::new();
    let Some(block) = Block::of(bytes) else { return };
    let main = block.entries(block.long(4).unwrap_or(0));
    for entry in main.iter().chain(&block.directory(&main, CAMERA)) {
        let value = match entry.tag {
            tag if WIDTHS.contains(&tag) => size.width,
            tag if HEIGHTS.contains(&tag) => size.height,
            ORIENTATION => 1,
            _ => continue,
        };
        if matches!(entry.kind, 3 | 4) && entry.count == 1 {
            changes.push((entry.at, entry.kind, value));
        }
    }
    let big = block.big;
    for (at, kind, value) in changes {
        // In the field's own type, as readers expect 16 bits for an orientation, unless a size is too large for it.
        let ordered = |mut bytes: Vec<u8>| {
            if big {
                bytes.reverse();
            }
            bytes
        };
        let (kind, mut value) = match u16::try_from(value) {
            Ok(short) if kind == 3 => (3_u16, ordered(short.to_le_bytes().to_vec())),
            _ => (4, ordered(value.to_le_bytes().to_vec())),
        };
        value.resize(4, 0);
        bytes[at..at + 2].copy_from_slice(&ordered(kind.to_le_bytes().to_vec()));
        if let Some(place) = bytes.get_mut(at + 6..at + 10) {
            place.copy_from_slice(&value);
        }
    }
}
