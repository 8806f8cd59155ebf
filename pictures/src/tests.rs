//! Round trips through every format, and how defects of a picture are reported.

mod tiff;

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

/// An EXIF block that holds nothing but the orientation.
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
        // One bright column on the left: rotated by 90 degrees, it is the first row.
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
    let kinds = "(.png, .jpg, .jpeg, .webp, .tif, .tiff, .exr, .gif, .bmp, .dib, .tga, .avif, .heic, .heif)";
    assert_eq!(problem(&path), format!("is no picture of a kind that is read {kinds}"));
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

#[test]
fn what_a_picture_says_of_itself_goes_from_every_format_into_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let field = |tag, kind, data: &[u8]| exif::Field { tag, kind, data: data.to_vec() };
    let said = exif::Exif {
        main: vec![field(270, 2, b"scan 7\0"), field(315, 2, b"Ada\0")],
        camera: vec![field(40962, 3, &[9, 0]), field(40963, 4, &[9, 0, 0, 0])],
        place: vec![field(1, 2, b"N\0")],
    };
    let first = Tags {
        exif: said.to_bytes(),
        xmp: Some(b"<x tiff:Orientation=\"6\" exif:PixelXDimension='9'>A title</x>".to_vec()),
        iptc: Some(vec![0x1c, 2, 120, 0, 3, b'a', b'b', b'c']),
        density: tags::Density::of(300.0, 150.0),
        ..Tags::default()
    };
    let formats = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Tiff];
    let layout = layout("40x24", 3, false, Depth::Eight);
    for from in formats {
        for to in formats {
            let (a, b) = (folder.path().join("a"), folder.path().join("b"));
            made(&a, from, layout, &first);
            let mut notes = Vec::new();
            let tags = read(&a).2.fitted(to, "80x48".parse().unwrap(), &mut notes);
            assert!(notes.is_empty(), "{notes:?}");
            made(&b, to, layout, &tags);
            let found = read(&b).2;
            let case = format!("{from:?} to {to:?}");
            assert_eq!(found.density, first.density, "{case}");
            assert_eq!(found.iptc, first.iptc, "{case}");
            let xmp = String::from_utf8(found.xmp.unwrap()).unwrap();
            let wanted = "<x tiff:Orientation=\"1\" exif:PixelXDimension='80'>A title</x>";
            assert_eq!(xmp, wanted, "{case}");
            let told = exif::Exif::parse(&found.exif.unwrap()).unwrap();
            for (fields, wanted) in [(&told.main, &said.main), (&told.place, &said.place)] {
                assert!(wanted.iter().all(|field| fields.contains(field)), "{case}: {told:?}");
            }
            let size = [field(40962, 3, &[80, 0]), field(40963, 4, &[48, 0, 0, 0])];
            assert_eq!(told.camera, size, "{case}");
        }
    }
}

#[test]
fn kinds_that_are_only_read_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let colours = image::RgbImage::from_fn(5, 3, |x, y| {
        image::Rgb([x, y, x * y].map(|n| u8::try_from(n * 30).unwrap()))
    });
    for (name, format) in [
        ("a.bmp", image::ImageFormat::Bmp),
        ("a.tga", image::ImageFormat::Tga),
        ("a.gif", image::ImageFormat::Gif),
    ] {
        let path = folder.path().join(name);
        colours.save_with_format(&path, format).unwrap();
        let (found, samples, _) = read(&path);
        assert_eq!(found, layout("5x3", 3, false, Depth::Eight), "{name}");
        assert_eq!(size(&path).unwrap(), found.size);
        for (sample, byte) in samples.iter().zip(colours.as_raw()) {
            assert!((sample * 255.0 - f32::from(*byte)).abs() < 0.01, "{name}");
        }
    }
    let path = folder.path().join("a.bmp");
    let encode = |colours: [u8; 3]| {
        let mut bytes = Vec::new();
        let mut encoder = image::codecs::bmp::BmpEncoder::new(&mut bytes);
        let palette = [[0; 3], colours];
        let kind = image::ExtendedColorType::L8;
        encoder.encode_with_palette(&[1, 0], 2, 1, kind, Some(&palette)).unwrap();
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    };
    let (found, samples, _) = encode([51; 3]);
    assert_eq!((found, samples), (layout("2x1", 1, false, Depth::Eight), vec![0.2, 0.0]));
    assert_eq!(encode([51, 51, 52]).0.colours, 3);
    let path = folder.path().join("a.heic");
    std::fs::write(&path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    assert!(size(&path).unwrap_err().to_string().starts_with("is a HEIC or AVIF picture"));
    assert!(is_container(&path) && !is_container(&folder.path().join("a.bmp")));
    for (pictures, animated) in [(1, false), (2, true)] {
        let mut film = b"\0\0\0\x14ftypavis\0\0\0\0avif".to_vec();
        film.extend(b"\0\0\0\x24moov\0\0\0\x1cstsz\0\0\0\0\0\0\0\0\0\0\0");
        film.extend([pictures, 0, 0, 0, 9, 0, 0, 0, 9]);
        std::fs::write(&path, film).unwrap();
        assert_eq!(is_container(&path), !animated);
        assert_eq!(size(&path).unwrap_err().to_string().starts_with("is animated"), animated);
    }
}

#[test]
fn numbers_that_are_not_finite_are_replaced_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.exr");
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    for (layout, made, wanted) in [
        (
            layout("2x1", 3, true, Depth::Float),
            vec![nan, 2.0, infinite, 0.5, 1.0, -infinite, 0.25, nan],
            vec![0.0, 2.0, 65_504.0, 0.5, 1.0, 0.0, 0.25, 1.0],
        ),
        (layout("1x2", 1, false, Depth::Float), vec![3.0, nan], vec![3.0, 0.0]),
    ] {
        openexr::write(&path, layout, &made, None).unwrap();
        let reader = Reader::open(&path, false).unwrap();
        let pixels = made.chunks_exact(layout.channels());
        let bad = pixels.clone().filter(|pixel| pixel.iter().any(|sample| !sample.is_finite()));
        let note = format!("{} of its pixels hold NaN or infinity", bad.count());
        assert!(reader.notes()[0].starts_with(&note), "{:?}", reader.notes());
        assert_eq!(read(&path).1, wanted);
    }
    openexr::write(&path, layout("1x1", 1, false, Depth::Float), &[3.0], None).unwrap();
    assert!(Reader::open(&path, false).unwrap().notes().is_empty());
}

#[test]
fn what_a_png_says_of_its_colours_stays_in_a_png() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.png"), folder.path().join("b.png"));
    let layout = layout("2x2", 3, false, Depth::Eight);
    let chromaticities =
        png::SourceChromaticities::new((0.3127, 0.329), (0.68, 0.32), (0.25, 0.69), (0.15, 0.06));
    let mut info = png::Info::with_size(2, 2);
    let tags =
        |info: &png::Info<'static>| Tags { png: Some(info.clone().into()), ..Tags::default() };
    info.gama_chunk = Some(png::ScaledFloat::from_scaled(100_000));
    info.chrm_chunk = Some(chromaticities);
    info.coding_independent_code_points = Some(png::CodingIndependentCodePoints {
        color_primaries: 12,
        transfer_function: 16,
        matrix_coefficients: 0,
        is_video_full_range_image: true,
    });
    info.mastering_display_color_volume = Some(png::MasteringDisplayColorVolume {
        chromaticities,
        max_luminance: 10_000_000,
        min_luminance: 5,
    });
    info.content_light_level = Some(png::ContentLightLevelInfo {
        max_content_light_level: 1000,
        max_frame_average_light_level: 200,
    });
    made(&a, ImageFormat::Png, layout, &tags(&info));
    let mut notes = Vec::new();
    made(
        &b,
        ImageFormat::Png,
        layout,
        &read(&a).2.fitted(ImageFormat::Png, layout.size, &mut notes),
    );
    let found = read(&b).2.png.unwrap();
    assert_eq!(found.gama_chunk, info.gama_chunk);
    assert_eq!(found.chrm_chunk, info.chrm_chunk);
    assert_eq!(found.coding_independent_code_points, info.coding_independent_code_points);
    assert_eq!(found.mastering_display_color_volume, info.mastering_display_color_volume);
    assert_eq!(found.content_light_level, info.content_light_level);
    assert!(notes.is_empty(), "{notes:?}");
    let lost = |info: &png::Info<'static>| {
        let mut notes = Vec::new();
        let _ = tags(info).fitted(ImageFormat::Jpeg, layout.size, &mut notes);
        notes.len()
    };
    assert_eq!(lost(&info), 1);
    info.coding_independent_code_points = None;
    assert_eq!(lost(&info), 1, "by gAMA and cHRM");
    info.srgb = Some(png::SrgbRenderingIntent::Perceptual);
    assert_eq!(lost(&info), 0, "sRGB takes precedence");
    assert_eq!(lost(&png::Info::with_size(2, 2)), 0);
}

#[test]
fn damaged_metadata_is_no_harm() {
    let mut block = exif::Exif {
        main: vec![exif::Field { tag: 270, kind: 2, data: b"a text\0".to_vec() }],
        ..exif::Exif::default()
    }
    .to_bytes()
    .unwrap();
    for at in 0..block.len() {
        let before = std::mem::replace(&mut block[at], 0xff);
        let _ = exif::Exif::parse(&block);
        exif::tell_anew(&mut block, "3x4".parse().unwrap());
        let _ = exif::Exif::parse(&block[..at]);
        block[at] = before;
    }
    assert_eq!(jpeg::iptc_of(b"8BIM\x04\x04\0\0\xff\xff\xff\xffx"), None);
}
