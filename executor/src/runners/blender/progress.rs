//! The progress of a render, parsed from Blender's log or from events of the driver.

use serde_json::{Map, Value};

/// Parses a line of Blender's log: the progress from 0 to 1, and a text for the user. `layers` are the view layers in
/// the order in which Blender renders them.
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

/// The progress in an event of the driver; samples are those of one view layer, and an unknown layer counts as the
/// first.
pub(super) fn of_event(event: &Map<String, Value>, layers: &[String]) -> Option<(f32, String)> {
    let number = |name| event.get(name).and_then(Value::as_u64);
    if let Some(frame) = number("frame") {
        let frames = number("frames")?;
        return Some((share(frame, frames), format!("frame {frame}/{frames}")));
    }
    let (sample, samples) = (number("sample")?, number("samples")?);
    let layer = event.get("layer").and_then(Value::as_str);
    let place = layers.iter().position(|name| Some(name.as_str()) == layer).unwrap_or(0);
    let all = (to_f32(place) + share(sample, samples)) / to_f32(layers.len().max(1));
    Some((all, format!("sample {sample}/{samples}")))
}

/// The quotient, from 0 to 1, accurate to one part in 65,536.
fn share(done: u64, of: u64) -> f32 {
    let scale = (of >> 16) + 1;
    let count = |n: u64| to_f32(usize::try_from(n / scale).unwrap_or(usize::MAX));
    (count(done) / count(of).max(1.0)).clamp(0.0, 1.0)
}

fn to_f32(count: usize) -> f32 {
    u16::try_from(count).map_or(f32::from(u16::MAX), f32::from)
}

/// The numbers in `WORD 3/16` or `WORD 3 / 16`.
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
    use serde_json::json;

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
            (16_u64, 64_u64, "ViewLayer", 0.125),
            (32, 64, "Far", 0.75),
            (1, 4, "unknown", 0.125),
            (500_000, 1_000_000, "ViewLayer", 0.25),
            (9, 4, "Far", 1.0),
        ] {
            let event = json!({ "sample": sample, "samples": samples, "layer": layer });
            let (done, message) = of_event(event.as_object().unwrap(), &layers).unwrap();
            assert!((done - fraction).abs() < 1e-4, "{sample}/{samples} {layer}: {done}");
            assert_eq!(message, format!("sample {sample}/{samples}"));
        }
        let baking = json!({ "frame": 3, "frames": 12 });
        let (done, message) = of_event(baking.as_object().unwrap(), &layers).unwrap();
        assert_eq!((done, message.as_str()), (0.25, "frame 3/12"));
        assert_eq!(of_event(json!({ "sample": 3 }).as_object().unwrap(), &layers), None);
        for line in
            ["", "Sample 3/4", "Fra:1 | Synchronizing object | Cube", "Saved: 'x | Sample 1/2'"]
        {
            assert_eq!(parsed(line), None, "{line}");
        }
        assert_eq!(parsed("Fra:1 Mem:1M | Scene, ViewLayer | Sample 0/0"), None);
    }
}
