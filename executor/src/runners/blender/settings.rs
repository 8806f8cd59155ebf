//! What a job asks of its scene, as the driver gets it.

use crate::ground::failure::failure;
use crate::task::TaskContext;
use pictor_tasks::body::Scene;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::space::frame_dim;
use serde_json::{Map, Value as Json, json};

/// The settings for the driver with placeholders resolved, including the frame.
pub(super) async fn settings(ctx: &TaskContext, scene: &Scene) -> Result<Json, Failure> {
    let mut set = Map::new();
    for (path, value) in &scene.set {
        set.insert(path.clone(), filled(ctx, value).await?);
    }
    let state = match &scene.state {
        Some(state) => Some(ctx.resolve(&format!("{{input.{state}}}")).await?),
        None => None,
    };
    let text = async |text: &Option<String>| match text {
        Some(text) => ctx.resolve(text).await.map(Some),
        None => Ok(None),
    };
    Ok(json!({
        "width": scene.resolution.map(|size| size.width),
        "height": scene.resolution.map(|size| size.height),
        "samples": scene.samples,
        "seed": scene.seed,
        "camera": text(&scene.camera).await?,
        "view_layer": text(&scene.view_layer).await?,
        "view": text(&scene.view).await?,
        "sequencer": scene.sequencer,
        "border": scene.border,
        "engine": scene.engine,
        "passes": if scene.all_passes { "all" } else { "auto" },
        "denoise": scene.denoise,
        "compositor": scene.compositor,
        "simulate": scene.simulate,
        "set": set,
        "state": state,
        "frame": frame(ctx, scene).await?,
    }))
}

/// A property's value with the placeholders in its texts resolved. A text that consists of exactly one placeholder
/// becomes a number if its value is one.
async fn filled(ctx: &TaskContext, value: &Json) -> Result<Json, Failure> {
    match value {
        Json::String(text) => {
            let filled = ctx.resolve(text).await?;
            let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
            let is_one = inner.is_some_and(|inner| !inner.contains(['{', '}']));
            let whole = || filled.parse::<i64>().ok().map(Json::from);
            let real = || filled.parse::<f64>().ok().filter(|n| n.is_finite()).map(Json::from);
            let number = if is_one { whole().or_else(real) } else { None };
            Ok(number.unwrap_or(Json::String(filled)))
        }
        Json::Array(items) => {
            let mut list = Vec::with_capacity(items.len());
            for item in items {
                list.push(Box::pin(filled(ctx, item)).await?);
            }
            Ok(Json::Array(list))
        }
        other => Ok(other.clone()),
    }
}

/// The frame that the job asks for, as a number: `frame:` of the scene, or the task's value of the dimension `frame` or
/// of one that ends so.
async fn frame(ctx: &TaskContext, scene: &Scene) -> Result<Option<i64>, Failure> {
    let space = &ctx.brief.space;
    let text = if let Some(template) = &scene.frame {
        ctx.resolve(template).await?
    } else {
        let names = space.axes.iter().map(|axis| axis.name.as_str());
        let Some(name) = frame_dim(names) else { return Ok(None) };
        space.value(ctx.task.index, name).map_or(String::new(), |value| value.to_string())
    };
    text.trim().parse().map(Some).map_err(|_| {
        let message = format!("{}: `{text}` is not a frame: expected a whole number.", ctx.name());
        failure(FailureKind::Invalid, message)
    })
}
