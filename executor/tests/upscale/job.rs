//! The tasks of an upscale, one after another, in the order in which an engine would assign them.

use crate::farm::TestFarm;
use crate::weights;
use pictor_tasks::body::{Body, ImageFormat, OnError, Probe, Stitch, Tiling, Upscale};
use pictor_tasks::message::{Bound, Brief, Failure, FileRef, Input, Outcome, Output, Products};
use pictor_tasks::space::{Axis, Coordinates, Space, Values};
use std::path::{Path, PathBuf};

/// A worker with the real models.
pub(crate) fn farm() -> TestFarm {
    farm_with(0)
}

/// A worker with the real models and this much memory; 0 means enough.
pub(crate) fn farm_with(memory_bytes: u64) -> TestFarm {
    let folder = weights::folder();
    TestFarm::start_with(|config| {
        folder.path().clone_into(&mut config.models);
        config.inventory.memory_bytes = memory_bytes;
    })
}

/// The settings of an upscale.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) model: String,
    pub(crate) scale: Option<u32>,
    pub(crate) pixels: u32,
    pub(crate) overlap: Option<u32>,
    pub(crate) format: ImageFormat,
    pub(crate) quality: Option<u8>,
    pub(crate) on_error: OnError,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            model: "realesr-animevideov3-x2".into(),
            scale: None,
            pixels: 1024,
            overlap: None,
            format: ImageFormat::Png,
            quality: None,
            on_error: OnError::Fail,
        }
    }
}

/// A step over these dimensions, with a source.
pub(crate) fn brief(step: &str, body: Body, source: Option<&Path>, axes: Vec<Axis>) -> Brief {
    let file = |path: &Path| {
        let path = path.display().to_string();
        (path.clone(), FileRef { path, digest: String::new(), size_bytes: 0 })
    };
    Brief {
        step: step.into(),
        space: Space { axes },
        body,
        timeout: None,
        stalled: None,
        files: source.map(file).into_iter().collect(),
        folder: String::new(),
        has_inputs: true,
        binds: Vec::new(),
        blender: None,
    }
}

pub(crate) fn axis(name: &str, values: Values) -> Axis {
    Axis { name: name.into(), values, bound: None }
}

/// The output of a task as an input of another.
pub(crate) fn input(step: &str, label: String, index: u32, output: &Output) -> Input {
    let coordinates = Coordinates::of_label(&label);
    Input { step: step.into(), label, index, coordinates, output: output.clone() }
}

/// Runs one task to its end.
pub(crate) async fn task(
    farm: &mut TestFarm,
    brief: Brief,
    index: u32,
    inputs: Vec<Input>,
) -> Result<Products, Failure> {
    farm.inputs = Some(inputs);
    farm.assign(brief, [index]);
    match farm.ended().await.remove(0).outcome {
        Outcome::Succeeded(products) => Ok(products),
        Outcome::Failed(failure) => Err(failure),
        other => panic!("an end was expected: {other:?}"),
    }
}

impl Job {
    fn tiling(&self) -> Tiling {
        Tiling { pixels: self.pixels, dim: "tile".into() }
    }

    /// Probes one picture; returns the number of tiles.
    pub(crate) async fn tiles(&self, farm: &mut TestFarm, source: &Path) -> Result<u32, Failure> {
        let name = source.display().to_string();
        let probe = Probe {
            source: name,
            frame: None,
            frames: None,
            tiles: Some(self.tiling()),
            rehearse: None,
        };
        let mut brief = brief("probe", Body::Probe(probe), Some(source), Vec::new());
        brief.binds = vec!["tile".into()];
        let products = task(farm, brief, 0, Vec::new()).await?;
        let Bound::Values(tiles) = &products.bindings[0].values else { panic!("values") };
        Ok(tiles.len())
    }

    /// Upscales one tile of a picture.
    pub(crate) async fn tile(
        &self,
        farm: &mut TestFarm,
        source: &Path,
        (tile, tiles): (u32, u32),
    ) -> Result<Products, Failure> {
        let brief = self.tile_brief(source, tiles);
        task(farm, brief, tile, Vec::new()).await
    }

    pub(crate) fn tile_brief(&self, source: &Path, tiles: u32) -> Brief {
        let body = Upscale {
            source: Some(source.display().to_string()),
            frame: None,
            model: self.model.clone(),
            scale: self.scale,
            tiles: Some(self.tiling()),
            overlap: self.overlap,
            on_error: self.on_error,
        };
        let axes = vec![axis("tile", Values::count(tiles))];
        brief("upscale", Body::Upscale(body), Some(source), axes)
    }

    /// Stitches the tiles of a picture.
    pub(crate) async fn stitch(
        &self,
        farm: &mut TestFarm,
        source: &Path,
        tiles: Vec<Input>,
    ) -> Result<Products, Failure> {
        let body = Stitch {
            source: Some(source.display().to_string()),
            frame: None,
            scale: self.scale,
            tiles: self.tiling(),
            format: self.format,
            quality: self.quality,
            on_error: self.on_error,
        };
        task(farm, brief("stitch", Body::Stitch(body), Some(source), Vec::new()), 0, tiles).await
    }

    /// Upscales one picture; returns the path of the result.
    pub(crate) async fn picture(
        &self,
        farm: &mut TestFarm,
        source: &Path,
    ) -> Result<PathBuf, Failure> {
        let products = self.products(farm, source).await?;
        Ok(farm.artifact(&products.outputs[0]))
    }

    /// Upscales one picture; returns the products of `stitch`.
    pub(crate) async fn products(
        &self,
        farm: &mut TestFarm,
        source: &Path,
    ) -> Result<Products, Failure> {
        let tiles = self.tiles(farm, source).await?;
        let mut made = Vec::new();
        for tile in 0..tiles {
            let products = self.tile(farm, source, (tile, tiles)).await?;
            let label = format!("tile={tile}");
            made.extend(products.outputs.iter().map(|o| input("upscale", label.clone(), tile, o)));
        }
        self.stitch(farm, source, made).await
    }
}
