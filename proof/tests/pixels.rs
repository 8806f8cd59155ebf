//! Merkle roots over pixels: every block has a path to the root, nothing else has, and the roots never change.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pictor_proof::hex::Digest;
use pictor_proof::pixels::{BadBlock, BadPicture, Picture, Shape, SignedPixels, Tree, verify};
use pictor_tasks::units::Rect;
use proptest::prelude::*;

fn values(shape: Shape) -> Vec<f32> {
    let count = shape.width * shape.height * shape.channels;
    (0..count).map(|i| f32::from(u16::try_from(i % 4_099).unwrap()) / 64.0).collect()
}

fn signed(picture: Picture<'_>) -> (Tree, SignedPixels) {
    let tree = Tree::new(picture);
    let pixels = SignedPixels { shape: picture.shape(), root: tree.root() };
    (tree, pixels)
}

fn root(shape: Shape, values: &[f32]) -> Digest {
    Tree::new(Picture::new(shape, values).unwrap()).root()
}

/// Whatever changes here can no longer verify what was signed before.
#[test]
fn roots_never_change() {
    let sizes = [(1, 1, 1), (64, 64, 4), (65, 64, 4), (200, 113, 3), (320, 192, 4)];
    let roots = sizes.map(|(width, height, channels)| {
        let shape = Shape { width, height, channels };
        format!("{shape}: {}", root(shape, &values(shape)))
    });
    insta::assert_snapshot!(roots.join("\n"));
    // The smallest one, computed by hand.
    let leaf = [&[0][..], &[0; 4], &[1, 0, 0, 0], &[1, 0, 0, 0], &0.5_f32.to_le_bytes()].concat();
    let top =
        [&[2, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0][..], blake3::hash(&leaf).as_bytes()].concat();
    let one = Shape { width: 1, height: 1, channels: 1 };
    assert_eq!(root(one, &[0.5]), Digest::of(&top));
}

#[test]
fn equal_pixels_have_equal_roots() {
    let shape = Shape { width: 2, height: 1, channels: 1 };
    assert_eq!(root(shape, &[0.0, 1.0]), root(shape, &[-0.0, 1.0]));
    let payload = f32::from_bits(0xffc0_1234);
    assert!(payload.is_nan());
    assert_eq!(root(shape, &[f32::NAN, 1.0]), root(shape, &[payload, 1.0]));
    let tiny = f32::from_bits(1);
    let all = [0.0, tiny, -tiny, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let roots: std::collections::BTreeSet<_> = all.map(|v| root(shape, &[v, 1.0])).into();
    assert_eq!(roots.len(), all.len());
}

#[test]
fn a_root_is_that_of_one_shape() {
    let plain = vec![0.25; 64 * 128];
    let shapes = [(64, 128, 1), (128, 64, 1), (64, 64, 2), (32, 128, 2)];
    let roots: std::collections::BTreeSet<_> = shapes
        .map(|(width, height, channels)| root(Shape { width, height, channels }, &plain))
        .into();
    assert_eq!(roots.len(), shapes.len());
}

#[test]
fn impossible_pictures_are_refused() {
    let shape = |width, height, channels| Shape { width, height, channels };
    for wrong in
        [shape(0, 1, 1), shape(1, 0, 1), shape(1, 1, 0), shape(65_537, 1, 1), shape(1, 1, 257)]
    {
        assert_eq!(Picture::new(wrong, &[]).unwrap_err(), BadPicture::Shape(wrong));
    }
    let shape = shape(2, 2, 2);
    let error = Picture::new(shape, &[0.0; 7]).unwrap_err();
    assert_eq!(error.to_string(), "2x2 with 2 channels has not 7 values");
    let picture = Picture::new(shape, &[0.0; 8]).unwrap();
    for (x0, y0, x1, y1) in [(0, 0, 3, 1), (0, 0, 1, 3), (1, 0, 1, 1), (2, 0, 1, 1), (0, 1, 1, 0)] {
        assert_eq!(picture.crop(Rect { x0, y0, x1, y1 }), None);
    }
}

#[test]
fn a_block_that_does_not_belong_is_refused() {
    let shape = Shape { width: 200, height: 130, channels: 2 };
    let values = values(shape);
    let picture = Picture::new(shape, &values).unwrap();
    let (tree, pixels) = signed(picture);
    let block = |index| picture.crop(shape.block(index).unwrap()).unwrap();
    let path = tree.path(5).unwrap();
    assert_eq!(verify(&pixels, 5, &block(5), &path), Ok(()));
    assert_eq!(verify(&pixels, 6, &block(5), &path), Err(BadBlock::OtherPixels));
    assert_eq!(verify(&pixels, 12, &block(5), &path), Err(BadBlock::NoBlock(12)));
    assert_eq!(verify(&pixels, 5, &block(5)[1..], &path), Err(BadBlock::Values(8_191)));
    let short = BadBlock::Path { expected: path.len(), found: path.len() - 1 };
    assert_eq!(verify(&pixels, 5, &block(5), &path[1..]), Err(short));
    let shape = Shape { width: 0, ..shape };
    assert_eq!(verify(&SignedPixels { shape, ..pixels }, 0, &[], &[]), Err(BadBlock::NoBlock(0)));
    assert_eq!(tree.path(12), None);
}

#[test]
fn crops_widen_as_far_as_the_picture_goes() {
    let shape = Shape { width: 100, height: 80, channels: 4 };
    let crop = Rect { x0: 10, y0: 16, x1: 74, y1: 80 };
    assert_eq!(shape.widen(crop, 16), Rect { x0: 0, y0: 0, x1: 90, y1: 80 });
    assert_eq!(shape.widen(crop, u32::MAX), Rect { x0: 0, y0: 0, x1: 100, y1: 80 });
    assert_eq!(shape.widen(crop, 0), crop);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_block_has_its_path(
        width in 1..700_u32, height in 1..400_u32, channels in 1..3_u32,
        bit in 0..32_u32, at: prop::sample::Index,
    ) {
        let shape = Shape { width, height, channels };
        let values = values(shape);
        let picture = Picture::new(shape, &values).unwrap();
        let (tree, pixels) = signed(picture);
        for index in 0..shape.blocks() {
            let path = tree.path(index).unwrap();
            let mut block = picture.crop(shape.block(index).unwrap()).unwrap();
            prop_assert_eq!(verify(&pixels, index, &block, &path), Ok(()));
            prop_assert!(path.len() <= 20);
            let at = at.index(block.len());
            let changed = f32::from_bits(block[at].to_bits() ^ 1 << bit);
            // 0.0 and -0.0.
            let is_same = changed == 0.0 && block[at] == 0.0;
            block[at] = changed;
            prop_assert_eq!(verify(&pixels, index, &block, &path).is_ok(), is_same);
        }
    }
}
