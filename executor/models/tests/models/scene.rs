//! Pictures to test networks with.

use pictor_models::Planar;
use pictor_tasks::units::Resolution;

/// A colour picture with edges, thin lines, gradients and noise, which networks react to.
pub(crate) fn picture(width: u32, height: u32) -> Planar {
    let size = Resolution { width, height };
    let mut random = 0x9E37_79B9_u32;
    let mut samples = Vec::new();
    for channel in 0..3 {
        for y in 0..height {
            for x in 0..width {
                // Xorshift.
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                let noise = f32::from(u8::try_from(random >> 24).unwrap()) / 2550.0;
                let is_disc = (x * x + y * y) % 1700 < 800;
                let is_line = (x + 2 * y + channel * 5) % 23 == 0;
                let gradient = f32::from(u8::try_from((x * 3 + y * 7) % 256).unwrap()) / 512.0;
                let value =
                    if is_line { 0.95 } else { gradient + if is_disc { 0.35 } else { 0.05 } };
                samples.push((value + noise).min(1.0));
            }
        }
    }
    Planar::new(3, size, samples).unwrap()
}

/// The same picture with a different value in one pixel.
pub(crate) fn changed(picture: &Planar, x: u32, y: u32) -> Planar {
    let Resolution { width, height } = picture.size();
    let mut samples = picture.samples().to_vec();
    for channel in 0..picture.channels() {
        let index = ((channel * height + y) * width + x) as usize;
        samples[index] = 1.0 - samples[index];
    }
    Planar::new(picture.channels(), picture.size(), samples).unwrap()
}
