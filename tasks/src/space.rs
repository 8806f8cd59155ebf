//! The space of a step: the product of its dimensions, addressed by one index (mixed radix, row-major, the last
//! dimension fastest). Bounded dimensions leave holes in the box; holes are not tasks.

use crate::range::Ranges;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

/// The values of one dimension, in order. A *position* is an index into this list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// Integers stored as ranges: a million frames take a few bytes.
    Ints(Ranges),
    /// Words, for example material names.
    Names(Arc<[String]>),
    /// Blocks of `size` consecutive positions of another list. The value of a block is its position.
    Blocks {
        /// The list that is divided into blocks.
        of: Arc<Values>,
        /// The number of positions in a block, at least 1; the last block may be shorter.
        size: u32,
    },
}

/// One value of a dimension: a number or a string in JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// An integer, such as a frame number.
    Int(i64),
    /// A word, such as the name of a material.
    Name(String),
}

impl Value {
    /// The value as a number, for example as a frame: a number, or a word of digits with or without a minus sign (`12`,
    /// `0010`, `-3`). `None` if the word is not a number.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Name(word) => crate::range::number(word),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => n.fmt(f),
            Self::Name(s) => s.fmt(f),
        }
    }
}

/// The coordinates of a task in its step's space: the value of each dimension, by the dimension's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Coordinates(pub BTreeMap<String, Value>);

impl Coordinates {
    /// The value of a dimension as a number (see [`Value::number`]).
    pub fn number(&self, dim: &str) -> Option<i64> {
        self.0.get(dim)?.number()
    }

    /// Parses a label as written by [`Space::label`], for servers of an earlier version, which send nothing else.
    pub fn of_label(label: &str) -> Self {
        let pairs = label.split(',').filter_map(|pair| pair.split_once('='));
        let value = |text: &str| match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => Value::Int(number),
            _ => Value::Name(text.to_owned()),
        };
        Self(pairs.map(|(name, text)| (name.to_owned(), value(text))).collect())
    }
}

/// The dimension among these that is the frame number: the one called `frame`, or one that ends so, such as
/// `shot.frame`.
pub fn frame_dim<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let ends_so = |name: &&str| name.rsplit('.').next() == Some("frame");
    names.into_iter().filter(ends_so).min_by_key(|name| *name != "frame")
}

impl Values {
    /// The values `0, 1, … count-1`.
    pub fn count(count: u32) -> Self {
        Self::Ints(Ranges::count(count))
    }

    /// The number of values.
    pub fn len(&self) -> u32 {
        match self {
            Self::Ints(ranges) => ranges.len(),
            Self::Names(names) => u32::try_from(names.len()).expect("limited when parsed"),
            Self::Blocks { of, size } => of.len().div_ceil(*size),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at `position`; `None` beyond the end.
    pub fn get(&self, position: u32) -> Option<Value> {
        match self {
            Self::Ints(ranges) => ranges.get(position).map(Value::Int),
            Self::Names(names) => names.get(position as usize).cloned().map(Value::Name),
            Self::Blocks { .. } => {
                (position < self.len()).then_some(Value::Int(i64::from(position)))
            }
        }
    }

    /// The position of the value that is written as `text`, if there is one.
    pub fn position_of(&self, text: &str) -> Option<u32> {
        match self {
            Self::Ints(ranges) => ranges.position_of(text.parse().ok()?),
            Self::Names(names) => {
                names.iter().position(|n| n == text).and_then(|p| u32::try_from(p).ok())
            }
            Self::Blocks { .. } => text.parse().ok().filter(|p| *p < self.len()),
        }
    }

    /// The first and last value of a block, or the value itself twice.
    pub fn ends(&self, position: u32) -> Option<(Value, Value)> {
        let Self::Blocks { of, size } = self else {
            let value = self.get(position)?;
            return Some((value.clone(), value));
        };
        let first = position.checked_mul(*size)?;
        let last = first.checked_add(size - 1)?.min(of.len().checked_sub(1)?);
        Some((of.ends(first)?.0, of.ends(last)?.1))
    }
}

/// The bound of an axis by the position on an earlier axis of the same space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The axis that determines the bound, as an index into [`Space::axes`].
    pub by: usize,
    /// For each position of that axis, the number of positions of the bounded axis.
    pub counts: Arc<[u32]>,
}

/// One dimension of a space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// The dimension's name.
    pub name: String,
    /// The values of the dimension, in order.
    pub values: Values,
    /// The bound, if another dimension limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// The product of a step's dimensions. Without axes there is exactly one task, with index 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The axes, slowest first.
    pub axes: Vec<Axis>,
}

impl Space {
    /// The number of indices, holes included.
    pub fn len(&self) -> u32 {
        self.axes.iter().map(|a| a.values.len()).product()
    }

    /// Whether no index exists.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position on `axis` of the task at `index`.
    pub fn position(&self, index: u32, axis: usize) -> u32 {
        let stride: u32 = self.axes[axis + 1..].iter().map(|a| a.values.len()).product();
        index / stride % self.axes[axis].values.len()
    }

    /// The index of a point, given its positions, slowest first.
    pub fn index(&self, positions: &[u32]) -> u32 {
        self.axes.iter().zip(positions).fold(0, |index, (axis, p)| index * axis.values.len() + p)
    }

    /// Whether the index is a task: inside the box and inside every bound.
    pub fn exists(&self, index: u32) -> bool {
        index < self.len()
            && self.axes.iter().enumerate().all(|(i, axis)| {
                axis.bound.as_ref().is_none_or(|bound| {
                    let by = self.position(index, bound.by) as usize;
                    self.position(index, i) < bound.counts.get(by).copied().unwrap_or(0)
                })
            })
    }

    /// Whether some indices of the box may be holes.
    pub fn has_bounds(&self) -> bool {
        self.axes.iter().any(|a| a.bound.is_some())
    }

    /// The value of the dimension `name` at `index`; `None` if there is no such dimension.
    pub fn value(&self, index: u32, name: &str) -> Option<Value> {
        let axis = self.axes.iter().position(|a| a.name == name)?;
        self.axes[axis].values.get(self.position(index, axis))
    }

    /// The values of all dimensions at `index`.
    pub fn coordinates(&self, index: u32) -> Coordinates {
        let axes = self.axes.iter().enumerate();
        let values = axes.filter_map(|(i, axis)| {
            Some((axis.name.clone(), axis.values.get(self.position(index, i))?))
        });
        Coordinates(values.collect())
    }

    /// The label of a task for the user, such as `frame=7,tile=3`; empty for a step without dimensions.
    pub fn label(&self, index: u32) -> String {
        let mut label = String::new();
        for (i, axis) in self.axes.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if let Some(value) = axis.values.get(self.position(index, i)) {
                let _ = write!(label, "{comma}{}={value}", axis.name);
            }
        }
        label
    }

    /// The index whose [`Self::label`] is `label`; the order of the pairs does not matter, and a macro's private
    /// dimension may be abbreviated: `tile` for `render.tile`.
    pub fn find(&self, label: &str) -> Option<u32> {
        let mut positions = vec![None; self.axes.len()];
        for pair in label.split(',').filter(|p| !p.trim().is_empty()) {
            let (name, text) = pair.split_once('=')?;
            let name = name.trim();
            let is_short = |full: &str| full.rsplit_once('.').is_some_and(|(_, last)| last == name);
            let exact = self.axes.iter().position(|a| a.name == name);
            let axis = exact.or_else(|| self.axes.iter().position(|a| is_short(&a.name)))?;
            positions[axis] = Some(self.axes[axis].values.position_of(text.trim())?);
        }
        let positions: Option<Vec<u32>> = positions.into_iter().collect();
        Some(self.index(&positions?)).filter(|index| self.exists(*index))
    }
}
