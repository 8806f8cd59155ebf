//! The colour properties of a video: ffprobe's names, and the code points of ITU-T H.273, which the encoder, its
//! filters and the file use. The programs have different names for the same thing.

use serde::{Deserialize, Serialize};

/// ffprobe's names of the colour properties; `None` where the file does not state one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Colours {
    /// The matrix that converts red, green and blue to luma and chroma.
    pub(crate) matrix: Option<String>,
    /// The colour primaries.
    pub(crate) primaries: Option<String>,
    /// The transfer function.
    pub(crate) transfer: Option<String>,
}

/// The H.273 code points that are written into a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    /// The matrix by which the samples are computed.
    pub(crate) made_with: Matrix,
    /// The matrix that is declared.
    pub(crate) matrix: u8,
    pub(crate) primaries: u8,
    pub(crate) transfer: u8,
}

/// The code point for an unspecified property.
pub(crate) const UNSAID: u8 = 2;

/// A matrix that ffmpeg's `scale` supports: its name there, and its H.273 code point.
pub(crate) type Matrix = (&'static str, u8);

/// The usual matrices for small and large pictures.
const SMALL: Matrix = ("smpte170m", 6);
pub(crate) const LARGE: Matrix = ("bt709", 1);

type Names = &'static [(&'static str, u8)];

const PRIMARIES: Names = &[
    ("bt709", 1),
    ("bt470m", 4),
    ("bt470bg", 5),
    ("smpte170m", 6),
    ("smpte240m", 7),
    ("film", 8),
    ("bt2020", 9),
    ("smpte428", 10),
    ("smpte428_1", 10),
    ("smpte431", 11),
    ("smpte432", 12),
    ("ebu3213", 22),
    ("jedec-p22", 22),
];
const TRANSFERS: Names = &[
    ("bt709", 1),
    ("bt470m", 4),
    ("gamma22", 4),
    ("bt470bg", 5),
    ("gamma28", 5),
    ("smpte170m", 6),
    ("smpte240m", 7),
    ("linear", 8),
    ("log100", 9),
    ("log", 9),
    ("log316", 10),
    ("log_sqrt", 10),
    ("iec61966-2-4", 11),
    ("iec61966_2_4", 11),
    ("bt1361e", 12),
    ("bt1361", 12),
    ("iec61966-2-1", 13),
    ("iec61966_2_1", 13),
    ("bt2020-10", 14),
    ("bt2020_10bit", 14),
    ("bt2020-12", 15),
    ("bt2020_12bit", 15),
    ("smpte2084", 16),
    ("smpte428", 17),
    ("smpte428_1", 17),
    ("arib-std-b67", 18),
];
/// Matrices by which samples can be computed, with their names in `scale`.
const MATRICES: [(&str, Matrix); 10] = [
    ("bt709", LARGE),
    ("fcc", ("fcc", 4)),
    ("bt470bg", ("bt470", 5)),
    ("smpte170m", SMALL),
    ("smpte240m", ("smpte240m", 7)),
    ("bt2020nc", ("bt2020", 9)),
    ("bt2020_ncl", ("bt2020", 9)),
    ("bt2020", ("bt2020", 9)),
    // The nearest to one with constant luminance.
    ("bt2020c", ("bt2020", 9)),
    ("bt2020_cl", ("bt2020", 9)),
];
/// No matrix: the samples are red, green and blue themselves.
const NO_MATRIX: [&str; 2] = ["gbr", "rgb"];

/// The matrix that is assumed for a picture that states none, by its shorter side in pixels.
fn usual(side: u32) -> Matrix {
    if side >= 720 { LARGE } else { SMALL }
}

fn number(names: Names, name: &str) -> Option<u8> {
    names.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

impl Colours {
    /// The matrix of the samples of a video whose shorter side has `side` pixels.
    pub(crate) fn matrix(&self, side: u32) -> Matrix {
        let name = self.matrix.as_deref().unwrap_or_default();
        let known = MATRICES.iter().find(|(known, _)| *known == name);
        known.map_or_else(|| usual(side), |(_, matrix)| *matrix)
    }

    /// The code points for a video whose shorter side has `made` pixels, made from one with `side` pixels. Properties
    /// that the source states are kept, those that it does not state get the usual value for its size, and unknown ones
    /// are left unspecified.
    pub(crate) fn coding(&self, side: u32, made: u32) -> Coding {
        let said = self.matrix(side);
        let reserved = self.matrix.as_deref() == Some(RESERVED);
        let (made_with, matrix) = if reserved { (usual(made), UNSAID) } else { (said, said.1) };
        // The primaries and transfer function that go with the matrix have the same code point.
        let default = if said == LARGE { LARGE.1 } else { SMALL.1 };
        let of = |names, name: &Option<String>| match name {
            None => default,
            Some(name) => number(names, name).unwrap_or(UNSAID),
        };
        Coding {
            made_with,
            matrix,
            primaries: of(PRIMARIES, &self.primaries),
            transfer: of(TRANSFERS, &self.transfer),
        }
    }

    /// Notes for the user on what cannot be kept.
    pub(crate) fn notes(&self, file: &str) -> Vec<String> {
        let mut notes = Vec::new();
        for (what, name, names) in [
            ("primaries", &self.primaries, PRIMARIES),
            ("transfer function", &self.transfer, TRANSFERS),
        ] {
            if let Some(name) = name.as_ref().filter(|name| number(names, name).is_none()) {
                notes.push(format!(
                    "{file} says `{name}` of the {what} of its colours, which means nothing: it is left out"
                ));
            }
        }
        match self.matrix.as_deref() {
            Some(RESERVED) => notes.push(format!(
                "{file} says `{RESERVED}` of the matrix of its colours, which means nothing: it is left \
                 out, and that of its size is used"
            )),
            Some("bt2020c" | "bt2020_cl") => notes.push(format!(
                "{file} has colours of constant luminance (bt2020c), which ffmpeg does not convert: they \
                 are taken for bt2020nc and may be slightly off"
            )),
            Some(name)
                if !NO_MATRIX.contains(&name)
                    && !MATRICES.iter().any(|(known, _)| *known == name) =>
            {
                notes.push(format!(
                    "{file} says `{name}` of the matrix of its colours, which ffmpeg does not convert: that \
                     of its size is used, and colours may be off"
                ));
            }
            _ => {}
        }
        notes
    }
}

/// ffprobe's name for reserved code points.
const RESERVED: &str = "reserved";

/// The coding of high definition.
impl Default for Coding {
    fn default() -> Self {
        let (_, number) = LARGE;
        Self { made_with: LARGE, matrix: number, primaries: number, transfer: number }
    }
}

impl Coding {
    /// The options of ffmpeg's encoder.
    pub(crate) fn options(&self) -> String {
        let Self { matrix, primaries, transfer, .. } = self;
        format!(
            "-colorspace {matrix} -color_primaries {primaries} -color_trc {transfer} -color_range tv"
        )
    }

    /// The ffmpeg filter that sets the same properties on the frames.
    pub(crate) fn filter(&self) -> String {
        let Self { matrix, primaries, transfer, .. } = self;
        format!(
            "setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range=tv"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The constants of ffmpeg's `setparams`, which are the names that ffprobe prints, with their code points.
    fn constants(option: &str) -> Vec<(String, u8)> {
        let mut help = Command::new("ffmpeg");
        let help = help.args(["-hide_banner", "-h", "filter=setparams"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let of_option = help.lines().skip_while(|line| !line.trim_start().starts_with(option));
        let constants = of_option.skip(1).take_while(|line| line.starts_with("     "));
        let pairs = constants.filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        });
        pairs.filter(|(name, _): &(String, u8)| name != "unknown").collect()
    }

    #[test]
    fn every_name_that_this_ffprobe_prints_has_its_number() {
        let mut count = 0;
        for (option, names) in [("color_primaries", PRIMARIES), ("color_trc", TRANSFERS)] {
            for (name, expected) in constants(option) {
                assert_eq!(number(names, &name), Some(expected), "{option}: {name}");
                count += 1;
            }
        }
        for (name, expected) in constants("colorspace") {
            let colours = Colours { matrix: Some(name.clone()), ..Colours::default() };
            let Coding { made_with, matrix, .. } = colours.coding(480, 960);
            assert_eq!(made_with.1, matrix, "{name}");
            let exact = matrix == expected;
            assert!(exact || expected == 0 || !colours.notes("a.mp4").is_empty(), "{name}");
            count += 1;
        }
        assert!(count > 40, "{count} names");
    }

    #[test]
    fn what_means_nothing_is_left_out_and_said() {
        let reserved = || Some(RESERVED.to_owned());
        let colours = Colours { matrix: reserved(), primaries: reserved(), transfer: reserved() };
        let found = colours.coding(576, 1152);
        assert_eq!((found.matrix, found.primaries, found.transfer), (2, 2, 2));
        // Players assume the usual properties for the size where none are stated.
        assert_eq!((colours.matrix(576), found.made_with), (SMALL, LARGE));
        assert_eq!(colours.notes("a.mpg").len(), 3);
        let silent = Colours::default();
        assert_eq!(silent.notes("a.mpg"), [] as [&str; 0]);
        let found = silent.coding(576, 1152);
        assert_eq!((found.matrix, found.primaries, found.transfer), (6, 6, 6));
    }
}
