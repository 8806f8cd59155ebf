//! Every format there and back, and what is wrong with a picture told.

use super::*;
use pictor_tasks::body::ImageFormat;
use std::path::{Path, PathBuf};

fn layout(size: &str, colours: usize, alpha: bool, depth: Depth) -> Layout {
    Layout { size: size.parse().unwrap(), colours, alpha, depth }
}

/// Samples that exercise every bit, and are exact in each depth.
fn sample(place: u32, depth: Depth) -> f32 {
    let bits = place.wrapping_mul(2_654_435_761) >> 16;
    let byte = u8::try_from(bits & 0xff).unwrap();
    match depth {
        Depth::Eight => f32::from(byte) / 255.0,
        Depth::Sixteen => f32::from(u16::try_from(bits).unwrap()) / 65_535.0,
        Depth::Half => f32::from(byte) / 64.0,
        Depth::Float => f32::from(u16::try_from(bits).unwrap()) / 1024.0 + 1e-6,
    }
}

fn made(path: &Path, format: ImageFormat, layout: Layout, tags: &Tags) {
    let target = Target { layout, format, quality: 100, passing: true };
    let mut place = 0;
    write(path, target, tags, &mut |row| {
        row.clear();
        row.extend((0..layout.row_samples()).map(|_| {
            place += 1;
            sample(place, layout.depth)
        }));
        Ok(())
    })
    .unwrap();
}

fn read(path: &Path) -> (Layout, Vec<f32>, Tags) {
    let mut reader = Reader::open(path, false).unwrap();
    let (mut row, mut all) = (Vec::new(), Vec::new());
    for _ in 0..reader.layout().size.height {
        reader.row(&mut row).unwrap();
        all.extend(&row);
    }
    assert!(reader.row(&mut row).is_err(), "there are no more rows");
    (reader.layout(), all, reader.tags().clone())
}

#[test]
fn every_lossless_format_gives_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    for format in [ImageFormat::Png, ImageFormat::Tiff, ImageFormat::Exr] {
        let depths: &[Depth] = if format == ImageFormat::Exr {
            &[Depth::Half, Depth::Float]
        } else {
            &[Depth::Eight, Depth::Sixteen]
        };
        for depth in depths {
            for (shape, colours, alpha) in
                [("1x1", 1, false), ("7x130", 3, false), ("5x3", 1, true), ("130x7", 3, true)]
            {
                let layout = layout(shape, colours, alpha, *depth);
                let path = folder.path().join("a.bin");
                made(&path, format, layout, &Tags::default());
                let (found, samples, _) = read(&path);
                assert_eq!(found, layout, "{format:?}");
                assert_eq!(size(&path).unwrap(), layout.size);
                let count = u32::try_from(samples.len()).unwrap();
                let wanted: Vec<f32> = (1..=count).map(|place| sample(place, *depth)).collect();
                assert_eq!(samples, wanted, "{format:?} {layout:?}");
            }
        }
    }
}

/// An EXIF block that says only how the picture lies.
fn exif(orientation: u8) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    bytes.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[test]
fn a_picture_is_turned_upright_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for (format, name) in [(ImageFormat::Png, "a.png"), (ImageFormat::Jpeg, "a.jpg")] {
        let path = folder.path().join(name);
        let tags = Tags { exif: Some(exif(6)), icc: Some(vec![7; 200]), ..Tags::default() };
        // One bright column on the left: turned by a quarter it is the first row.
        let layout = layout("16x8", 1, false, Depth::Eight);
        let target = Target { layout, format, quality: 100, passing: false };
        write(&path, target, &tags, &mut |row| {
            *row = (0..16).map(|x| f32::from(u8::from(x < 8))).collect();
            Ok(())
        })
        .unwrap();
        let (found, samples, tags) = read(&path);
        assert_eq!(found.size, "8x16".parse().unwrap(), "{name}");
        assert_eq!(size(&path).unwrap(), found.size);
        assert!(samples[..64].iter().all(|s| *s > 0.9) && samples[64..].iter().all(|s| *s < 0.1));
        assert_eq!(tags.exif, Some(exif(1)), "{name}");
        assert_eq!(tags.icc, Some(vec![7; 200]), "{name}");
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |path: &PathBuf| {
        let mut row = Vec::new();
        let rows = |mut reader: Reader| -> Result<(), PictureError> {
            (0..reader.layout().size.height).try_for_each(|_| reader.row(&mut row))
        };
        Reader::open(path, false).and_then(rows).unwrap_err().to_string()
    };
    for (format, name) in [
        (ImageFormat::Png, "a.png"),
        (ImageFormat::Jpeg, "a.jpg"),
        (ImageFormat::Tiff, "a.tif"),
        (ImageFormat::Exr, "a.exr"),
    ] {
        let path = folder.path().join(name);
        let depth = if format == ImageFormat::Exr { Depth::Half } else { Depth::Eight };
        made(&path, format, layout("300x200", 3, false, depth), &Tags::default());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let problem = problem(&path);
        let clear = problem.starts_with("is cut short") || problem.starts_with("cannot be decoded");
        assert!(clear, "{name}: {problem}");
    }
    let path = folder.path().join("a.txt");
    std::fs::write(&path, "no picture").unwrap();
    assert_eq!(problem(&path), "is no PNG, JPEG, WebP, TIFF or EXR picture");
    std::fs::write(&path, "").unwrap();
    assert_eq!(problem(&path), "is empty");
}

#[test]
fn resizing_keeps_what_is_even_and_the_place_of_things() {
    for filter in [Filter::Lanczos3, Filter::CatmullRom] {
        for (from, to) in [("5x4", "15x12"), ("40x30", "7x3"), ("1x9", "4x2"), ("6x6", "6x6")] {
            let (from, to): (Resolution, Resolution) = (from.parse().unwrap(), to.parse().unwrap());
            let mut resampler = Resampler::new(from, to, 2, filter);
            let mut y = 0_u16;
            let mut rows = |row: &mut Vec<f32>| {
                row.clear();
                for _ in 0..from.width {
                    row.extend([0.25, f32::from(y)]);
                }
                y += 1;
                Ok(())
            };
            let (mut row, mut last) = (Vec::new(), f32::NEG_INFINITY);
            for _ in 0..to.height {
                resampler.row(&mut rows, &mut row).unwrap();
                assert_eq!(row.len(), 2 * to.width as usize);
                for pixel in row.chunks_exact(2) {
                    assert!((pixel[0] - 0.25).abs() < 1e-5, "{filter:?} {from} {to}: {pixel:?}");
                }
                assert!(row[1] > last, "{filter:?} {from} {to}: a slope goes on rising");
                last = row[1];
            }
            assert!(from != to || (last - 5.0).abs() < 1e-5, "the same size is the same picture");
        }
    }
}

#[test]
fn display_and_linear_light_are_each_others_inverse() {
    for step in 0..=1000_u16 {
        let value = f32::from(step) / 1000.0;
        assert!((to_display(to_linear(value)) - value).abs() < 1e-5);
    }
    assert!((to_display(7.0) - 1.0).abs() < 1e-6 && to_display(-1.0).abs() < 1e-6);
}
