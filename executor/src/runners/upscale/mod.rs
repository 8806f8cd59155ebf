//! `probe`, `extract`, `upscale` and `stitch` steps: pictures and videos through a network, in tiles.
//!
//! A tile's result is a PNG of the network's output with fast compression, which takes a hundredth of the network's
//! time on a CPU and halves the transfer; `stitch` can read the tiles of one row side by side, one row of pixels at a
//! time. The PNG has the bit depth of the final picture, or 16 bits if that still has to be resized: each pixel is
//! rounded on its own, so tiles make no difference. Opacity passes through the network as a grey picture (`opacity`),
//! and the colours with the visible ones extended into transparent areas (`alpha_fill`). Light brighter than a
//! display's white does not pass through it, because it was not trained on any: `stitch` resizes that from the original
//! (`highlights`).

mod alpha_fill;
mod container;
mod extract;
mod highlights;
mod network;
mod opacity;
mod original;
mod probe;
mod stitch;
mod strip;
mod tile;

pub(crate) use network::Upscaler;

use crate::task::TaskContext;
use pictor_tasks::body::Body;
use pictor_tasks::message::{Failure, Products};

/// Runs a probe, extract, upscale or stitch task.
pub(crate) async fn run(ctx: &TaskContext, upscaler: &mut Upscaler) -> Result<Products, Failure> {
    match &ctx.brief.body {
        Body::Probe(body) => probe::run(ctx, body).await,
        Body::Extract(body) => extract::run(ctx, body).await,
        Body::Upscale(body) => tile::run(ctx, upscaler, body).await,
        Body::Stitch(body) => stitch::run(ctx, body).await,
        _ => unreachable!("only these four come here"),
    }
}
