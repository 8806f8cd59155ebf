//! One runner for each kind of task, and the dispatch on the kind.

pub mod blender;
mod command;
mod encode;
pub mod merge;
mod scene_file;
mod source;
mod template;
mod upscale;
mod video;

use crate::ground::lock;
use crate::task::TaskContext;
use pictor_tasks::body::Body;
use pictor_tasks::message::{Failure, Products};

/// What a slot keeps from one task to the next because it is slow to load. Dropping it ends its processes; a session
/// whose render was stopped or dropped halfway must not be used again.
#[derive(Default)]
pub(crate) struct Warm {
    /// Running Blender processes with their scenes.
    pub(crate) blender: blender::Sessions,
    /// The loaded network, and the picture whose tiles are being done.
    pub(crate) upscaler: upscale::Upscaler,
}

/// Runs a task with the runner of its kind.
pub(crate) async fn run(ctx: &TaskContext, warm: &mut Warm) -> Result<Products, Failure> {
    if ctx.brief.body.scene().is_none() {
        warm.blender.end_scripts();
    }
    let mut products = match &ctx.brief.body {
        Body::Noop(_) => Products::default(),
        Body::Command(body) => Box::pin(command::run(ctx, body)).await?,
        Body::Encode(body) => Box::pin(encode::run(ctx, body)).await?,
        Body::Merge(_) => Box::pin(merge::run(ctx)).await?,
        Body::Inspect(_)
        | Body::Bake(_)
        | Body::Blender(_)
        | Body::Finish(_)
        | Body::Develop(_) => Box::pin(blender::run(ctx, &mut warm.blender)).await?,
        Body::Probe(_) | Body::Extract(_) | Body::Upscale(_) | Body::Stitch(_) => {
            Box::pin(upscale::run(ctx, &mut warm.upscaler)).await?
        }
    };
    products.notes.append(&mut lock(&ctx.notes));
    Ok(products)
}
