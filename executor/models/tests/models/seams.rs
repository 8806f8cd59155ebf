//! The tiles, put together, are equal to the result of the whole picture.

use crate::scene::{changed, picture};
use crate::{difference, folder, net};
use pictor_models::{Tiling, upscale_tiled};
use std::num::NonZero;

const EXACT: [&str; 3] =
    ["realesr-animevideov3-x2", "realesr-animevideov3-x3", "realesr-animevideov3-x4"];

/// The largest and the mean difference between a picture done in tiles and the whole.
fn seams(name: &str, [width, height]: [u32; 2], tile: u32, overlap: u32) -> (f32, f64) {
    let (manifest, mut net, picture) =
        (folder().find(name).unwrap(), net(name), picture(width, height));
    let tiling = Tiling::new(picture.size(), NonZero::new(tile).unwrap(), overlap);
    let whole = net.run(&picture, [0, 0]).unwrap();
    let stitched =
        upscale_tiled(&picture, tiling, manifest.scale, |tile, at| net.run(tile, at)).unwrap();
    let bits = |planar: &pictor_models::Planar| -> Vec<u32> {
        planar.samples().iter().map(|sample| sample.to_bits()).collect()
    };
    let (max, mean) = difference(&whole, &stitched);
    assert_eq!(max == 0.0, bits(&whole) == bits(&stitched), "no zeros of different signs");
    (max, mean)
}

/// The tile and the picture cover every relation: several tiles, one, larger than the picture, odd sizes, pictures of
/// one row, one column and one pixel.
#[test]
fn an_overlap_of_the_receptive_field_makes_tiles_exact() {
    for name in EXACT {
        let overlap = folder().find(name).unwrap().receptive_field;
        for (size, tile) in [
            ([101, 73], 33),
            ([101, 73], 1_000),
            ([57, 39], 1),
            ([203, 1], 32),
            ([1, 203], 31),
            ([1, 1], 64),
            ([2 * overlap + 9, 2 * overlap + 8], 8),
        ] {
            let found = seams(name, size, tile, overlap);
            assert_eq!(found, (0.0, 0.0), "{name}, {size:?}, tiles of {tile}");
        }
    }
}

#[test]
fn less_overlap_than_the_receptive_field_is_seen() {
    for name in EXACT {
        let field = folder().find(name).unwrap().receptive_field;
        assert!(seams(name, [101, 73], 40, field / 2).0 > 0.0, "{name}");
        assert!(seams(name, [101, 73], 40, 0).0 > 0.05, "{name}");
    }
}

/// The receptive field of the deep networks is hundreds of pixels, so an overlap of 32 is not exact; the limits are
/// about twice the measured values.
fn deep(name: &str, limit: f32, mean_limit: f64) {
    let (max, mean) = seams(name, [112, 100], 24, 32);
    eprintln!("{name} at overlap 32: max {max:.6} ({:.3}/255), mean {mean:.2e}", max * 255.0);
    assert!(max > 0.0, "{name}: not exact, or the picture is too small to tell");
    assert!(max < limit && mean < mean_limit, "{name}: {max} {mean}");
}

#[test]
fn a_deep_network_differs_little_at_an_overlap_of_32() {
    deep("realesrgan-x4plus-anime", 0.014, 1.2e-4);
}

#[test]
#[ignore = "takes a minute; `make soak` runs it"]
fn the_deepest_network_differs_little_at_an_overlap_of_32() {
    deep("realesrgan-x4plus", 0.11, 1.8e-3);
}

/// A change of one pixel reaches exactly as far as the receptive field that is derived from the graph: on at least one
/// side, since resizing may look one pixel further on one side.
#[test]
fn a_pixel_is_seen_as_far_as_the_receptive_field_says() {
    for name in EXACT {
        let manifest = folder().find(name).unwrap();
        let (mut net, before) = (net(name), picture(64, 64));
        let (a, b) = (
            net.run(&before, [0, 0]).unwrap(),
            net.run(&changed(&before, 32, 32), [0, 0]).unwrap(),
        );
        let width = a.size().width as usize;
        let differing = a
            .samples()
            .iter()
            .zip(b.samples())
            .enumerate()
            .filter(|(_, (a, b))| a.to_bits() != b.to_bits());
        let columns = differing.map(|(index, _)| u32::try_from(index % width).unwrap());
        let reach = columns.map(|column| (column / manifest.scale).abs_diff(32)).max().unwrap();
        assert_eq!(reach, manifest.receptive_field, "{name}");
    }
}
