//! Parsing job files: what is accepted, and how mistakes are shown.

use pictor_tasks::job::{Diagnostic, Source, parse, schema};
use proptest::prelude::*;

const TURNTABLE: &str = r#"pictor: v1
name: turntable
render:
  scene: scenes/turntable.blend
  frames: 1-48
  tiles: 2x2
  resolution: 1280x720
  samples: 64
  seed: 7
  set: { scene.cycles.use_denoising: false, "objects['Cube'].location": [0, 1.5, 2] }
  output: { format: exr, preview: png, video: turntable.mp4, fps: 24 }
requires: { gpu: { vram: 8GiB }, software: { blender: ">=3.4" } }
retry: { attempts: 3, backoff: 5s }
"#;

const STEPS: &str = r"
pictor: v1
name: looks
timeout: 90
dims:
  frame: 1-10
  one: 3
  look: [matte, glossy]
  take: [1, 2, 5]
  block: { of: frame, size: 4 }
  found: { from: prepare, allow_empty: true }
steps:
  - name: prepare
    command:
      run: [sh, -c, 'echo ${{HOME}} > {bind.found}']
  - name: simulate
    over: [frame]
    needs:
      - prepare
      - { step: simulate, offset: { frame: -1 } }
      - { step: prepare, on: finished }
    command:
      run: [sim, '{frame:04}', '{input.prepare.log}']
      env: { FRAME: '{frame}' }
      outputs: { cache: cache.abc }
    deliver: { cache: 'caches/{frame:04}.abc' }
  - name: show
    over: [look, frame]
    needs: [simulate]
    blender:
      scene: { scene: a.blend, samples: 16, camera: '{look}' }
      tiles: { grid: 2x2 }
";

const UPSCALE: &str = "
pictor: v1
name: larger
upscale:
  input: frames/*.png
  model: realesr-animevideov3-x2
  scale: 3
  tile: 512
  overlap: auto
  format: webp
  quality: 80
  video: { codec: h264, crf: 20, keep_audio: false, fps: 23.976 }
  frames: 1-100x5
  on_error: skip
  output: { file: larger.mp4, frames: false }
steps:
  - { name: look, probe: { source: a.mp4, frame: shot, tiles: { dim: piece } }, keep: { until: film } }
  - { name: film, needs: [look], encode: { file: a.mp4, source: b.mp4, allow_gaps: true } }
";

fn source(text: &str) -> Source {
    Source { name: "job.yaml".to_owned(), text: text.to_owned() }
}

fn sets(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect()
}

/// The rendered mistakes of a file.
fn mistakes(text: &str) -> String {
    let source = source(text);
    parse(&source, &[]).expect_err("a file with mistakes").render(&source)
}

#[test]
fn a_render_is_read() {
    let spec = parse(&source(TURNTABLE), &[]).unwrap().spec;
    insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
}

#[test]
fn steps_are_read_with_every_short_form() {
    let spec = parse(&source(STEPS), &[]).unwrap().spec;
    insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
}

#[test]
fn an_upscale_is_read() {
    let spec = parse(&source(UPSCALE), &[]).unwrap().spec;
    insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
}

#[test]
fn mistakes_in_an_upscale_are_shown() {
    insta::assert_snapshot!(mistakes(
        "pictor: v1
name: larger
upscale:
  input: notes.txt
  scale: 17
  tile: large
  overlap: 513
  format: gif
  quality: 0
  video: { crf: 52, fps: 0, codecs: h264 }
  frames: 3-1
  on_error: ignore
  output: { file: a/b.mp4, frames: 1 }
steps:
  - name: look
    probe: { sorce: a.mp4, tiles: { pixels: 63 } }
    stitch: { tiles: {}, format: gif }
    keep: { untill: look }
"
    ));
}

#[test]
fn a_job_has_a_render_or_steps_or_both_but_not_neither() {
    let both = format!("{TURNTABLE}steps: [{{ name: after, needs: [encode], noop: {{}} }}]\n");
    assert_eq!(parse(&source(&both), &[]).unwrap().spec.steps.len(), 1);
    assert!(mistakes("pictor: v1\nname: x\n").starts_with("error: the job has nothing to do"));
}

#[test]
fn what_was_read_survives_json() {
    for text in [TURNTABLE, STEPS, UPSCALE] {
        let spec = parse(&source(text), &[]).unwrap().spec;
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<pictor_tasks::job::spec::JobSpec>(&json).unwrap(), spec);
        let again = parse(&source(&json), &[]).map_err(|invalid| invalid.render(&source(&json)));
        assert_eq!(again.unwrap().spec, spec, "JSON is YAML");
    }
}

/// The values of the dimension `x`, as written in a file and printed by a task; or the mistakes.
fn values(x: &str, sets: &[(String, String)]) -> Result<Vec<String>, String> {
    let text = format!(
        "pictor: v1\nname: values\ndims: {{ x: {x} }}\nsteps: [{{ name: a, noop: {{}} }}]\n"
    );
    let source = source(&text);
    let dim =
        parse(&source, sets).map_err(|mistakes| mistakes.render(&source))?.spec.dims["x"].clone();
    let numbers =
        |ranges: pictor_tasks::range::Ranges| ranges.iter().map(|n| n.to_string()).collect();
    dim.values.or(dim.range.map(numbers)).ok_or_else(|| "no values".to_owned())
}

#[test]
fn a_value_in_a_file_is_kept_as_written_or_refused() {
    for (kept, words) in [
        ("[10, 20]", &["10", "20"][..]),
        ("[-5, 0]", &["-5", "0"]),
        ("['0010', \"0020\", 0030A]", &["0010", "0020", "0030A"]),
        (
            "[yes, no, 1_000, 2024-01-05, 12:30, 0x1g, 1.2.3]",
            &["yes", "no", "1_000", "2024-01-05", "12:30", "0x1g", "1.2.3"],
        ),
        ("10-11", &["10", "11"]),
        ("{ range: '0,10' }", &["0", "10"]),
    ] {
        assert_eq!(
            values(kept, &[]),
            Ok(words.iter().map(|w| (*w).to_owned()).collect()),
            "{kept}"
        );
        let set = sets(&[("dims.x", kept)]);
        assert_eq!(values("1", &set), values(kept, &[]), "--set dims.x={kept}");
    }
    for (refused, hint) in [
        ("[0010, 0020, 0030]", "put quotes around it: \"0010\""),
        ("[0010, 0020A]", "put quotes around it: \"0010\""),
        ("[10, 0020]", "put quotes around it: \"0020\""),
        ("[10, 0x14]", "put quotes around it: \"0x14\", or write 20"),
        ("[0o17, 3]", "put quotes around it: \"0o17\""),
        ("[+5, 6]", "put quotes around it: \"+5\""),
        ("[-0, 6]", "put quotes around it: \"-0\""),
        ("[1e3]", "put quotes around it: \"1e3\""),
        ("[.5, 1.5]", "put quotes around it: \".5\""),
        ("[true]", "put quotes around it: \"true\""),
        ("[99999999999999999999]", "put quotes around it: \"99999999999999999999\""),
        ("0010", "`0010` would become 10: write `10`, or list texts: `[\"0010\"]`"),
        ("'0010'", "`0010` would become 10"),
        ("0010-0030x10", "`0010` would become 10"),
        ("{ range: 1-0020 }", "`0020` would become 20"),
        ("'1,007'", "`007` would become 7"),
        ("{ values: [0010] }", "put quotes around it: \"0010\""),
        ("0x10", "expected ranges"),
        ("1_000", "expected ranges"),
        ("2024-01-05", "expected ranges"),
        ("1e3", "`1e3`"),
    ] {
        let why = values(refused, &[]).unwrap_err();
        assert!(why.contains(hint), "{refused}: {why}");
        let why = values("1", &sets(&[("dims.x", refused)])).unwrap_err();
        assert!(why.contains(hint), "--set dims.x={refused}: {why}");
    }
}

#[test]
fn a_number_with_leading_zeros_is_refused_where_it_could_be_a_text() {
    for (text, hint) in [
        ("set: { scene.name: 0010 }", "put quotes around it: \"0010\", or write 10"),
        ("set: { scene.name: [1, 00.5] }", "put quotes around it: \"00.5\", or write 0.5"),
        ("samples: 0064", "or write 64"),
    ] {
        let text =
            format!("pictor: v1\nname: a\nrender: {{ scene: a.blend, frames: 0001-0010, {text} }}");
        let why = mistakes(&text);
        assert!(why.contains(hint) && why.matches("error").count() == 1, "{why}");
    }
}

proptest! {
    /// Whatever a list contains: each value is preserved as it was written, or the file is refused.
    #[test]
    fn no_value_of_a_list_changes(words in prop::collection::vec("[-+]?[0-9xo_.e:A]{1,6}", 1..4)) {
        if let Ok(values) = values(&format!("[{}]", words.join(", ")), &[]) {
            prop_assert_eq!(values, words);
        }
    }
}

#[test]
fn the_schema_is_as_recorded() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema()).unwrap());
}

#[test]
fn all_mistakes_of_a_file_are_shown_at_once() {
    insta::assert_snapshot!(mistakes(
        "pictor: v1
name: 123
render:
  frames: 10-1
  sampels: 64
  resolution: 1280
  denoise: yes
  output: { format: ext, fps: 0, preview: gif, video: ../a.mp4 }
priority: 1000
timeout: 5 weeks
stalled:
"
    ));
}

#[test]
fn mistakes_in_steps_are_shown() {
    insta::assert_snapshot!(mistakes(
        "pictor: v1
name: steps
dims:
  frame: 1-10,5
  look: [matte, 3]
  Bad: 1
  index: 2
  twice: [a, b, a]
  again: [1, 2, 1, 9999999999999999]
  grid: { grdi: 2x2 }
steps:
  - name: a
  - name: a
    noop: {}
    merge: { tiles: { grid: 2 } }
    over: frame
  - nmae: b
    noop: {}
    needs: [{ step: a, offset: { frame: x } }, 7]
  - name: c
    command:
      run: [awk, '{print $1}', '{job.name}', 5]
      env: { 1A: x }
      outputs: { log: a/b }
    deliver: { log: ../../etc/passwd }
  - just text
"
    ));
}

#[test]
fn mistakes_in_the_yaml_itself_are_shown() {
    let deep = "[".repeat(40);
    let long = format!("# {}", "x".repeat(1 << 20));
    let texts = [
        "",
        "just text",
        "a: [1, 2",
        "pictor: v1\n\tname: x",
        "name: a: b",
        "a: &x 1\nb: *x",
        "name: !!str x",
        "pictor: v1\n---\npictor: v1\n",
        "? [a]\n: b",
        "pictor: v1\nname: a\nname: b\nrender: { scene: a, scene: b, set: { x: 1, x: 2 } }",
        &deep,
        &long,
    ];
    let shown = texts.map(mistakes).join("----\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn overrides_replace_and_add_values() {
    let overrides = sets(&[
        ("render.samples", "16"),
        ("render.frames", "1-3"),
        ("render.output.video", "null.mp4"),
        ("requires.gpu.vram", "24GiB"),
        ("order", "preview"),
        ("render.set[\"world.color\"]", "[0, 0, 0]"),
    ]);
    let spec = parse(&source(TURNTABLE), &overrides).unwrap().spec;
    let render = spec.render.unwrap();
    assert_eq!(render.samples, Some(16));
    assert_eq!(serde_json::to_value(render.frames).unwrap(), "1-3");
    assert_eq!(render.set["world.color"], serde_json::json!([0, 0, 0]));
    let overrides = sets(&[
        ("steps.show.blender.scene.samples", "8"),
        ("steps[0].command.run[0]", "bash"),
        ("steps.0.name", "prepare"),
        ("dims.frame", "1-3"),
    ]);
    let spec = parse(&source(STEPS), &overrides).unwrap().spec;
    assert_eq!(spec.steps[2].work.blender.as_ref().unwrap().scene.samples, Some(8));
    assert_eq!(spec.steps[0].work.command.as_ref().unwrap().run[0], "bash");
}

#[test]
fn mistakes_in_overrides_name_the_override() {
    let source = source(STEPS);
    let overrides = sets(&[
        ("steps.shwo.blender.scene.samples", "8"),
        ("steps.show.blender.scene.samplse", "1"),
        ("dims.frame", "3-1"),
        ("dims.frame.size", "3"),
        ("name.x", "3"),
        ("a..b", "3"),
        ("timeout", ""),
        ("retry", "{ attempts: 0, "),
        ("order", "[\u{1b}]"),
        ("order", "indxe"),
    ]);
    insta::assert_snapshot!(parse(&source, &overrides).unwrap_err().render(&source));
}

#[test]
fn later_mistakes_are_shown_by_their_paths_alone() {
    let source = source(STEPS);
    let map = parse(&source, &sets(&[("steps.show.needs", "[simulat]")])).unwrap().source_map;
    let hint = Some("did you mean `simulate`?".to_owned());
    let diagnostics = [
        Diagnostic::new("steps[2].needs[0]", "no step `simulat`").with_hint(hint),
        Diagnostic::new("steps[1].needs[1].offset.frame", "an offset of -1"),
        Diagnostic::new("dims.block.size", "four"),
        Diagnostic::new("dims.frame.range", "is shown at `dims.frame`"),
        Diagnostic::new("steps[0]", "a whole step"),
        Diagnostic::new("", "the whole job"),
    ];
    insta::assert_snapshot!(map.render(&source, &diagnostics));
    assert_eq!(map.position("dims.frame"), Some((6, 10)));
    assert_eq!(map.position("steps[2].needs[0]"), None);
}

#[test]
fn limits_are_named() {
    let entries = |n: usize, entry: fn(usize) -> String| (0..n).map(entry).collect::<String>();
    let text = format!(
        "pictor: v1\nname: {}\ndims:\n{}  big: 0-16777216\nsteps:\n{}",
        "x".repeat(4_097),
        entries(64, |i| format!("  d{i}: 1\n")),
        entries(257, |i| format!("  - {{ name: s{i}, noop: {{}} }}\n")),
    );
    let needs = vec!["a"; 65].join(", ");
    let words = entries(4_097, |i| format!("w{i}, "));
    let over = entries(17, |i| format!("d{i}, "));
    let more = format!(
        "pictor: v1\nname: x\ndims: {{ w: [{words}] }}\nsteps: [{{ name: a, noop: {{}}, \
         over: [{over}], needs: [{needs}] }}]"
    );
    insta::assert_snapshot!([text, more].map(|text| mistakes(&text)).join("----\n"));
}

#[test]
fn a_flood_of_mistakes_ends_after_a_hundred() {
    let fields: Vec<String> = (0..5_000).map(|i| format!("field{i}: 1\n")).collect();
    let shown = mistakes(&fields.concat());
    assert_eq!(shown.matches("error: ").count(), 101);
    assert!(shown.ends_with("error: and 4903 more\n"), "{shown}");
}

/// Texts that resemble job files, with damage in places.
fn job_like() -> impl Strategy<Value = String> {
    let lines: Vec<String> =
        [TURNTABLE, STEPS, UPSCALE].concat().lines().map(str::to_owned).collect();
    let line = prop::sample::select(lines);
    let broken = (line.clone(), 0..60_usize, "[-a-z0-9:{}\\[\\]\"'&*!|>#%@, \t\n]{0,6}");
    let broken = broken.prop_map(|(line, at, insert)| {
        let at = line.char_indices().map(|(i, _)| i).nth(at).unwrap_or(line.len());
        format!("{}{insert}{}", &line[..at], &line[at..])
    });
    prop::collection::vec(prop_oneof![3 => line, 1 => broken], 0..30).prop_map(|all| all.join("\n"))
}

/// Valid files with one value changed.
fn nearly_good() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        "[-0-9x.,]{1,9}",
        "[a-zA-Z0-9{}]{1,9}",
    ];
    let text = prop::sample::select(vec![TURNTABLE, STEPS, UPSCALE]);
    (text, 0..60_usize, value).prop_map(|(text, at, value)| {
        let places: Vec<usize> = text.match_indices(": ").map(|(i, _)| i + 2).collect();
        let start = places[at % places.len()];
        let end = text[start..].find(['\n', ',', '}']).map_or(text.len(), |n| start + n);
        format!("{}{value}{}", &text[..start], &text[end..])
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(
        any in "\\PC{0,200}",
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        like in job_like(),
        nearly in nearly_good(),
    ) {
        for text in [any, String::from_utf8_lossy(&bytes).into_owned(), like, nearly] {
            let source = source(&text);
            match parse(&source, &[]) {
                Ok(parsed) => {
                    let json = serde_json::to_string(&parsed.spec).unwrap();
                    let again: pictor_tasks::job::spec::JobSpec = serde_json::from_str(&json).unwrap();
                    prop_assert_eq!(again, parsed.spec);
                }
                Err(invalid) => {
                    prop_assert!(!invalid.diagnostics().is_empty());
                    let shown = invalid.render(&source);
                    prop_assert!(shown.starts_with("error: "));
                    // A file that passes the check must deserialise: serde's own messages never appear.
                    for serde in ["invalid type", "unknown field", "missing field", "did not match"] {
                        prop_assert!(!shown.contains(&format!("error: {serde}")), "{text}\n{shown}");
                    }
                }
            }
        }
    }
}
