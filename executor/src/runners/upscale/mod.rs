//! `probe`, `extract`, `upscale` and `stitch` steps: pictures and videos through a network, in tiles.
//!
//! A tile's result is a PNG of what the network made, packed fast: packing costs a hundredth of
//! the network's time on a CPU, halves what travels, and `stitch` can read the tiles of one row side
//! by side, a row of pixels at a time. It has the bits that the final picture will have, 16 if it
//! has still to be resized: each pixel is rounded by itself, so tiles change nothing. Opacity passes the
//! network as a grey picture (`opacity`), and the colours with the visible ones continued beneath what is
//! transparent (`beneath`). Light beyond a display's white does not pass it, for it was trained on none:
//! `stitch` resizes that from the original (`beside`).

mod beneath;
mod beside;
mod container;
mod extract;
mod info;
mod network;
mod opacity;
mod original;
mod probe;
mod stitch;
mod strip;
mod tile;

pub(crate) use info::{Info, info};
pub(crate) use network::Upscaler;
pub(crate) use original::files_of;

use crate::task::TaskContext;
use pictor_tasks::body::Body;
use pictor_tasks::message::{Failure, Products};

/// Does a probe, extract, upscale or stitch task.
pub(crate) async fn run(ctx: &TaskContext, upscaler: &mut Upscaler) -> Result<Products, Failure> {
    match &ctx.brief.body {
        Body::Probe(body) => probe::run(ctx, body).await,
        Body::Extract(body) => extract::run(ctx, body).await,
        Body::Upscale(body) => tile::run(ctx, upscaler, body).await,
        Body::Stitch(body) => stitch::run(ctx, body).await,
        _ => unreachable!("only these four come here"),
    }
}
