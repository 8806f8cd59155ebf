//! Pictures of every format through the network.

use crate::farm::TestFarm;
use crate::job::{Job, farm, farm_with};
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader};
use pictor_tasks::body::ImageFormat;
use std::path::{Path, PathBuf};

/// A picture with edges, lines and noise, with one to four channels: grey, grey and opacity, RGB, RGBA.
fn samples(width: u32, height: u32, channels: u32) -> Vec<u16> {
    let mut random = 0x9E37_79B9_u32;
    let mut samples = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..channels {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let is_disc = (x * x + y * y) % 1700 < 800;
                let is_line = (x + 2 * y + channel * 5) % 23 == 0;
                let gradient = (x * 3 + y * 7 + channel * 40) % 256 * 128;
                let base = if is_line { 60_000 } else { gradient + u32::from(is_disc) * 20_000 };
                samples.push(u16::try_from((base + (random >> 20)).min(65_535)).unwrap());
            }
        }
    }
    samples
}

/// Writes such a picture as PNG.
pub(crate) fn picture(
    farm: &TestFarm,
    name: &str,
    size: (u32, u32),
    colour: ExtendedColorType,
) -> PathBuf {
    let channels = u32::from(colour.channel_count());
    let deep = samples(size.0, size.1, channels);
    let bytes: Vec<u8> = if colour.bits_per_pixel() == 16 * u16::try_from(channels).unwrap() {
        deep.iter().flat_map(|sample| sample.to_ne_bytes()).collect()
    } else {
        deep.iter().map(|sample| sample.to_be_bytes()[0]).collect()
    };
    let path = farm.folder.path().join(name);
    let file = std::fs::File::create(&path).unwrap();
    let encoder = image::codecs::png::PngEncoder::new(file);
    encoder.write_image(&bytes, size.0, size.1, colour).unwrap();
    path
}

fn decoded(path: &Path) -> DynamicImage {
    let mut reader = ImageReader::open(path).unwrap().with_guessed_format().unwrap();
    reader.no_limits();
    reader.decode().unwrap()
}

/// The most important property: cutting a picture into tiles gives the same result as upscaling it as a whole.
#[tokio::test]
async fn tiles_put_together_are_the_whole_picture_bit_for_bit() {
    let mut farm = farm();
    for (model, size, colour, scale) in [
        (2, (101, 77), ExtendedColorType::Rgb8, None),
        (2, (57, 39), ExtendedColorType::Rgba8, None),
        (2, (90, 77), ExtendedColorType::L8, None),
        (2, (61, 85), ExtendedColorType::La16, None),
        (2, (85, 61), ExtendedColorType::Rgb16, Some(2)),
        (2, (1, 203), ExtendedColorType::Rgb8, None),
        (2, (203, 1), ExtendedColorType::Rgba16, None),
        (2, (1, 1), ExtendedColorType::Rgb8, None),
        (2, (67, 45), ExtendedColorType::Rgb8, Some(3)),
        (2, (45, 67), ExtendedColorType::La8, Some(4)),
        (2, (45, 67), ExtendedColorType::Rgba8, Some(1)),
        (3, (67, 45), ExtendedColorType::Rgb8, None),
        (3, (1, 70), ExtendedColorType::L16, None),
        (4, (45, 67), ExtendedColorType::Rgba8, None),
        (4, (70, 1), ExtendedColorType::Rgb16, None),
    ] {
        let source = picture(&farm, "source.png", size, colour);
        let case = format!("x{model} {size:?} {colour:?} {scale:?}");
        let name = format!("realesr-animevideov3-x{model}");
        let job = |pixels| Job { pixels, scale, model: name.clone(), ..Job::default() };
        let whole = job(1024).picture(&mut farm, &source).await.unwrap();
        let small = job(32);
        assert_eq!(job(1024).tiles(&mut farm, &source).await.unwrap(), 1);
        let tiles = small.tiles(&mut farm, &source).await.unwrap();
        assert_eq!(tiles, size.0.div_ceil(32) * size.1.div_ceil(32));
        let stitched = small.picture(&mut farm, &source).await.unwrap();
        let (whole, stitched) = (decoded(&whole), decoded(&stitched));
        let factor = scale.unwrap_or(model);
        assert_eq!((whole.width(), whole.height()), (size.0 * factor, size.1 * factor), "{case}");
        assert_eq!(ExtendedColorType::from(whole.color()), colour, "{case}");
        assert!(whole == stitched, "{case}: tiles show");
    }
}

/// A worker whose memory is too small for a tile does it in parts, which leave no trace, either.
#[tokio::test]
async fn a_small_worker_makes_the_same_picture() {
    let mut large = farm();
    let mut small = farm_with(1 << 20);
    let source = picture(&large, "source.png", (70, 66), ExtendedColorType::Rgb8);
    for scale in [None, Some(4)] {
        let job = Job { scale, ..Job::default() };
        let whole = job.picture(&mut large, &source).await.unwrap();
        let parts = job.picture(&mut small, &source).await.unwrap();
        assert!(decoded(&whole) == decoded(&parts), "{scale:?}: parts show");
    }
}

/// With too little overlap the result differs, which shows that the test above can fail.
#[tokio::test]
async fn tiles_without_overlap_are_not_the_whole_picture() {
    let mut farm = farm();
    let source = picture(&farm, "source.png", (131, 97), ExtendedColorType::Rgb8);
    let whole = Job::default().picture(&mut farm, &source).await.unwrap();
    let job = Job { pixels: 32, overlap: Some(0), ..Job::default() };
    let tiled = job.picture(&mut farm, &source).await.unwrap();
    assert!(decoded(&whole) != decoded(&tiled));
}

/// The mean difference of two pictures, as a fraction of the whole range.
fn difference(a: &DynamicImage, b: &DynamicImage) -> f64 {
    let (a, b) = (a.to_rgba32f(), b.to_rgba32f());
    assert_eq!(a.dimensions(), b.dimensions());
    let each = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| f64::from((a - b).abs()));
    each.sum::<f64>() / f64::from(u32::try_from(a.as_raw().len()).unwrap())
}

/// The result looks like the original: nothing is rotated, shifted or has different colours.
#[tokio::test]
async fn every_format_comes_out_as_it_went_in() {
    let mut farm = farm();
    // Smooth, so that a network changes little.
    let smooth = image::RgbaImage::from_fn(80, 60, |x, y| {
        let byte = |n: u32| u8::try_from(n % 256).unwrap();
        image::Rgba([byte(x * 3), byte(y * 4), 200, byte(255 - x)])
    });
    let smooth = DynamicImage::ImageRgba8(smooth);
    let opaque = DynamicImage::ImageRgb8(smooth.to_rgb8());
    for (name, format, picture) in [
        ("a.png", ImageFormat::Png, &smooth),
        ("a.tif", ImageFormat::Tiff, &smooth),
        ("a.webp", ImageFormat::Webp, &smooth),
        ("a.jpg", ImageFormat::Jpeg, &opaque),
    ] {
        let source = farm.folder.path().join(name);
        picture.save(&source).unwrap();
        let job = Job { format, ..Job::default() };
        let made = job.picture(&mut farm, &source).await.unwrap();
        assert_eq!(made.extension(), source.extension());
        let made = decoded(&made);
        let wanted = picture.resize_exact(160, 120, image::imageops::FilterType::CatmullRom);
        assert_eq!(made.color().has_alpha(), picture.color().has_alpha(), "{name}");
        let found = difference(&made, &wanted);
        assert!(found < 0.02, "{name}: {found}");
    }
}

/// A still picture of a video codec equals what ffmpeg decodes; one that ffmpeg would decode only in part is refused.
#[tokio::test]
async fn an_avif_is_read_by_ffmpeg_where_it_is_read_whole() {
    let mut farm = farm();
    let folder = farm.folder.path().to_owned();
    let ffmpeg = |arguments: &str| {
        let words = arguments.split(' ');
        let mut command = std::process::Command::new("ffmpeg");
        let made = command.args(["-v", "error", "-y"]).args(words).current_dir(&folder).status();
        assert!(made.unwrap().success(), "{arguments}");
    };
    ffmpeg("-f lavfi -i smptebars=s=80x60 -frames:v 1 a.png");
    let wanted = Job::default().picture(&mut farm, &folder.join("a.png")).await.unwrap();
    let wanted = decoded(&wanted);
    for pixels in ["yuv444p", "yuv444p10le"] {
        let coded = "-still-picture 1 -c:v libaom-av1 -crf 8 -cpu-used 8 -pix_fmt";
        ffmpeg(&format!("-i a.png {coded} {pixels} -vf scale=out_color_matrix=bt601 a.avif"));
        let source = folder.join("a.avif");
        let products = Job::default().products(&mut farm, &source).await.unwrap();
        assert!(products.notes.iter().any(|note| note.contains("a.avif is read by ffmpeg")));
        let made = decoded(&farm.artifact(&products.outputs[0]));
        assert_eq!(made.color().bits_per_pixel(), if pixels == "yuv444p" { 24 } else { 48 });
        let found = difference(&made, &wanted);
        assert!(found < 0.01, "{pixels}: {found}");
    }
    let mut turned = std::fs::read(folder.join("a.avif")).unwrap();
    turned.extend(b"irot\x01");
    let source = folder.join("turned.avif");
    std::fs::write(&source, turned).unwrap();
    let failure = Job::default().picture(&mut farm, &source).await.unwrap_err();
    assert!(failure.message.contains("ffmpeg does not read whole"), "{failure:?}");
}

/// Linear light, brighter than white in one area.
#[tokio::test]
async fn an_exr_stays_linear_and_keeps_its_highlights() {
    let mut farm = farm();
    let source = farm.folder.path().join("a.exr");
    let light = |x: usize, y: usize| {
        let base = f32::from(u16::try_from(x).unwrap()) / 64.0;
        if (20..30).contains(&x) && (20..30).contains(&y) { 12.0 } else { base }
    };
    exr::prelude::write_rgb_file(&source, 64, 48, |x, y| (light(x, y), 0.18, 0.5)).unwrap();
    let job = Job { format: ImageFormat::Exr, pixels: 40, ..Job::default() };
    let made = job.picture(&mut farm, &source).await.unwrap();
    let made = exr::prelude::read_first_rgba_layer_from_file(
        &made,
        |size, _| vec![vec![[0.0_f32; 3]; size.width()]; size.height()],
        |rows, place, (r, g, b, _): (f32, f32, f32, f32)| rows[place.y()][place.x()] = [r, g, b],
    );
    let rows = made.unwrap().layer_data.channel_data.pixels;
    assert_eq!((rows[0].len(), rows.len()), (128, 96));
    let [red, green, blue] = rows[50][50];
    assert!((red - 12.0).abs() < 0.3, "{red}");
    let [dark, ..] = rows[80][10];
    assert!((dark - light(5, 40)).abs() < 0.02, "{dark}");
    assert!((green - 0.18).abs() < 0.02 && (blue - 0.5).abs() < 0.03, "{green} {blue}");
}

/// The profile, EXIF and texts of a picture are kept, and it is turned upright.
#[tokio::test]
async fn what_a_picture_says_of_itself_is_carried() {
    let mut farm = farm();
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
    exif.extend([0; 4]);
    let profile = vec![9; 300];
    let source = farm.folder.path().join("a.jpg");
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(
        std::fs::File::create(&source).unwrap(),
        95,
    );
    encoder.set_icc_profile(profile.clone()).unwrap();
    encoder.set_exif_metadata(exif.clone()).unwrap();
    encoder.write_image(&vec![120; 40 * 24 * 3], 40, 24, ExtendedColorType::Rgb8).unwrap();
    exif[18] = 1;
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Webp] {
        let job = Job { format, ..Job::default() };
        let made = job.picture(&mut farm, &source).await.unwrap();
        let mut decoder = ImageReader::open(&made).unwrap().into_decoder().unwrap();
        assert_eq!(decoder.dimensions(), (48, 80), "{format:?}: upright");
        assert_eq!(decoder.icc_profile().unwrap(), Some(profile.clone()), "{format:?}");
        assert_eq!(decoder.exif_metadata().unwrap(), Some(exif.clone()), "{format:?}");
    }
    let source = farm.folder.path().join("b.png");
    let mut encoder = png::Encoder::new(std::fs::File::create(&source).unwrap(), 8, 8);
    encoder.set_color(png::ColorType::Rgb);
    encoder.add_text_chunk("Author".into(), "a painter".into()).unwrap();
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[99; 192]).unwrap();
    writer.finish().unwrap();
    let made = Job::default().picture(&mut farm, &source).await.unwrap();
    let made = std::io::BufReader::new(std::fs::File::open(made).unwrap());
    let made = png::Decoder::new(made).read_info().unwrap();
    assert_eq!(made.info().uncompressed_latin1_text[0].text, "a painter");
}
