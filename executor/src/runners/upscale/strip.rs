//! The rows of a picture that one row of tiles needs, kept so that each is decoded only once.

use super::alpha_fill::{AlphaFill, Row};
use pictor_models::Planar;
use pictor_pictures::{Layout, PictureError};
use pictor_tasks::units::{Rect, Resolution};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The rows of a picture that are held, starting with row `first`.
pub(super) struct Strip {
    file: (PathBuf, u64, Option<SystemTime>),
    source: AlphaFill,
    first: u32,
    rows: VecDeque<Row>,
}

impl Strip {
    pub(super) fn open(path: &Path) -> Result<Self, PictureError> {
        let source = AlphaFill::open(path)?;
        Ok(Self { file: identity(path)?, source, first: 0, rows: VecDeque::new() })
    }

    /// Whether this is the strip of that file, unchanged since it was opened.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|identity| identity == self.file)
    }

    pub(super) fn layout(&self) -> Layout {
        self.source.layout()
    }

    /// Reads the rows from `top` up to `end` and drops those above.
    pub(super) fn advance(&mut self, top: u32, end: u32) -> Result<(), PictureError> {
        if top < self.first {
            *self = Self::open(&self.file.0)?;
        }
        while self.first < top && self.rows.pop_front().is_some() {
            self.first += 1;
        }
        self.first = top;
        let next = top + u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        for y in next..end {
            self.rows.push_back(self.source.row(y)?);
        }
        Ok(())
    }

    /// A part of the held rows as networks take it, coded for a display: one plane for each of `channels`, which are
    /// indices of the picture's own channels.
    ///
    /// # Panics
    /// If the part reaches beyond the picture or the held rows.
    pub(super) fn window(&self, part: Rect, channels: &[usize]) -> Planar {
        let pitch = self.layout().colours;
        let size = Resolution { width: part.x1 - part.x0, height: part.y1 - part.y0 };
        let columns = part.x0 as usize..part.x1 as usize;
        let (top, end) = ((part.y0 - self.first) as usize, (part.y1 - self.first) as usize);
        let mut samples =
            Vec::with_capacity(channels.len() * size.width as usize * size.height as usize);
        for channel in channels {
            for Row { colours, opacity } in self.rows.range(top..end) {
                if *channel == pitch {
                    samples.extend(&opacity[columns.clone()]);
                } else {
                    let row = &colours[columns.start * pitch..columns.end * pitch];
                    samples.extend(row.iter().skip(*channel).step_by(pitch));
                }
            }
        }
        let channels = u32::try_from(channels.len()).expect("at most three channels");
        Planar::new(channels, size, samples).expect("as many samples as the part has")
    }
}

fn identity(path: &Path) -> std::io::Result<(PathBuf, u64, Option<SystemTime>)> {
    let meta = path.metadata()?;
    Ok((path.to_owned(), meta.len(), meta.modified().ok()))
}
