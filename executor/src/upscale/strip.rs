//! The rows of a picture that the tiles of one row of tiles need, kept so that they are decoded once.

use crate::models::Planar;
use crate::picture::{Layout, PictureError, Reader, to_display};
use pictor_tasks::units::{Rect, Resolution};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Rows `first..` of a picture: its colours, without opacity.
pub(super) struct Strip {
    file: (PathBuf, u64, Option<SystemTime>),
    reader: Reader,
    first: u32,
    rows: VecDeque<Vec<f32>>,
}

impl Strip {
    /// Opens a picture.
    pub(super) fn open(path: &Path) -> Result<Self, PictureError> {
        let reader = Reader::open(path, false)?;
        Ok(Self { file: identity(path)?, reader, first: 0, rows: VecDeque::new() })
    }

    /// Whether it is of this file, which has not changed since.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|identity| identity == self.file)
    }

    /// What the picture's rows consist of.
    pub(super) fn layout(&self) -> Layout {
        self.reader.layout()
    }

    /// Reads the rows from `top` up to `end` and forgets those above.
    pub(super) fn advance(&mut self, top: u32, end: u32) -> Result<(), PictureError> {
        if top < self.first {
            *self = Self::open(&self.file.0)?;
        }
        let layout = self.layout();
        let mut row = Vec::new();
        while self.first < top {
            if self.rows.pop_front().is_none() {
                self.reader.row(&mut row)?;
            }
            self.first += 1;
        }
        while self.reader.next() < end {
            self.reader.row(&mut row)?;
            let colours = row.chunks_exact(layout.channels()).flat_map(|p| &p[..layout.colours]);
            self.rows.push_back(colours.copied().collect());
        }
        Ok(())
    }

    /// A part of the rows that are held as the networks take it, coded for a display: one plane for each
    /// of `colours`, the numbers of the picture's own.
    ///
    /// # Panics
    /// If it reaches beyond the picture or the rows.
    pub(super) fn window(&self, part: Rect, colours: &[usize]) -> Planar {
        let Layout { colours: pitch, depth, .. } = self.layout();
        let size = Resolution { width: part.x1 - part.x0, height: part.y1 - part.y0 };
        let (left, right) = (part.x0 as usize * pitch, part.x1 as usize * pitch);
        let (top, end) = ((part.y0 - self.first) as usize, (part.y1 - self.first) as usize);
        let mut samples =
            Vec::with_capacity(colours.len() * size.width as usize * size.height as usize);
        for colour in colours {
            for row in self.rows.range(top..end) {
                let row = row[left..right].iter().skip(*colour).step_by(pitch);
                if depth.is_linear() {
                    samples.extend(row.map(|sample| to_display(*sample)));
                } else {
                    samples.extend(row);
                }
            }
        }
        let channels = u32::try_from(colours.len()).expect("at most three colours");
        Planar::new(channels, size, samples).expect("as many samples as the part has")
    }
}

fn identity(path: &Path) -> std::io::Result<(PathBuf, u64, Option<SystemTime>)> {
    let meta = path.metadata()?;
    Ok((path.to_owned(), meta.len(), meta.modified().ok()))
}
