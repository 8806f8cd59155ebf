//! Texts of the job file that have a grammar of their own. In the JSON Schema each is a `format`, whose parser reports
//! what is wrong with a text.

use crate::body::{OVERLAP_MAX, TILE_PIXELS_MAX, TILE_PIXELS_MIN};
use crate::media::{Media, PLAYLIST, is_playlist, picture_extensions, video_extensions};
use crate::pack::is_packed_path;
use crate::range::Ranges;
use crate::template::{RESERVED_NAMES, Template};
use crate::units::{Bytes, Grid, Millis, Resolution};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::{borrow::Cow, ops::RangeInclusive, str::FromStr};

/// The longest name of a step, dimension or output, in characters.
const NAME_MAX: usize = 64;
/// The longest value of a dimension of words, and the longest file name.
const WORD_MAX: usize = 200;

/// A text with a grammar.
pub(super) struct Format {
    /// The name of the format in the schema.
    pub(super) name: &'static str,
    /// A description of valid values, to follow "expected".
    pub(super) expected: &'static str,
    /// Checks a text; the error says what is wrong with it.
    pub(super) check: fn(&str) -> Result<(), String>,
}

/// All formats of the schema.
static FORMATS: [Format; 21] = [
    format("pictor-duration", "a duration such as `5s` or `1.5h`", parsed::<Millis>),
    format("pictor-bytes", "a size such as `8GiB`", parsed::<Bytes>),
    format("pictor-resolution", "a picture size such as `1280x720`", parsed::<Resolution>),
    format("pictor-grid", "a grid such as `4x4`", parsed::<Grid>),
    format("pictor-tiles", "a grid such as `4x4`, or `auto`", tiles),
    format("pictor-ranges", "ranges such as `1-10` or `3,7,9-12`", parsed::<Ranges>),
    format("pictor-range-values", "ranges such as `1-10` or `3,7,9-12`", range_values),
    format("pictor-frames", "ranges such as `1-10`, or `scene`", frames),
    format("pictor-step", "the name of a step", name),
    format("pictor-dimension", "the name of a dimension", dimension),
    format("pictor-output", "the name of an output", name),
    format("pictor-variable", "the name of an environment variable", variable),
    format("pictor-word", "a word", check_word),
    format("pictor-file-name", "a file name", file_name),
    format("pictor-inside", "a relative path such as `tools/run.sh`", inside),
    format("pictor-local", "the path of a file or folder", local),
    format("pictor-media", "a picture, a sequence such as `frames/*.png`, or a video", media),
    format("pictor-tile-pixels", "a number of pixels, or `auto`", tile_pixels),
    format("pictor-overlap", "a number of pixels, or `auto`", overlap),
    format("pictor-template", "a text", template),
    format("pictor-deliver", "a path such as `frames/{frame:04}.exr`", deliver),
];

const fn format(
    name: &'static str,
    expected: &'static str,
    check: fn(&str) -> Result<(), String>,
) -> Format {
    Format { name, expected, check }
}

/// The format with that name. Formats that JSON Schema itself defines are ignored, as they add nothing to our types.
pub(super) fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| error.to_string())
}

fn tiles(text: &str) -> Result<(), String> {
    if text == "auto" { Ok(()) } else { parsed::<Grid>(text) }
}

/// Checks ranges as values of a dimension: each value must be printed exactly as it is written in the file.
fn range_values(text: &str) -> Result<(), String> {
    parsed::<Ranges>(text)?;
    let numbers = text.split([',', '-', 'x']).map(str::trim);
    let odd = numbers.clone().find(|number| number.len() > 1 && number.starts_with('0'));
    let Some(odd) = odd else { return Ok(()) };
    let number =
        Some(odd.trim_start_matches('0')).filter(|digits| !digits.is_empty()).unwrap_or("0");
    Err(format!("`{odd}` would become {number}: write `{number}`, or list texts: `[\"{odd}\"]`"))
}

fn frames(text: &str) -> Result<(), String> {
    if text == "scene" { Ok(()) } else { parsed::<Ranges>(text) }
}

fn name(text: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    let first = text.starts_with(|first: char| first.is_ascii_lowercase());
    if first && text.bytes().all(inner) && text.len() <= NAME_MAX {
        return Ok(());
    }
    Err(format!(
        "expected a small letter, then small letters, digits, `_` and `-`, at most {NAME_MAX} in all"
    ))
}

fn dimension(text: &str) -> Result<(), String> {
    if RESERVED_NAMES.contains(&text) {
        return Err(format!("`{text}` means something else in placeholders; choose another name"));
    }
    name(text)
}

fn variable(text: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let digit = text.starts_with(|first: char| first.is_ascii_digit());
    if !text.is_empty() && !digit && text.bytes().all(inner) && text.len() <= WORD_MAX {
        return Ok(());
    }
    Err(format!("expected letters, digits and `_`, no digit first, at most {WORD_MAX}"))
}

/// Checks whether a text can be a value of a dimension of words. As it becomes a part of labels (`look=matte,frame=7`)
/// and of paths, it must not contain characters with a meaning there.
pub fn check_word(text: &str) -> Result<(), String> {
    if text.is_empty() || text.chars().count() > WORD_MAX || text.trim() != text {
        return Err(format!("expected 1 to {WORD_MAX} characters, no space at either end"));
    }
    let forbidden = |c: char| c.is_control() || matches!(c, ',' | '=' | '/' | '\\');
    if text.contains(forbidden) || matches!(text, "." | "..") {
        return Err("a value must not hold `,`, `=`, `/` or `\\`, nor be `.` or `..`".to_owned());
    }
    Ok(())
}

fn file_name(text: &str) -> Result<(), String> {
    let forbidden = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    let dots = matches!(text, "" | "." | "..");
    if dots || text.contains(forbidden) || text.len() > WORD_MAX {
        return Err(format!(
            "expected the name of a file, without a folder, at most {WORD_MAX} bytes"
        ));
    }
    Ok(())
}

fn inside(text: &str) -> Result<(), String> {
    if is_packed_path(text) {
        return Ok(());
    }
    Err("expected a relative path of plain names, without `.`, `..` and `\\`: where the file lies in \
         `{job.dir}`"
        .to_owned())
}

fn local(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('\0') {
        return Err("expected the path of a file or folder, relative to the job file".to_owned());
    }
    Ok(())
}

fn media(text: &str) -> Result<(), String> {
    if is_playlist(text) {
        return Err(PLAYLIST.to_owned());
    }
    Media::of(text).map(drop).ok_or_else(|| {
        format!(
            "expected a picture ({}), a pattern such as `frames/*.png` or `frames/%04d.png`, a folder \
             (`shot.v2/` if its name has a dot), or a video ({})",
            picture_extensions(),
            video_extensions()
        )
    })
}

fn tile_pixels(text: &str) -> Result<(), String> {
    pixels(text, TILE_PIXELS_MIN..=TILE_PIXELS_MAX)
}

fn overlap(text: &str) -> Result<(), String> {
    pixels(text, 0..=OVERLAP_MAX)
}

fn pixels(text: &str, allowed: RangeInclusive<u32>) -> Result<(), String> {
    if text == "auto" || text.parse().is_ok_and(|pixels| allowed.contains(&pixels)) {
        return Ok(());
    }
    Err(format!("expected `auto`, or {} to {} pixels", allowed.start(), allowed.end()))
}

fn template(text: &str) -> Result<(), String> {
    Template::parse(text).map(drop).map_err(|error| error.to_string())
}

fn deliver(text: &str) -> Result<(), String> {
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    let outside = template.literals().any(|literal| literal.contains(['\\', ':']));
    let part = |part: &str| !matches!(part, "" | "." | "..");
    if outside || !text.split('/').all(part) {
        return Err(
            "expected a path inside the output folder: no `..`, no `/` at either end".into()
        );
    }
    Ok(())
}

/// The name of one of Blender's built-in render engines.
pub(crate) struct EngineName;
/// A number, boolean, templated text, or a list of them.
pub(crate) struct Property;

/// The size of tiles, or `auto`.
pub(crate) struct TilePixels;
/// The overlap of tiles, or `auto`.
pub(crate) struct OverlapPixels;

impl JsonSchema for TilePixels {
    fn schema_name() -> Cow<'static, str> {
        "TilePixels".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "pictor-tile-pixels",
            "examples": ["auto", 512],
        })
    }
}

impl JsonSchema for OverlapPixels {
    fn schema_name() -> Cow<'static, str> {
        "OverlapPixels".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "pictor-overlap",
            "examples": ["auto", 20],
        })
    }
}

impl JsonSchema for EngineName {
    fn schema_name() -> Cow<'static, str> {
        "Engine".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["cycles", "eevee", "workbench"] })
    }
}

impl JsonSchema for Property {
    fn schema_name() -> Cow<'static, str> {
        "Property".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = serde_json::json!({ "type": "string", "format": "pictor-template" });
        let scalars = serde_json::json!([{ "type": "number" }, { "type": "boolean" }, text]);
        json_schema!({
            "description": "A number, `true` or `false`, a text with placeholders, or a list of them.",
            "anyOf": [
                { "type": "number" },
                { "type": "boolean" },
                text,
                { "type": "array", "items": { "anyOf": scalars }, "maxItems": 4096 },
            ],
        })
    }
}

impl JsonSchema for Millis {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "format": "pictor-duration",
            "description": "A duration: a number and ms, s, m, h or d. A whole number alone is seconds.",
            "examples": ["500ms", "5s", "1.5h"],
        })
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "pictor-bytes",
            "description": "A size in bytes: a number and B, kB, MB, GB, TB or KiB, MiB, GiB, TiB.",
            "examples": ["8GiB", "500MB"],
        })
    }
}

impl JsonSchema for Resolution {
    fn schema_name() -> Cow<'static, str> {
        "Resolution".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "pictor-resolution",
            "description": "Width and height in pixels, each 1 to 65536.",
            "examples": ["1280x720"],
        })
    }
}

impl JsonSchema for Grid {
    fn schema_name() -> Cow<'static, str> {
        "Grid".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "pictor-grid",
            "description": "Columns and rows of tiles, each 1 to 256.",
            "examples": ["2x2", "4x4"],
        })
    }
}

/// Defines types that take the place of a `String` in the schema.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $format:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    )*};
}

texts! {
    /// The name of a step, which others refer to.
    StepName = "pictor-step";
    /// The name of a dimension.
    DimensionName = "pictor-dimension";
    /// A value of a dimension of words.
    Word = "pictor-word";
    /// The name of a file, without a folder.
    FileName = "pictor-file-name";
    /// The path of a file or folder on the machine that the job is submitted from.
    LocalPath = "pictor-local";
    /// The path of a picture, a sequence or a video.
    MediaPath = "pictor-media";
    /// A text with placeholders.
    TemplateText = "pictor-template";
    /// A path with placeholders inside the output folder.
    DeliverPath = "pictor-deliver";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for text in ["a", "render", "r2_d-2"] {
            assert_eq!(name(text), Ok(()));
        }
        for text in ["", "2d", "Render", "a.b", "é", "a b", &"a".repeat(65)] {
            assert!(name(text).is_err(), "{text}");
        }
        assert!(dimension("index").is_err());
        assert!(dimension("frame").is_ok());
    }

    #[test]
    fn delivered_files_stay_in_the_output_folder() {
        for text in ["a.png", "frames/{frame:04}.exr", "{look}/{frame}.png"] {
            assert_eq!(deliver(text), Ok(()));
        }
        for text in ["", "/a", "../a", "a/../b", "a//b", "a/", "c:\\a", "c:/a", "a\\..\\b", "./a"] {
            assert!(deliver(text).is_err(), "{text}");
        }
        for text in ["", "..", "a/b", "a:b", "a\nb", &"é".repeat(101)] {
            assert!(file_name(text).is_err(), "{text}");
        }
        for text in ["", "a,b", "a=b", "../x", "..", " a"] {
            assert!(check_word(text).is_err(), "{text}");
        }
    }
}
