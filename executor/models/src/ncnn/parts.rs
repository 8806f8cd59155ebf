//! The parts of a layer of an ncnn model: its parameters and its weights.

use half::f16;
use std::collections::HashMap;
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};

/// The tag of weights that are half floats, padded to 4 bytes.
const HALF: u32 = 0x0130_6B47;
/// The tag of weights that are plain floats.
const SINGLE: u32 = 0;
/// The id of an array is written as this number minus the id.
const ARRAY: i32 = -23_300;
/// The most numbers in an array.
const NUMBERS: usize = 64;

/// A layer's parameters. Each is removed once it is read; a parameter that is left over is one that is not understood.
pub(super) struct Params<'a>(HashMap<i32, &'a str>);

impl<'a> Params<'a> {
    pub(super) fn parse(words: SplitWhitespace<'a>) -> Result<Self, String> {
        let mut params = HashMap::new();
        for word in words {
            let parts = word.split_once('=');
            let id = parts.and_then(|(id, value)| Some((id.parse::<i32>().ok()?, value)));
            let Some((id, value)) = id else {
                return Err(format!("expected parameters such as `0=64`, found `{word:.32}`"));
            };
            let id = if id <= ARRAY { ARRAY - id } else { id };
            params.insert(id, value);
        }
        Ok(Self(params))
    }

    fn take<T: FromStr>(&mut self, id: i32, default: T) -> Result<T, String> {
        let Some(text) = self.0.remove(&id) else { return Ok(default) };
        text.parse().map_err(|_| format!("parameter {id} is `{text:.32}`: expected another number"))
    }

    pub(super) fn number(&mut self, id: i32, default: usize) -> Result<usize, String> {
        self.take(id, default)
    }

    pub(super) fn flag(&mut self, id: i32) -> Result<bool, String> {
        match self.number(id, 0)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("parameter {id} is {other}: expected 0 or 1")),
        }
    }

    pub(super) fn real(&mut self, id: i32, default: f32) -> Result<f32, String> {
        self.take(id, default).and_then(finite)
    }

    /// An integer from 1 to `limit`.
    pub(super) fn factor(&mut self, id: i32, limit: u16) -> Result<u16, String> {
        match self.take(id, 0)? {
            factor if (1..=limit).contains(&factor) => Ok(factor),
            other => Err(format!("scales by {other}: expected 1 to {limit}")),
        }
    }

    /// An array, which is written as its length and its values.
    pub(super) fn reals(&mut self, id: i32) -> Result<Vec<f32>, String> {
        let Some(text) = self.0.remove(&id) else { return Ok(Vec::new()) };
        let mut words = text.split(',');
        let count: Option<usize> = words.next().and_then(|word| word.parse().ok());
        let values: Option<Vec<f32>> = words.map(|word| word.parse().ok()).collect();
        match (count, values) {
            (Some(count), Some(values)) if count == values.len() && count <= NUMBERS => {
                values.into_iter().map(finite).collect()
            }
            _ => Err(format!("array {id} is not its length and at most {NUMBERS} numbers")),
        }
    }

    /// Reads a parameter of which only one value is supported.
    pub(super) fn only(&mut self, id: i32, default: usize, value: usize) -> Result<(), String> {
        match self.number(id, default)? {
            found if found == value => Ok(()),
            found => Err(format!("parameter {id} is {found}: only {value} is supported here")),
        }
    }

    pub(super) fn done(&self) -> Result<(), String> {
        match self.0.keys().min() {
            Some(id) => Err(format!("parameter {id} is not supported")),
            None => Ok(()),
        }
    }
}

fn finite(value: f32) -> Result<f32, String> {
    if value.is_finite() { Ok(value) } else { Err(format!("has the number {value}")) }
}

/// The weights that have not been read yet.
pub(super) struct Weights<'a> {
    pub(super) rest: &'a [u8],
    /// The file that they come from, for messages.
    pub(super) bin: &'a Path,
}

impl Weights<'_> {
    /// Takes bytes, and skips the padding to 4.
    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let padded = length.next_multiple_of(4);
        let Some((taken, rest)) = self.rest.split_at_checked(padded) else {
            return Err(format!(
                "needs {padded} bytes of weights and {} has {} left: it is cut short or belongs to \
                 another graph; fetch it again",
                self.bin.display(),
                self.rest.len()
            ));
        };
        self.rest = rest;
        Ok(&taken[..length])
    }

    /// Reads plain floats.
    pub(super) fn floats(&mut self, count: usize) -> Result<Vec<f32>, String> {
        let (words, _) = self.take(count * 4)?.as_chunks();
        words.iter().map(|word| finite(f32::from_le_bytes(*word))).collect()
    }

    /// Reads floats or half floats, which a tag tells apart.
    pub(super) fn tagged(&mut self, count: usize) -> Result<Vec<f32>, String> {
        let (tag, _) = self.take(4)?.as_chunks();
        match u32::from_le_bytes(tag[0]) {
            SINGLE => self.floats(count),
            HALF => {
                let (words, _) = self.take(count * 2)?.as_chunks();
                words.iter().map(|word| finite(f16::from_le_bytes(*word).to_f32())).collect()
            }
            other => Err(format!(
                "its weights have the tag {other:#x}: expected {SINGLE} (floats) or {HALF:#x} (half \
                 floats); is {} of another graph?",
                self.bin.display()
            )),
        }
    }
}
