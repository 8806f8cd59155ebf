//! How far a render is, read from the lines that Blender prints.

/// What a line of Blender's says about the render: from 0 to 1, and a word for people. `layers` are
/// the view layers in the order in which Blender renders them.
pub(super) fn parse(line: &str, layers: &[String]) -> Option<(f32, String)> {
    let fields: Vec<&str> = line.split(" | ").collect();
    let (status, before) = fields.split_last()?;
    if !line.starts_with("Fra:") || before.is_empty() {
        return None;
    }
    let samples = ratio_after(status, "Sample ").or_else(|| ratio_after(status, "Rendering "));
    let tiles = ratio_after(status, "Rendered ").filter(|_| status.contains("Tiles"));
    let (done, message) = match (samples, tiles) {
        (None, None) => return None,
        (Some((n, of)), None) => (n / of, format!("sample {n}/{of}")),
        (None, Some((tile, of))) => (tile / of, format!("part {tile}/{of}")),
        (Some((n, samples)), Some((tile, of))) => {
            ((tile + n / samples) / of, format!("part {tile}/{of}, sample {n}/{samples}"))
        }
    };
    let layer = before.iter().find_map(|field| {
        let (_scene, layer) = field.rsplit_once(", ")?;
        layers.iter().position(|name| name == layer)
    });
    let of = layers.len().max(1);
    let (layer, of) = (to_f32(layer.unwrap_or(0)), to_f32(of));
    Some((((layer + done) / of).clamp(0.0, 1.0), message))
}

/// The same for counted samples of one view layer; an unknown layer counts as the first.
pub(super) fn of_samples(
    sample: u64,
    samples: u64,
    layer: &str,
    layers: &[String],
) -> (f32, String) {
    let count = |n: u64| to_f32(usize::try_from(n).unwrap_or(usize::MAX));
    let place = layers.iter().position(|name| name == layer).unwrap_or(0);
    // Of samples beyond what the ratio can tell apart the ratio is what counts.
    let scale = (samples >> 16) + 1;
    let done = count(sample / scale) / count((samples / scale).max(1));
    let all = (to_f32(place) + done) / to_f32(layers.len().max(1));
    (all.clamp(0.0, 1.0), format!("sample {sample}/{samples}"))
}

fn to_f32(count: usize) -> f32 {
    u16::try_from(count).map_or(f32::from(u16::MAX), f32::from)
}

/// The numbers of `WORD 3/16` or `WORD 3 / 16`.
fn ratio_after(status: &str, word: &str) -> Option<(f32, f32)> {
    let (_, rest) = status.split_once(word)?;
    let (done, of) = rest.split_once('/')?;
    let of: String = of.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let (done, of) = (done.trim().parse().ok()?, of.parse().ok()?);
    (of > 0.0).then_some((done, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(f32, String)> {
        parse(line, &["ViewLayer".into(), "Far".into()])
    }

    #[test]
    fn lines_of_cycles_and_eevee_are_understood() {
        let start = "Fra:7 Mem:9.3M (Peak 9.3M) | Time:00:00.12 | Remaining:00:00.40 | Mem:0.5M";
        for (line, fraction, message) in [
            (format!("{start} | Scene, ViewLayer | Sample 16/64"), 0.125, "sample 16/64"),
            (format!("{start} | Scene, Far | Sample 32/64"), 0.75, "sample 32/64"),
            (
                format!("{start} | Scene, ViewLayer | Rendered 1/4 Tiles, Sample 32/64"),
                0.1875,
                "part 1/4, sample 32/64",
            ),
            (format!("{start} | Rendering 3 / 4 samples"), 0.375, "sample 3/4"),
        ] {
            assert_eq!(parsed(&line), Some((fraction, message.to_owned())), "{line}");
        }
        let layers = ["ViewLayer".to_owned(), "Far".to_owned()];
        for (sample, samples, layer, fraction) in [
            (16, 64, "ViewLayer", 0.125),
            (32, 64, "Far", 0.75),
            (1, 4, "unknown", 0.125),
            (500_000, 1_000_000, "ViewLayer", 0.25),
            (9, 4, "Far", 1.0),
        ] {
            let (done, message) = of_samples(sample, samples, layer, &layers);
            assert!((done - fraction).abs() < 1e-4, "{sample}/{samples} {layer}: {done}");
            assert_eq!(message, format!("sample {sample}/{samples}"));
        }
        for line in
            ["", "Sample 3/4", "Fra:1 | Synchronizing object | Cube", "Saved: 'x | Sample 1/2'"]
        {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert_eq!(parsed("Fra:1 Mem:1M | Scene, ViewLayer | Sample 0/0"), None);
    }
}
