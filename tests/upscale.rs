//! Upscaling by the command itself, from the job file to the results, with the real weights: a failure affects only its
//! own frame, and a clip keeps its frames, their times and its sound.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::Command;
use support::pictures::png;
use support::{Running, Said, TestDir, models, until};

/// Runs an upscale of `input` with these further lines in it.
fn upscale(dir: &TestDir, input: &str, more: &str) -> Said {
    let job = format!("pictor: v1\nname: job\nupscale:\n  input: {input}\n{more}");
    dir.write("job.yaml", &job);
    let _ = std::fs::remove_dir_all(dir.path("out"));
    let mut command = dir.command(&["run", "job.yaml", "--out", "out"]);
    Running::start(command.env("PICTOR_MODELS", models())).finish()
}

/// The output of one of ffmpeg's programs.
fn tool(dir: &TestDir, program: &str, arguments: &str) -> String {
    let mut command = Command::new(program);
    let said = Running::start(command.args(arguments.split(' ')).current_dir(dir.path("")));
    let said = said.finish();
    assert_eq!(said.code, Some(0), "{program} {arguments}\n{said}");
    said.out
}

/// Three pictures, of which the second is truncated.
fn sequence(dir: &TestDir) {
    std::fs::create_dir(dir.path("shots")).unwrap();
    let source = "-v error -f lavfi -i testsrc2=size=48x32:rate=3:duration=1";
    tool(dir, "ffmpeg", &format!("{source} shots/a_%04d.png"));
    let broken = dir.path("shots/a_0002.png");
    let bytes = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_broken_picture_fails_its_own_frame_alone() {
    let dir = TestDir::new();
    sequence(&dir);
    let frames = |numbers: &[u32]| -> Vec<String> {
        numbers.iter().map(|number| format!("frames/{number:04}.png")).collect()
    };
    let cut = "a_0002.png is cut short: it ends before all of its pixels";
    for (on_error, code, made, said) in [
        ("fail", 1, &[1, 3][..], ["upscale[frame=2", cut]),
        ("copy", 0, &[1, 2, 3], ["succeeded", "3 files in"]),
        ("skip", 0, &[1, 3], ["1 of 3 results of stitch were left out", "2 files in"]),
    ] {
        let more = format!("  model: realesr-animevideov3-x2\n  on_error: {on_error}\n");
        upscale(&dir, "shots/*.png", &more).expect(code, &said);
        assert_eq!(dir.results().into_keys().collect::<Vec<_>>(), frames(made), "{on_error}");
        for name in frames(made) {
            assert_eq!(png(&dir.path("out").join(name)).0, (96, 64));
        }
    }
}

#[test]
fn a_film_with_a_broken_picture_is_made_after_all_when_that_is_asked_for() {
    let dir = TestDir::new();
    sequence(&dir);
    let more = "  model: realesr-animevideov3-x2\n  output: {file: film.mp4}\n";
    let said = upscale(&dir, "shots/*.png", more);
    said.expect(1, &["upscale[frame=2", "cut short"]);
    assert!(!dir.path("out/film.mp4").exists());
    let run = said.run_id();
    let retry = |set: &str| {
        let mut command = dir.command(&["retry", &run, "--yes", "--set", set]);
        Running::start(command.env("PICTOR_MODELS", models())).finish()
    };
    retry("upscale.on_error=copi").expect(1, &["did you mean `copy`?"]);
    retry("upscale.model=other").expect(1, &["cannot be changed", "`upscale.on_error`"]);
    retry("upscale.on_error=copy").expect(0, &["succeeded", "4 files in"]);
    let what = "-v error -count_packets -show_entries stream=nb_read_packets -of csv=p=0";
    assert_eq!(tool(&dir, "ffprobe", &format!("{what} out/film.mp4")).trim(), "3");
}

#[test]
fn an_unknown_model_names_those_that_there_are() {
    let dir = TestDir::new();
    sequence(&dir);
    upscale(&dir, "shots/a_0001.png", "  model: realesr-animevideo-x2\n").expect(
        1,
        &["does not have model `realesr-animevideo-x2`", "did you mean `realesr-animevideov3-x2`?"],
    );
    assert_eq!(dir.results().len(), 0);
}

/// Ten seconds with sound; frames come at intervals of 40 to 240 ms.
#[test]
fn a_clip_of_an_irregular_rate_keeps_its_frames_times_and_sound() {
    let dir = TestDir::new();
    let times = "select='not(eq(mod(n\\,7)\\,3)+eq(mod(n\\,11)\\,5)+eq(mod(n\\,11)\\,6))'";
    tool(
        &dir,
        "ffmpeg",
        &format!(
            "-v error -f lavfi -i testsrc2=size=48x32:rate=25:duration=10,{times} -f lavfi -i \
             sine=frequency=440:duration=10 -fps_mode vfr -c:v libx264 -bf 2 -pix_fmt yuv420p -c:a \
             aac clip.mp4"
        ),
    );
    upscale(&dir, "clip.mp4", "  model: realesr-animevideov3-x2\n").expect(0, &["succeeded"]);
    let stamps = |file: &str| -> Vec<f64> {
        let what = "-v error -select_streams v:0 -show_entries packet=pts_time -of csv=p=0";
        let said = tool(&dir, "ffprobe", &format!("{what} {file}"));
        let mut stamps: Vec<f64> = said.lines().map(|line| line.parse().unwrap()).collect();
        stamps.sort_by(f64::total_cmp);
        stamps
    };
    let (before, after) = (stamps("clip.mp4"), stamps("out/clip.mp4"));
    assert!(before.len() > 150, "{}", before.len());
    assert_eq!(before.len(), after.len());
    let off = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off <= 0.001, "{off} s");
    let sound = |file: &str| {
        tool(&dir, "ffmpeg", &format!("-v error -i {file} -map 0:a -c copy -f framemd5 -"))
    };
    assert_eq!(sound("clip.mp4"), sound("out/clip.mp4"), "each packet, and when it is heard");
    // At an irregular rate the track ends a frame or two before the picture: when its last packet is decoded.
    for (what, near) in [("format=duration", 0.04), ("stream=duration -select_streams v:0", 0.1)] {
        let ask = format!("-v error -show_entries {what} -of csv=p=0 out/clip.mp4");
        let length: f64 = tool(&dir, "ffprobe", &ask).trim().parse().unwrap();
        assert!((length - 10.0).abs() < near, "{what}: {length}");
    }
    plays_in_browsers(&dir, "out/clip.mp4");
}

/// Checks for what every browser can play: H.264 of 8 bits and 4:2:0, AAC, and the index in front.
fn plays_in_browsers(dir: &TestDir, file: &str) {
    let what = "-v error -show_entries stream=codec_name,pix_fmt -of csv=p=0";
    let streams = tool(dir, "ffprobe", &format!("{what} {file}"));
    assert_eq!(streams.lines().collect::<Vec<_>>(), ["h264,yuv420p", "aac"]);
    let bytes = std::fs::read(dir.path(file)).unwrap();
    let at = |name: &[u8]| bytes.windows(4).position(|window| window == name).unwrap();
    assert!(at(b"moov") < at(b"mdat"));
}

#[test]
fn a_server_notices_networks_that_are_added_while_it_waits_for_them() {
    let dir = TestDir::new();
    sequence(&dir);
    let runtime = models().join("libonnxruntime.so");
    let data = dir.path("server").display().to_string();
    let mut serve = dir.command(&["serve", "--listen", "127.0.0.1:0", "--data", &data]);
    let mut server = Running::start(serve.env("ORT_DYLIB_PATH", &runtime));
    let line = server.wait_for("http://127.0.0.1:");
    let address = line[line.find("http://").unwrap()..].trim().to_owned();
    let token = dir.path("server/admin-token");
    until("the server has made a token", || token.exists());
    let pictor = |arguments: &[&str]| {
        let mut command = dir.command(arguments);
        command.env("PICTOR_SERVER", &address).env("PICTOR_TOKEN_FILE", &token);
        Running::start(&mut command).finish()
    };
    dir.write(
        "job.yaml",
        "pictor: v1\nname: job\nupscale:\n  input: shots/a_0001.png\n  model: mine\n",
    );
    let said = pictor(&["submit", "job.yaml"]);
    said.expect(0, &[]);
    let run = said.out.split(':').next().unwrap().to_owned();
    let tasks = |state: &str| pictor(&["tasks", &run, "--state", state]).out;
    until("it waits", || tasks("ready").contains("no worker has model `mine`"));
    let network = models().join("realesr-animevideov3-x2.json");
    let known: serde_json::Value =
        serde_json::from_slice(&std::fs::read(network).unwrap()).unwrap();
    let file = models().join(format!("{}.onnx", known["digest"].as_str().unwrap()));
    let file = file.display().to_string();
    let mut add = dir.command(&["models", "add", &file, "--name", "mine", "--data", &data]);
    Running::start(add.env("ORT_DYLIB_PATH", &runtime)).finish().expect(0, &["mine", "x2"]);
    until("it is made", || {
        let told: serde_json::Value =
            serde_json::from_str(&pictor(&["show", &run, "--json"]).out).unwrap();
        told["state"] == "succeeded"
    });
    assert!(pictor(&["workers", "--json"]).out.contains("\"models\":[\"mine\"]"));
}
