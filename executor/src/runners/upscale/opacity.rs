//! Runs opacity through a network as a grey picture, so that its edges become as smooth as those of the colours.

use pictor_models::Planar;
use pictor_tasks::units::Resolution;

/// Whether all pixels of a plane have the same opacity. Then it need not pass through a network.
pub(super) fn is_even(plane: &Planar) -> bool {
    plane.samples().windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits())
}

/// Keeps areas that are fully opaque or transparent exactly so: each pixel of the upscaled `source` is limited to the
/// values around its original pixel. `made` is `None` where the source is even.
pub(super) fn limited(source: &Planar, made: Option<&Planar>, factor: u32) -> Planar {
    let Resolution { width, height } = source.size();
    let size = Resolution { width: width * factor, height: height * factor };
    let Some(made) = made else {
        let opacity = source.samples().first().copied().unwrap_or(1.0);
        let samples = vec![opacity; size.width as usize * size.height as usize];
        return Planar::new(1, size, samples).expect("as many samples as pixels");
    };
    let (width, height, factor) = (width as usize, height as usize, factor as usize);
    let plane = size.width as usize * size.height as usize;
    let parts: Vec<&[f32]> = made.samples().chunks_exact(plane).collect();
    let mut samples = Vec::with_capacity(plane);
    let mut limits = vec![(0.0, 0.0); width];
    for y in 0..height * factor {
        if y % factor == 0 {
            let rows = (y / factor).saturating_sub(1)..(y / factor + 2).min(height);
            for (x, limits) in limits.iter_mut().enumerate() {
                let columns = x.saturating_sub(1)..(x + 2).min(width);
                let around =
                    rows.clone().flat_map(|row| &source.samples()[row * width..][columns.clone()]);
                *limits = around
                    .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), opacity| {
                        (low.min(*opacity), high.max(*opacity))
                    });
            }
        }
        for x in 0..width * factor {
            let at = y * width * factor + x;
            let opacity = match parts.as_slice() {
                [red, green, blue] => 0.2126 * red[at] + 0.7152 * green[at] + 0.0722 * blue[at],
                parts => parts[0][at],
            };
            let (low, high) = limits[x / factor];
            samples.push(opacity.max(low).min(high));
        }
    }
    Planar::new(1, size, samples).expect("as many samples as pixels")
}
