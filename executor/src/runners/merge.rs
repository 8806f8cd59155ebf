//! Merges tiles into one picture, bit for bit, with all their channels, layers and attributes.

use crate::ground::failure::{exr_failure, failure};
use crate::task::TaskContext;
use pictor_pictures::exr_image::{self, ExrError, ExrImage};
use pictor_tasks::body::{Body, Tiles};
use pictor_tasks::message::{Failure, FailureKind, Input, Output, Products};
use pictor_tasks::units::{Grid, Resolution};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The name of the first tile's output if that is the whole frame.
pub(crate) const WHOLE: &str = "whole";

/// One of the tiles.
#[derive(Clone, Debug)]
struct Tile {
    /// Its name for the user: `render[frame=7,tile=3]`.
    name: String,
    /// The path of its EXR file.
    path: PathBuf,
}

/// Merges the task's tiles.
pub(crate) async fn run(ctx: &TaskContext) -> Result<Products, Failure> {
    let Body::Merge(merge) = &ctx.brief.body else { unreachable!("merges come here") };
    let grid = merge.tiles.grid;
    if let Some(whole) = whole(&ctx.inputs)? {
        return Ok(whole);
    }
    let inputs = in_order(&ctx.inputs, &merge.tiles)?;
    let paths = ctx.input_paths(&inputs).await?;
    let named = |(input, path): (&&Input, PathBuf)| Tile { name: input.to_string(), path };
    let tiles: Vec<Tile> = inputs.iter().zip(paths).map(named).collect();
    let out = ctx.scratch.join("image.exr");
    let (target, progress, stop) = (out.clone(), ctx.progress.clone(), ctx.stop.clone());
    let work = tokio::task::spawn_blocking(move || {
        let count = tiles.len();
        let picture = assemble(grid, &tiles, |done| {
            let fraction = f32::from(u16::try_from(done * 1000 / count).unwrap_or(1000)) / 1250.0;
            progress.report(fraction, &format!("tile {done}/{count}"));
            if stop.reason().is_some() { Err(stop.failure()) } else { Ok(()) }
        })?;
        progress.report(0.8, "writing");
        picture.write(&target).map_err(exr_failure)
    });
    let merged = tokio::select! {
        merged = work => merged,
        _ = ctx.stop.stopped() => return Err(ctx.stop.failure()),
    };
    merged.unwrap_or_else(|panic| {
        let message = format!("Merging the tiles failed: {panic}.");
        Err(failure(FailureKind::Failed, message))
    })?;
    Ok(Products { outputs: vec![ctx.put("image", &out).await?], ..Products::default() })
}

/// The first tile's picture, which stands for all tiles of a scene whose frames cannot be cut.
fn whole(inputs: &[Input]) -> Result<Option<Products>, Failure> {
    let Some(whole) = inputs.iter().find(|input| input.output.name == WHOLE) else {
        return Ok(None);
    };
    if let Some(tile) = inputs.iter().find(|input| input.output.name == "image") {
        let message = format!(
            "{whole} has the whole frame and {tile} a tile of it. Were they rendered by different versions of \
             Blender, or with other settings? Retry the step `{}`.",
            whole.step
        );
        return Err(failure(FailureKind::Invalid, message));
    }
    let renamed = |input: &Input| match input.output.name.as_str() {
        WHOLE => Output { name: "image".into(), ..input.output.clone() },
        _ => input.output.clone(),
    };
    let from_there = inputs.iter().filter(|input| input.index == whole.index);
    let outputs = from_there.map(renamed).collect();
    Ok(Some(Products { outputs, ..Products::default() }))
}

/// The pictures among the inputs, ordered by tile number; each number must occur exactly once.
fn in_order<'a>(inputs: &'a [Input], tiles: &Tiles) -> Result<Vec<&'a Input>, Failure> {
    let count = tiles.grid.tiles() as usize;
    let mut found = vec![None; count];
    for input in inputs.iter().filter(|input| input.output.name == "image") {
        let number = input.coordinates.number(&tiles.dim).and_then(|n| usize::try_from(n).ok());
        let place = number.and_then(|number| found.get_mut(number)).ok_or_else(|| {
            let Tiles { grid, dim } = tiles;
            let message = format!(
                "{input} is not a tile of the {grid} grid: expected `{dim}` from 0 to {}.",
                count - 1
            );
            failure(FailureKind::Invalid, message)
        })?;
        if let Some(first) = place.replace(input) {
            let message = format!("There are two pictures for one tile: {first} and {input}.");
            return Err(failure(FailureKind::Invalid, message));
        }
    }
    let missing = found.iter().position(Option::is_none);
    missing.map_or_else(
        || Ok(found.into_iter().flatten().collect()),
        |number| {
            let message = format!("There is no picture for tile {number} of the {}.", tiles.grid);
            Err(failure(FailureKind::Invalid, message))
        },
    )
}

/// Reads the tiles one after another into the whole picture. `on_tile` is called with the number of tiles done and may
/// cancel.
fn assemble(
    grid: Grid,
    tiles: &[Tile],
    mut on_tile: impl FnMut(usize) -> Result<(), Failure>,
) -> Result<ExrImage, Failure> {
    let size = full_size(grid, tiles)?;
    let mut whole: Option<(ExrImage, Vec<String>)> = None;
    for (number, tile) in (0..).zip(tiles) {
        let part = ExrImage::read(&tile.path).map_err(|error| of_tile(tile, error))?;
        let (picture, layout) = whole.get_or_insert_with(|| (part.canvas(size), part.layout()));
        if let Some(difference) = difference(layout, &part.layout()) {
            let (first, this) = (&tiles[0].name, &tile.name);
            let message = format!("{this} has other channels than {first}: {difference}.");
            return Err(failure(FailureKind::BadOutput, message));
        }
        let place = grid.rect(number, size).expect("the sizes were checked against the grid");
        picture.paste(&part, place.x0, place.y0);
        on_tile(number as usize + 1)?;
    }
    Ok(whole.expect("a grid has a tile").0)
}

/// The size of the merged picture: the tiles must fit the grid to the pixel.
fn full_size(grid: Grid, tiles: &[Tile]) -> Result<Resolution, Failure> {
    let mut sizes = Vec::with_capacity(tiles.len());
    for tile in tiles {
        sizes.push(exr_image::size(&tile.path).map_err(|error| of_tile(tile, error))?);
    }
    let columns = grid.columns as usize;
    let width = sizes.iter().take(columns).map(|size| size.width).sum();
    let height = sizes.iter().step_by(columns).map(|size| size.height).sum();
    let whole = Resolution { width, height };
    let fits = |(number, is): (u32, &Resolution)| {
        let place = grid.rect(number, whole);
        place.is_some_and(|r| (r.x1 - r.x0, r.y1 - r.y0) == (is.width, is.height))
    };
    if (0..).zip(&sizes).all(fits) { Ok(whole) } else { Err(misfits(grid, tiles, &sizes)) }
}

/// Lists the sizes that occur, the rarest first, which is likely the wrong one.
fn misfits(grid: Grid, tiles: &[Tile], sizes: &[Resolution]) -> Failure {
    let mut kinds: BTreeMap<Resolution, Vec<&str>> = BTreeMap::new();
    for (tile, size) in tiles.iter().zip(sizes) {
        kinds.entry(*size).or_default().push(&tile.name);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, names)| names.len());
    let named = kinds.iter().take(4).map(|(size, names)| match names[..] {
        [only] => format!("{only} is {size}"),
        _ => format!("{} and {} more are {size}", names[0], names.len() - 1),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let message = format!(
        "The tiles are not a {grid} grid of one picture: {named} pixels. Render them again at one \
         resolution."
    );
    failure(FailureKind::BadOutput, message)
}

fn of_tile(tile: &Tile, error: ExrError) -> Failure {
    let Failure { kind, message } = exr_failure(error);
    failure(kind, format!("{}: {message}", tile.name))
}

/// The first channel that only one of the two has.
fn difference(first: &[String], this: &[String]) -> Option<String> {
    let lacks = first.iter().find(|channel| !this.contains(channel));
    let extra = this.iter().find(|channel| !first.contains(channel));
    match (lacks, extra) {
        (Some(channel), _) => Some(format!("it lacks {channel}")),
        (None, Some(channel)) => Some(format!("only it has {channel}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exr::image::{AnyChannel, AnyChannels, Blocks, Encoding, FlatSamples, Image, Layer};
    use exr::meta::attribute::{AttributeValue, Chromaticities};
    use exr::meta::header::LayerAttributes;
    use exr::prelude::{Compression, LineOrder, Vec2, WritableImage as _, f16};
    use pictor_tasks::space::Coordinates;
    use std::path::Path;

    /// A picture with every sample type, NaN with a payload, two parts and odd attributes.
    fn synthetic(path: &Path, width: usize, height: usize, parts: usize) {
        let mut state = 0x9e37_79b9_u32;
        let mut bits = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        let layers = (0..parts).map(|part| {
            let mut half = || f16::from_bits(u16::try_from(bits() >> 16).unwrap());
            let half: Vec<f16> = (0..width * height).map(|_| half()).collect();
            let single = (0..width * height).map(|_| f32::from_bits(bits())).collect();
            let whole = (0..width * height).map(|_| bits()).collect();
            let list = vec![
                AnyChannel::new("ViewLayer.Combined.R", FlatSamples::F32(single)),
                AnyChannel::new("ViewLayer.CryptoObject00.r", FlatSamples::U32(whole)),
                AnyChannel::new("ViewLayer.Depth.Z", FlatSamples::F16(half)),
            ];
            let mut attributes = LayerAttributes::named(format!("part{part}").as_str());
            attributes.layer_position = Vec2(3, -2);
            let manifest = AttributeValue::Text(r#"{"Cube":"3f2a"}"#.into());
            attributes.other.insert("cryptomatte/a1b2c3d/manifest".into(), manifest);
            let encoding = Encoding {
                compression: if part == 0 { Compression::RLE } else { Compression::Uncompressed },
                blocks: if part == 0 { Blocks::Tiles(Vec2(16, 8)) } else { Blocks::ScanLines },
                line_order: LineOrder::Increasing,
            };
            let channels = AnyChannels::sort(list.into());
            Layer::new((width, height), attributes, encoding, channels)
        });
        let mut image = Image::from_layers(
            exr::meta::header::ImageAttributes::with_size((width, height)),
            layers.collect::<exr::image::Layers<_>>(),
        );
        image.attributes.chromaticities = Some(Chromaticities {
            red: Vec2(0.64, 0.33),
            green: Vec2(0.3, 0.6),
            blue: Vec2(0.15, 0.06),
            white: Vec2(0.3127, 0.329),
        });
        image.write().to_file(path).unwrap();
    }

    fn cut_up(folder: &Path, whole: &ExrImage, grid: Grid) -> Vec<Tile> {
        let tile = |number| {
            let path = folder.join(format!("{number}.exr"));
            whole.cut(grid.rect(number, whole.size()).unwrap()).write(&path).unwrap();
            Tile { name: format!("render[tile={number}]"), path }
        };
        (0..grid.tiles()).map(tile).collect()
    }

    #[test]
    fn merging_what_was_cut_by_any_grid_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("whole.exr");
        for (width, height, parts) in [(1, 1, 1), (7, 5, 2), (37, 23, 1), (64, 48, 2)] {
            synthetic(&source, width, height, parts);
            let whole = ExrImage::read(&source).unwrap();
            for (columns, rows) in [(1, 1), (2, 2), (3, 5), (5, 3), (7, 1), (1, 4), (6, 4)] {
                let grid = Grid { columns, rows };
                if grid.rect(0, whole.size()).is_none() {
                    continue;
                }
                let tiles = cut_up(folder.path(), &whole, grid);
                let merged = assemble(grid, &tiles, |_| Ok(())).unwrap();
                let (path, what) = (folder.path().join("merged.exr"), format!("{grid} {width}"));
                merged.write(&path).unwrap();
                let merged = ExrImage::read(&path).unwrap();
                assert_eq!(merged.size(), whole.size(), "{what}");
                assert_eq!(merged.layout(), whole.layout(), "{what}");
                assert_eq!(merged.pixel_digest(), whole.pixel_digest(), "{what}");
            }
        }
    }

    #[test]
    fn attributes_come_from_the_first_tile() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("whole.exr");
        synthetic(&source, 20, 10, 2);
        let whole = ExrImage::read(&source).unwrap();
        let grid = Grid { columns: 2, rows: 2 };
        let tiles = cut_up(folder.path(), &whole, grid);
        let path = folder.path().join("merged.exr");
        assemble(grid, &tiles, |_| Ok(())).unwrap().write(&path).unwrap();
        let meta = exr::meta::MetaData::read_from_file(&path, true).unwrap();
        let before = exr::meta::MetaData::read_from_file(&source, true).unwrap();
        assert_eq!(meta.headers.len(), 2);
        for (now, was) in meta.headers.iter().zip(&before.headers) {
            assert_eq!(now.own_attributes.other, was.own_attributes.other);
            assert_eq!(now.own_attributes.layer_name, was.own_attributes.layer_name);
            assert_eq!(now.own_attributes.layer_position, Vec2(0, 0));
            assert_eq!(now.shared_attributes, was.shared_attributes);
            assert_eq!(now.compression, Compression::ZIP16);
        }
    }

    #[test]
    fn a_tile_of_another_kind_or_size_or_a_broken_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.exr"), folder.path().join("b.exr"));
        synthetic(&a, 20, 10, 1);
        synthetic(&b, 20, 10, 2);
        let whole = ExrImage::read(&a).unwrap();
        let grid = Grid { columns: 2, rows: 1 };
        let place = grid.rect(1, whole.size()).unwrap();
        let mut tiles = cut_up(folder.path(), &whole, grid);
        let reason = |tiles: &[Tile]| {
            let failure = assemble(grid, tiles, |_| Ok(())).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BadOutput);
            assert!(failure.message.contains("render[tile=1]"), "{failure:?}");
            failure.message
        };
        let two_parts = ExrImage::read(&b).unwrap();
        two_parts.cut(place).write(&tiles[1].path).unwrap();
        assert!(reason(&tiles).contains("only it has part1: ViewLayer.Combined.R (f32)"));
        let smaller = pictor_tasks::units::Rect { x1: place.x1 - 2, ..place };
        whole.cut(smaller).write(&tiles[1].path).unwrap();
        assert!(reason(&tiles).contains("render[tile=1] is 8x10"), "{}", reason(&tiles));
        whole.cut(place).write(&tiles[1].path).unwrap();
        let bytes = std::fs::read(&tiles[1].path).unwrap();
        for end in [0, 3, 200, bytes.len() - 1] {
            std::fs::write(&tiles[1].path, &bytes[..end]).unwrap();
            assert!(reason(&tiles).contains("is cut short"), "{end}: {}", reason(&tiles));
        }
        std::fs::write(&tiles[1].path, "not a picture at all").unwrap();
        assert!(reason(&tiles).contains("cannot be decoded"));
        tiles[1].path = folder.path().join("none.exr");
        assert!(reason(&tiles).contains("does not exist"));
    }

    #[test]
    fn a_frame_that_one_tile_brings_whole_passes_through() {
        let input = |index: u32, name: &str| Input {
            step: "render".into(),
            label: format!("tile={index}"),
            index,
            coordinates: Coordinates::default(),
            output: Output {
                name: name.into(),
                key: format!("{index}/{name}"),
                digest: String::new(),
                size_bytes: 0,
            },
        };
        assert_eq!(whole(&[input(0, "image"), input(1, "image")]), Ok(None));
        let products = whole(&[input(0, WHOLE), input(0, "files/a.png")]).unwrap().unwrap();
        let named = |output: &Output| (output.name.clone(), output.key.clone());
        let outputs: Vec<_> = products.outputs.iter().map(named).collect();
        let pair = |name: &str, key: &str| (name.to_owned(), key.to_owned());
        assert_eq!(outputs, [pair("image", "0/whole"), pair("files/a.png", "0/files/a.png")]);
        let failure = whole(&[input(0, WHOLE), input(3, "image")]).unwrap_err();
        assert!(failure.message.contains("render[tile=3] a tile of it"), "{failure:?}");
    }

    #[test]
    fn tiles_are_found_by_their_coordinates() {
        let input = |label: &str| Input {
            step: "render".into(),
            label: label.into(),
            index: 0,
            coordinates: Coordinates::of_label(label),
            output: Output {
                name: "image".into(),
                key: label.into(),
                digest: String::new(),
                size_bytes: 0,
            },
        };
        let tiles = Tiles { grid: Grid { columns: 3, rows: 1 }, dim: "render.tile".into() };
        let label = |n: u32| format!("frame=7,render.tile={n},tile=9");
        let inputs = [2, 0, 1].map(|n| input(&label(n)));
        let ordered = in_order(&inputs, &tiles).unwrap();
        assert_eq!(
            ordered.iter().map(|i| i.label.clone()).collect::<Vec<_>>(),
            [0, 1, 2].map(label)
        );
        for (labels, reason) in [
            (vec!["render.tile=0", "render.tile=2"], "no picture for tile 1"),
            (vec!["render.tile=0", "frame=1,render.tile=0"], "two pictures for one tile"),
            (vec!["render.tile=3"], "expected `render.tile` from 0 to 2"),
            (vec!["tile=1"], "expected `render.tile` from 0 to 2"),
        ] {
            let inputs: Vec<Input> = labels.into_iter().map(input).collect();
            let failure = in_order(&inputs, &tiles).unwrap_err();
            assert!(failure.message.contains(reason), "{failure:?}");
        }
    }
}
