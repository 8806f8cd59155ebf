//! What the name of a source says about its content: one picture, pictures, or a video.

use crate::body::ImageFormat;

/// File extensions of videos.
const VIDEOS: [&str; 10] = ["mp4", "mov", "mkv", "webm", "avi", "m4v", "mpg", "mpeg", "ts", "mxf"];

/// A source of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// One picture.
    Picture(ImageFormat),
    /// The pictures that a pattern (`frames/*.png`, `frames/%04d.png`) or a folder stands for; their
    /// format, if the name says it.
    Sequence(Option<ImageFormat>),
    /// A video.
    Video,
}

impl Media {
    /// What a path stands for, by its last part; nothing if that is neither a picture nor a video. A
    /// name without an extension is a folder.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
        let Some((stem, extension)) = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty())
        else {
            return (!path.is_empty()).then_some(Self::Sequence(None));
        };
        let extension = extension.to_ascii_lowercase();
        let format = ImageFormat::of_extension(&extension);
        if is_pattern(stem) || is_pattern(&extension) {
            // `frames/*.*`: of many formats.
            let known = format.is_some() || is_pattern(&extension);
            return known.then_some(Self::Sequence(format));
        }
        match format {
            Some(format) => Some(Self::Picture(format)),
            None => VIDEOS.contains(&extension.as_str()).then_some(Self::Video),
        }
    }
}

/// Whether a name stands for several files: `*`, `?`, or a number as in `%d` or `%04d`.
fn is_pattern(name: &str) -> bool {
    let number = |after: &str| {
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.starts_with('d')
    };
    name.contains(['*', '?']) || name.split('%').skip(1).any(number)
}

/// The name of the file that a path leads to, without folder and extension: `city` of `in/city.mp4`.
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
            ("notes.txt", None),
            ("frames/*.txt", None),
            ("", None),
        ] {
            assert_eq!(Media::of(path), media, "{path}");
        }
        assert_eq!(stem("in/city.v2.mp4"), "city.v2");
    }
}
