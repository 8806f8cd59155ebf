//! Classifies a source by its name: a picture, a sequence of pictures, or a video.

use crate::body::ImageFormat;
use std::collections::BTreeSet;
use std::path::Path;

/// File extensions of pictures, and the format in which results are written. Some formats can only be read.
const PICTURES: [(&str, ImageFormat); 14] = [
    ("png", ImageFormat::Png),
    ("jpg", ImageFormat::Jpeg),
    ("jpeg", ImageFormat::Jpeg),
    ("webp", ImageFormat::Webp),
    ("tif", ImageFormat::Tiff),
    ("tiff", ImageFormat::Tiff),
    ("exr", ImageFormat::Exr),
    ("gif", ImageFormat::Png),
    ("bmp", ImageFormat::Png),
    ("dib", ImageFormat::Png),
    ("tga", ImageFormat::Png),
    ("avif", ImageFormat::Png),
    ("heic", ImageFormat::Png),
    ("heif", ImageFormat::Png),
];
/// File extensions of videos, each with ffmpeg's name of its demuxer. No other demuxer may open a video, whatever its
/// name.
const VIDEOS: [(&str, &str); 27] = [
    ("mp4", "mov"),
    ("m4v", "mov"),
    ("mov", "mov"),
    ("qt", "mov"),
    ("f4v", "mov"),
    ("3gp", "mov"),
    ("3g2", "mov"),
    ("mkv", "matroska"),
    ("webm", "matroska"),
    ("avi", "avi"),
    ("divx", "avi"),
    ("mpg", "mpeg"),
    ("mpeg", "mpeg"),
    ("vob", "mpeg"),
    ("ts", "mpegts"),
    ("m2ts", "mpegts"),
    ("mts", "mpegts"),
    ("m2t", "mpegts"),
    ("wmv", "asf"),
    ("asf", "asf"),
    ("flv", "flv"),
    ("ogv", "ogg"),
    ("ogm", "ogg"),
    ("mxf", "mxf"),
    ("dv", "dv"),
    ("rm", "rm"),
    ("rmvb", "rm"),
];
/// Extensions of files that only name other files.
const PLAYLISTS: [&str; 12] =
    ["m3u8", "m3u", "mpd", "ism", "f4m", "smil", "pls", "asx", "wvx", "xspf", "ffconcat", "concat"];

/// The extensions of all supported videos: `.mp4, .m4v, …`.
pub fn video_extensions() -> String {
    VIDEOS.map(|(extension, _)| format!(".{extension}")).join(", ")
}

/// ffmpeg's names of all demuxers that may open a video, in the form of its `-format_whitelist`.
pub fn video_readers() -> String {
    let mut readers = VIDEOS.map(|(_, reader)| reader).to_vec();
    readers.dedup();
    readers.join(",")
}

/// A message that a playlist is not a video, and what to do with it.
pub const PLAYLIST: &str = "it is a list of other files: make one file of them, as in `ffmpeg -i list.m3u8 -c \
     copy video.mkv`, and give that";

/// Whether a file only names others (`film.m3u8`, `film.mpd`), by its name.
pub fn is_playlist(path: &str) -> bool {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| PLAYLISTS.contains(&extension.as_str()))
}

/// The extensions of all supported pictures: `.png, .jpg, …`.
pub fn picture_extensions() -> String {
    PICTURES.map(|(extension, _)| format!(".{extension}")).join(", ")
}

/// The format of results for a picture with this extension, which is in lower case.
fn format_of(extension: &str) -> Option<ImageFormat> {
    PICTURES.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

/// A source of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// One picture.
    Picture(ImageFormat),
    /// The pictures matched by a pattern (`frames/*.png`, `frames/%04d.png`) or in a folder; their format, if the name
    /// determines it.
    Sequence(Option<ImageFormat>),
    /// A video file.
    Video,
}

impl Media {
    /// Classifies a path by its last part; `None` if that is neither a picture nor a video. A name without an extension
    /// is taken for a folder.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
        let Some((stem, extension)) = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty())
        else {
            return (!path.is_empty()).then_some(Self::Sequence(None));
        };
        let extension = extension.to_ascii_lowercase();
        let format = format_of(&extension);
        if is_pattern(stem) || is_pattern(&extension) {
            // `frames/*.*`: of many formats.
            let known = format.is_some() || is_pattern(&extension);
            return known.then_some(Self::Sequence(format));
        }
        match format {
            Some(format) => Some(Self::Picture(format)),
            None => VIDEOS.iter().any(|(known, _)| *known == extension).then_some(Self::Video),
        }
    }
}

/// Whether a name is a pattern for several files: with `*`, `?`, or a number such as `%d` or `%04d`.
fn is_pattern(name: &str) -> bool {
    let number = |after: &str| {
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.starts_with('d')
    };
    name.contains(['*', '?']) || name.split('%').skip(1).any(number)
}

/// The folder of a sequence, and the pattern of its file names: `frames/*.png` has both, `frames` and `shot.v2/` are
/// only folders.
pub fn folder_and_pattern(path: &Path) -> (&Path, Option<&str>) {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.filter(|name| is_pattern(name)) {
        Some(pattern) => (path.parent().unwrap_or(path), Some(pattern)),
        None => (path, None),
    }
}

/// Whether a file in the folder of a sequence, by its name, is one of its pictures.
///
/// Names that begin with a dot are hidden: `._a.png`, which macOS creates beside `a.png`, does not contain a picture.
pub fn is_of_sequence(pattern: Option<&str>, name: &str) -> bool {
    let hidden = name.starts_with('.') && !pattern.is_some_and(|p| p.starts_with('.'));
    !hidden
        && matches!(Media::of(name), Some(Media::Picture(_)))
        && pattern.is_none_or(|p| matches(p, name))
}

/// Whether a file's name matches a pattern: `*` is any text, `?` any character, `%d` a number and `%04d` one of at
/// least four digits.
fn matches(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    if first == '*' {
        let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
        return ends.any(|end| matches(rest, &name[end..]));
    }
    if first == '%'
        && let Some((width, rest)) = rest.split_once('d')
        && width.bytes().all(|b| b.is_ascii_digit())
    {
        let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let least = width.parse().unwrap_or(1).max(1);
        return digits >= least && matches(rest, &name[digits..]);
    }
    let mut characters = name.chars();
    let same = characters.next().is_some_and(|c| c == first || first == '?');
    same && matches(rest, characters.as_str())
}

/// The frame numbers of pictures, which are the last numbers in their file names. `None` if a name has no number or two
/// have the same; then the frames are numbered from 1 in the order of the names.
pub fn frames_of_names(names: &[String]) -> Option<Vec<i64>> {
    let last = |name: &String| {
        let digits = |c: char| c.is_ascii_digit();
        let end = stem(name).trim_end_matches(|c: char| !digits(c));
        let start = end.trim_end_matches(digits).len();
        end[start..].parse::<i64>().ok()
    };
    let found: Vec<i64> = names.iter().map(last).collect::<Option<_>>()?;
    let distinct = found.iter().collect::<BTreeSet<_>>().len() == names.len();
    distinct.then_some(found)
}

/// The file name of a path without folder and extension: `city` for `in/city.mp4`.
pub fn stem(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_by_its_name() {
        let png = ImageFormat::Png;
        for (path, media) in [
            ("a.png", Some(Media::Picture(png))),
            ("in/Photo.JPEG", Some(Media::Picture(ImageFormat::Jpeg))),
            ("s3://bucket/a.tif", Some(Media::Picture(ImageFormat::Tiff))),
            ("100%.png", Some(Media::Picture(png))),
            ("frames/*.png", Some(Media::Sequence(Some(png)))),
            ("frames/shot_%04d.exr", Some(Media::Sequence(Some(ImageFormat::Exr)))),
            ("frames/%d.png", Some(Media::Sequence(Some(png)))),
            ("frames/*.*", Some(Media::Sequence(None))),
            ("frames", Some(Media::Sequence(None))),
            ("shots.v2/frames/", Some(Media::Sequence(None))),
            ("clip.MP4", Some(Media::Video)),
            ("-clip:1.m2ts", Some(Media::Video)),
            ("film.m3u8", None),
            ("old.BMP", Some(Media::Picture(png))),
            ("sprites/*.tga", Some(Media::Sequence(Some(png)))),
            ("notes.txt", None),
            ("frames/*.txt", None),
            ("", None),
        ] {
            assert_eq!(Media::of(path), media, "{path}");
        }
        assert_eq!(stem("in/city.v2.mp4"), "city.v2");
    }

    /// The manual lists every format that the code supports.
    #[test]
    fn every_kind_of_video_is_in_the_manual() {
        let manual = include_str!("../../docs/upscaling.md");
        let row = manual.lines().find(|line| line.starts_with("| `clip.mp4` |")).unwrap();
        let named: Vec<_> = row.split('`').filter(|word| word.starts_with('.')).collect();
        assert_eq!(named.join(" "), video_extensions().replace(',', ""));
    }

    #[test]
    fn a_list_of_files_is_no_video() {
        assert!(is_playlist("in/film.M3U8") && is_playlist("manifest.mpd"));
        assert!(!is_playlist("m3u8") && !is_playlist("m3u8.mp4"));
        assert_eq!(video_readers(), "mov,matroska,avi,mpeg,mpegts,asf,flv,ogg,mxf,dv,rm");
    }

    #[test]
    fn the_pictures_of_a_sequence_are_known_by_their_names() {
        for (path, folder, taken) in [
            ("in/*.png", "in", ["a_1.png"].as_slice()),
            ("in/*", "in", &["a_1.png", "b.jpg"]),
            ("in/*.*", "in", &["a_1.png", "b.jpg"]),
            ("in/a_%d.png", "in", &["a_1.png"]),
            ("in", "in", &["a_1.png", "b.jpg"]),
            // Many folders of films have names that end in a version.
            ("in/shot.v002/", "in/shot.v002/", &["a_1.png", "b.jpg"]),
        ] {
            let (found, pattern) = folder_and_pattern(Path::new(path));
            let names =
                ["a_1.png", "b.jpg", "notes.txt", "._a_1.png", ".DS_Store", "Thumbs.db", ".b.jpg"];
            let names = names.into_iter().filter(|name| is_of_sequence(pattern, name));
            assert_eq!((found, names.collect::<Vec<_>>().as_slice()), (Path::new(folder), taken));
        }
    }

    #[test]
    fn frames_are_numbered_as_their_files() {
        let of = |names: &[&str]| {
            frames_of_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a_0007.png", "a_0010.png"]), Some(vec![7, 10]));
        assert_eq!(of(&["2026-11-01 x3b.png", "2026-11-01 x12b.png"]), Some(vec![3, 12]));
        assert_eq!(of(&["a.png", "b7.png"]), None);
        assert_eq!(of(&["a1.png", "b1.png"]), None);
    }

    #[test]
    fn a_pattern_stands_for_names() {
        for (pattern, name, is_one) in [
            ("*.png", "a.png", true),
            ("*.png", "a.PNG", false),
            ("a_%04d.exr", "a_0007.exr", true),
            ("a_%04d.exr", "a_12345.exr", true),
            ("a_%04d.exr", "a_7.exr", false),
            ("%d.png", "12.png", true),
            ("%d.png", ".png", false),
            ("a?c*", "abcdef", true),
            ("100%.png", "100%.png", true),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaa", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), is_one, "{pattern} {name}");
        }
    }
}
