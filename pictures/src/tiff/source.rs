//! The bytes of a TIFF file, with those changed that the decoder does not support.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// A file in which a picture with a palette claims to be grey: the decoder does not support palettes, and the colour
/// indices are packed like greys.
///
/// Bytes whose lowest bit comes first (`FillOrder` 2, as faxes have them) are reversed.
pub(super) struct Source {
    file: BufReader<File>,
    at: u64,
    /// The offset at which these bytes are read in place of the file's own.
    change: Option<(u64, [u8; 2])>,
    /// The bytes whose bits are in reverse, in ascending order.
    reversed: Vec<Range<u64>>,
}

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let change = palette(&mut file).ok().flatten();
        file.rewind()?;
        Ok(Self { file, at: 0, change, reversed: Vec::new() })
    }

    /// Whether the picture has a palette, though it claims to be grey.
    pub(super) fn has_palette(&self) -> bool {
        self.change.is_some()
    }

    /// Reverses the bits of these bytes from now on.
    pub(super) fn reverse(&mut self, mut ranges: Vec<Range<u64>>) {
        ranges.sort_by_key(|range| (range.start, range.end));
        // Equal parts of a picture may be stored once.
        ranges.dedup();
        self.reversed = ranges;
    }
}

impl Read for Source {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(bytes)?;
        if let Some((start, change)) = self.change {
            for (place, byte) in (start..).zip(change) {
                if let Some(place) = place.checked_sub(self.at)
                    && let Ok(place) = usize::try_from(place)
                    && place < read
                {
                    bytes[place] = byte;
                }
            }
        }
        let end = self.at + read as u64;
        let first = self.reversed.partition_point(|range| range.end <= self.at);
        for range in self.reversed[first..].iter().take_while(|range| range.start < end) {
            let inside = [range.start.max(self.at), range.end.min(end)]
                .map(|place| usize::try_from(place - self.at).unwrap_or(read));
            bytes[inside[0]..inside[1]].iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        self.at = end;
        Ok(read)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

/// The offset of the field by which the first page says that it has a palette, and the bytes that say grey.
fn palette(file: &mut BufReader<File>) -> io::Result<Option<(u64, [u8; 2])>> {
    let mut head = [0; 16];
    let read = file.by_ref().take(16).read(&mut head)?;
    if read < 8 {
        return Ok(None);
    }
    let big_endian = head[0] == b'M';
    let number = |bytes: &[u8]| {
        let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
    };
    let large = number(&head[2..4]) == 43;
    let (start, counted, length) =
        if large { (number(&head[8..16]), 8, 20) } else { (number(&head[4..8]), 2, 12) };
    file.seek(SeekFrom::Start(start))?;
    let mut count = vec![0; counted];
    file.read_exact(&mut count)?;
    let mut entry = vec![0; length];
    for field in 0..number(&count).min(1000) {
        file.read_exact(&mut entry)?;
        // The field for the photometric interpretation.
        if number(&entry[..2]) == 262 {
            let value = length - if large { 8 } else { 4 };
            let place = start + counted as u64 + field * length as u64 + value as u64;
            let grey = if big_endian { [0, 1] } else { [1, 0] };
            return Ok((number(&entry[value..value + 2]) == 3).then_some((place, grey)));
        }
    }
    Ok(None)
}
