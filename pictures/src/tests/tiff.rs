//! The many kinds of TIFF.

use super::*;
use ::tiff::encoder::TiffEncoder;
use ::tiff::tags::Tag;
use std::fs::File;

/// A TIFF of one or more pages of 8 bits, each with these fields and one strip.
fn tiff_of(path: &Path, pages: u8, width: u32, fields: &[(u16, &[u16])], strip: &[u8]) {
    let mut encoder = TiffEncoder::new(File::create(path).unwrap()).unwrap();
    for _ in 0..pages {
        let mut page = encoder.image_directory().unwrap();
        let at = u32::try_from(page.write_data(strip).unwrap()).unwrap();
        let tag = Tag::from_u16_exhaustive;
        page.write_tag(tag(256), width).unwrap();
        page.write_tag(tag(257), 1_u32).unwrap();
        page.write_tag(tag(273), at).unwrap();
        page.write_tag(tag(279), u32::try_from(strip.len()).unwrap()).unwrap();
        for (number, values) in fields {
            page.write_tag(tag(*number), *values).unwrap();
        }
        page.finish().unwrap();
    }
}

#[test]
fn a_tiff_with_a_palette_or_with_colours_times_opacity_is_read_as_it_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let rgb = |colours: &[u8]| colours.iter().map(|c| f32::from(*c) / 255.0).collect::<Vec<_>>();
    // Four colours, two bits each: the numbers 3, 0, 2.
    let map = [1, 2, 3, 4, 10, 20, 30, 40, 100, 110, 120, 130].map(|n: u16| n * 257);
    let fields: &[(u16, &[u16])] =
        &[(258, &[2]), (259, &[1]), (262, &[3]), (277, &[1]), (320, &map)];
    tiff_of(&path, 1, 3, fields, &[0b1100_1000]);
    let (found, samples, _) = read(&path);
    assert_eq!(found, layout("3x1", 3, false, Depth::Eight));
    assert_eq!(samples, rgb(&[4, 40, 130, 1, 10, 100, 3, 30, 120]));
    let fields: &[(u16, &[u16])] =
        &[(258, &[8, 8, 8, 8]), (259, &[1]), (262, &[2]), (277, &[4]), (338, &[1])];
    tiff_of(&path, 1, 2, fields, &[100, 50, 0, 100, 0, 0, 0, 0]);
    let (found, samples, _) = read(&path);
    assert_eq!(found, layout("2x1", 3, true, Depth::Eight));
    assert_eq!(samples, rgb(&[255, 128, 0, 100, 0, 0, 0, 0]));
}

#[test]
fn a_tiff_of_several_pages_is_refused_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let grey: &[(u16, &[u16])] = &[(258, &[8]), (259, &[1]), (262, &[1]), (277, &[1])];
    tiff_of(&path, 3, 1, grey, &[7]);
    for problem in [size(&path).unwrap_err(), Reader::open(&path, false).err().unwrap()] {
        assert!(problem.to_string().starts_with("has 3 pages"), "{problem}");
        assert!(problem.to_string().contains("tiffsplit"), "{problem}");
    }
    tiff_of(&path, 1, 1, grey, &[7]);
    assert_eq!(size(&path).unwrap(), "1x1".parse().unwrap());
}

#[test]
fn bits_in_reverse_are_read_as_they_are_meant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let is_read = |(coding, bits): (u16, u16), strip: &[u8], wanted: &[f32]| {
        let fields: &[(u16, &[u16])] =
            &[(258, &[bits]), (259, &[coding]), (262, &[1]), (266, &[2]), (277, &[1])];
        tiff_of(&path, 1, 8 / u32::from(bits), fields, strip);
        let found: Vec<f32> = read(&path).1.iter().map(|sample| (sample * 255.0).round()).collect();
        assert_eq!(found, wanted, "{coding}");
    };
    is_read((1, 8), &[0b1100_0000], &[3.0]);
    is_read((1, 2), &[0b1000_1101], &[170.0, 255.0, 0.0, 85.0]);
    // PackBits: one byte as it is.
    is_read((32773, 8), &[0, 0b1100_0000], &[3.0]);
    // Group 4: a row like the white one before it, and the end.
    is_read((4, 1), &[0x01, 0x10, 0x00, 0x01], &[0.0; 8]);
}

#[test]
fn faxes_of_group_3_are_refused_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    for coding in [2, 3] {
        let fields: &[(u16, &[u16])] = &[(258, &[1]), (259, &[coding]), (262, &[1]), (277, &[1])];
        tiff_of(&path, 1, 8, fields, &[0; 8]);
        for problem in [size(&path).unwrap_err(), Reader::open(&path, false).err().unwrap()] {
            assert!(problem.to_string().contains("`tiffcp -c g4"), "{problem}");
        }
    }
}

/// Tiles of several planes that reach beyond the right and the lower edge.
#[test]
fn planes_in_tiles_are_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let (width, height) = (17_u32, 18_u32);
    let value = |plane: u32, x: u32, y: u32| u8::try_from(plane * 80 + x * 3 + y).unwrap();
    let mut encoder = TiffEncoder::new(File::create(&path).unwrap()).unwrap();
    let mut page = encoder.image_directory().unwrap();
    let mut places = Vec::new();
    for (plane, top, left) in (0..12).map(|n| (n / 4, n / 2 % 2 * 16, n % 2 * 16)) {
        let pixels = (0..256).map(|n| (left + n % 16, top + n / 16));
        let inside = |x, y| if x < width && y < height { value(plane, x, y) } else { 255 };
        let tile: Vec<u8> = pixels.map(|(x, y)| inside(x, y)).collect();
        places.push(u32::try_from(page.write_data(tile.as_slice()).unwrap()).unwrap());
    }
    for (number, values) in [
        (256, vec![width]),
        (257, vec![height]),
        (258, vec![8, 8, 8]),
        (259, vec![1]),
        (262, vec![2]),
        (277, vec![3]),
        (284, vec![2]),
        (322, vec![16]),
        (323, vec![16]),
        (324, places),
        (325, vec![256; 12]),
    ] {
        page.write_tag(Tag::from_u16_exhaustive(number), values.as_slice()).unwrap();
    }
    page.finish().unwrap();
    let (found, samples, _) = read(&path);
    assert_eq!(found, layout("17x18", 3, false, Depth::Eight));
    for (at, pixel) in (0_u32..).zip(samples.chunks_exact(3)) {
        let wanted = [0, 1, 2].map(|plane| f32::from(value(plane, at % 17, at / 17)) / 255.0);
        assert_eq!(pixel, wanted.as_slice(), "{} {}", at % 17, at / 17);
    }
}

#[test]
fn channels_that_are_left_out_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    for (kind, noted) in [(0, true), (1, false), (2, false)] {
        let fields: &[(u16, &[u16])] =
            &[(258, &[8; 4]), (259, &[1]), (262, &[2]), (277, &[4]), (338, &[kind])];
        tiff_of(&path, 1, 1, fields, &[255, 0, 0, 255]);
        let reader = Reader::open(&path, false).unwrap();
        assert_eq!(reader.layout().alpha, !noted);
        assert_eq!(reader.notes().len(), usize::from(noted), "{:?}", reader.notes());
    }
}
