//! The command line against a server: `pictor serve` on this machine, with its own worker, and every command that talks
//! to it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::Value as Json;
use std::net::TcpStream;
use std::path::PathBuf;
use support::farm::TestFarm;
use support::{Running, Said, blender, files, pictures};

const NOOP: &str = "pictor: v1\nname: noop\nsteps: [{ name: a, noop: {} }]\n";
const LONG: &str = "pictor: v1\nname: long\nsteps: [{ name: a, noop: { duration: 100s } }]\n";

#[test]
fn runs_are_listed_shown_and_changed_over_http_by_the_same_verbs() {
    let farm = TestFarm::start(&[]);
    let long = farm.submit(LONG);
    farm.ok(&["runs"]).expect(0, &[&long, "running", "admin"]);
    farm.ok(&["show", &long]).expect(0, &[&long, "running", "STEP", "a"]);
    farm.ok(&["tasks", &long]).expect(0, &["TASK", "ATTEMPT"]);
    assert_eq!(farm.json(&["tasks", &long, "--step", "a"])["name"], "a");
    farm.ok(&["pause", &long]).expect(0, &["is paused"]);
    assert_eq!(farm.state(&long), "paused");
    farm.ok(&["resume", &long]).expect(0, &["continues"]);
    farm.ok(&["priority", &long, "-7"]);
    assert_eq!(farm.json(&["show", &long])["priority"], -7);
    farm.ok(&["cancel", &long]).expect(0, &["is cancelled"]);
    farm.ok(&["show", &long, "--watch"]).expect(0, &["cancelled"]);
    farm.pictor(&["pause", &long]).expect(1, &["is over", "run_is_over"]);
    farm.ok(&["retry", &long]).expect(0, &["1 tasks of"]);
    assert_eq!(farm.state(&long), "running");
    farm.ok(&["cancel", &long]);
    // The same commands without a server still refer to this machine.
    farm.dir.write("job.yaml", NOOP);
    let here = farm.dir.run(&[]).expect(0, &[]).run_id();
    farm.dir.ok(&["show", &here]).expect(0, &["succeeded"]);
    farm.pictor(&["show", &here]).expect(1, &["there is no run", "not_found"]);
}

#[test]
fn what_goes_wrong_is_told_in_a_sentence() {
    let farm = TestFarm::start(&[]);
    farm.dir.write("job.yaml", "pictor: v1\nname: x\nstpes: []\n");
    farm.pictor(&["submit", "job.yaml"]).expect(2, &["stpes", "job.yaml:3"]);
    farm.pictor(&["show", "x"]).expect(1, &["there is no run `x`", "(not_found)"]);
    let mut nobody = farm.dir.command(&["runs", "--server", "http://127.0.0.1:9"]);
    Running::start(&mut nobody).finish().expect(1, &["reach http://127.0.0.1:9", "refused"]);
    let mut stranger = farm.command(&["runs", "--token", "pictor_x_y"]);
    stranger.env_remove("PICTOR_TOKEN_FILE");
    Running::start(&mut stranger).finish().expect(1, &["(unauthorized)", "--token-file"]);
    farm.dir.pictor(&["submit", "job.yaml"]).expect(1, &["which server?", "--server"]);
}

#[test]
fn the_server_and_the_token_may_stand_in_the_configuration() {
    let farm = TestFarm::start(&[]);
    let text = format!("server = {:?}\ntoken_file = {:?}\n", farm.address, "the-token");
    farm.dir.write("config/pictor/config.toml", &text);
    let token = farm.dir.path("server/admin-token");
    std::fs::copy(token, farm.dir.path("config/pictor/the-token")).unwrap();
    let run = farm.submit(NOOP);
    farm.dir.ok(&["runs"]).expect(0, &[&run]);
    // Naming a data folder, or no server, means this machine.
    let here = ["there are no runs in"];
    farm.dir.pictor(&["runs", "--data", "elsewhere"]).expect(1, &here);
    farm.dir.pictor(&["runs", "--server", ""]).expect(1, &here);
}

#[test]
fn a_log_is_followed_until_its_task_is_over() {
    let farm = TestFarm::start(&[]);
    let go = farm.dir.shared("go").display().to_string();
    let script = format!("echo first; while [ ! -e '{go}' ]; do sleep 0.05; done; echo last");
    let run = farm.submit(&format!(
        "pictor: v1\nname: talk\nsteps:\n- name: a\n  command: {{ run: [sh, -c, \"{script}\"] }}\n"
    ));
    let mut follow = Running::start(&mut farm.command(&["logs", &run, "a", "--follow"]));
    follow.wait_for("first");
    std::fs::write(&go, "").unwrap();
    follow.wait_for("last");
    follow.finish().expect(0, &[]);
    farm.ok(&["logs", &run, "a"]).expect(0, &["a attempt 1", "first\nlast"]);
}

#[test]
fn whoever_stops_waiting_does_not_stop_the_run() {
    let farm = TestFarm::start(&[]);
    farm.dir.write("job.yaml", LONG);
    let mut waiting = Running::start(&mut farm.command(&["submit", "job.yaml", "--wait"]));
    let line = waiting.wait_for("get its results with");
    let run = line.split(':').next().unwrap().to_owned();
    waiting.signal(Signal::INT);
    waiting.finish().expect(130, &["continues", "pictor show"]);
    assert_eq!(farm.state(&run), "running");
    farm.ok(&["cancel", &run]);
    farm.dir.write("bad.yaml", "pictor: v1\nname: bad\nretry: { attempts: 1 }\nsteps: [{ name: a, command: { run: [\"false\"] } }]\n");
    farm.pictor(&["submit", "bad.yaml", "--wait"]).expect(1, &["failed", "1 failed"]);
}

/// A job whose four tasks print the same message; one of them adds a sequence that would clear a terminal.
const TALKING: &str = r#"pictor: v1
name: talk
dims: { i: { count: 4 } }
steps:
- name: talk
  over: [i]
  command:
    run:
    - sh
    - -c
    - 'echo "pictor: note no paper"; if [ "$0" = 2 ]; then printf "pictor: note \033[2Jred\n"; fi'
    - "{i}"
"#;

#[test]
fn what_workers_say_is_told_once_here_and_through_a_server() {
    let farm = TestFarm::start(&[]);
    farm.dir.write("job.yaml", TALKING);
    let told = ["notes:\n  no paper (4 tasks, such as talk[i=0])", "  \\u{1b}[2Jred (talk[i=2])"];
    let there = farm.pictor(&["submit", "job.yaml", "--wait"]);
    let run = there.out.split(':').next().unwrap().to_owned();
    let here = farm.dir.run(&[]);
    for said in [&there, &here, &farm.ok(&["show", &run]), &farm.dir.ok(&["show", "talk"])] {
        said.expect(0, &told);
        assert!(!said.out.contains('\u{1b}'), "{said}");
    }
    farm.ok(&["logs", &run, "talk[i=2]"]).expect(0, &["note: no paper", "note: \\u{1b}[2Jred"]);
    let notes = serde_json::json!([
        { "text": "no paper", "tasks": 4, "example": "talk[i=0]" },
        { "text": "\u{1b}[2Jred", "tasks": 1, "example": "talk[i=2]" },
    ]);
    let end =
        |said: Said| -> Json { serde_json::from_str(said.out.lines().last().unwrap()).unwrap() };
    for said in [
        farm.json(&["show", &run]),
        farm.dir.json(&["show", "talk"]),
        end(farm.ok(&["submit", "job.yaml", "--wait", "--json"])),
        end(farm.dir.run(&["--json"])),
    ] {
        let mut told = said["notes"].as_array().unwrap().clone();
        // Tasks end in any order.
        told.sort_by_key(|note| std::cmp::Reverse(note["tasks"].as_u64()));
        assert_eq!((&Json::from(told), &said["notes_left_out"]), (&notes, &0.into()), "{said}");
    }
}

/// A scene in `shots/` with a texture beside it, one elsewhere, and a library that has a texture itself.
const SCENE: &str = r#"
import bpy, os, sys
out = sys.argv[sys.argv.index("--") + 1]

def picture(name, colour):
    path = os.path.join(out, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = bpy.data.images.new("made", 2, 2)
    image.pixels = colour * 4
    image.filepath_raw, image.file_format = path, "PNG"
    image.save()
    bpy.data.images.remove(image)
    return path

def paint(item, path, stored):
    image = bpy.data.images.load(path)
    image.filepath = stored
    material = bpy.data.materials.new("painted")
    material.use_nodes = True
    tree = material.node_tree
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    glow = tree.nodes.new("ShaderNodeEmission")
    tree.links.new(node.outputs["Color"], glow.inputs["Color"])
    tree.links.new(glow.outputs[0], tree.nodes["Material Output"].inputs["Surface"])
    item.data.materials.clear()
    item.data.materials.append(material)

def save(name):
    path = os.path.join(out, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False)
    return path

red, green = picture("textures/red.png", [1, 0, 0, 1]), picture("library/green.png", [0, 1, 0, 1])
far = picture("far/blue.png", [0, 0, 1, 1])
bpy.ops.wm.read_factory_settings()
bpy.data.objects["Cube"].name = "Green"
paint(bpy.data.objects["Green"], green, "//green.png")
library = save("library/green.blend")
bpy.ops.wm.read_factory_settings()
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples = "CYCLES", 1
scene.cycles.use_adaptive_sampling = scene.cycles.use_denoising = False
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 48, 32, 100
save("shots/scene.blend")
paint(bpy.data.objects["Cube"], red, "//../textures/red.png")
with bpy.data.libraries.load(library, link=True) as (_, to):
    to.objects = ["Green"]
bpy.data.libraries["green.blend"].filepath = "//../library/green.blend"
scene.collection.objects.link(to.objects[0])
bpy.ops.mesh.primitive_cube_add(location=(0, 3, 0))
paint(bpy.context.object, far, far)
save("shots/scene.blend")
"#;

const RENDER: &str = "pictor: v1\nname: painted\nrender:\n  scene: project/shots/scene.blend\n  \
                      frames: 1-2\n  seed: 3\n  output: { preview: png }\n";

fn project(farm: &TestFarm) -> PathBuf {
    let script = farm.dir.write("scene.py", SCENE);
    let project = farm.dir.path("project");
    std::fs::create_dir_all(&project).unwrap();
    blender(&script, &project);
    farm.dir.write("job.yaml", RENDER);
    project
}

#[test]
fn a_scene_is_rendered_with_everything_that_it_needs_and_its_results_come_back() {
    let farm = TestFarm::start(&[]);
    let project = project(&farm);
    let here = farm.dir.run(&[]);
    here.expect(0, &["4 files in"]);
    let expected = farm.dir.results();
    let tried = farm.ok(&["submit", "job.yaml", "--dry-run"]);
    tried.expect(0, &["6 files", "nothing was sent or started"]);
    let said = farm.pictor(&["submit", "job.yaml", "--wait", "--out", "fetched"]);
    said.expect(0, &["sent 6 files", "0 were there already", "succeeded", "4 files in"]);
    let fetched = files(&farm.dir.path("fetched"));
    assert!(fetched.keys().eq(expected.keys()), "{:?}", fetched.keys());
    for frame in ["frames/0001.exr", "frames/0002.exr"] {
        let (far, near) = (farm.dir.path("fetched").join(frame), farm.dir.path("out").join(frame));
        // The farm sees the same textures and the same library.
        pictures::assert_same(&far, &near);
    }
    // Nothing is uploaded twice; of changed files only those are uploaded again.
    let run = farm.json(&["submit", "job.yaml", "--priority", "5"]);
    assert_eq!(run["priority"], 5);
    std::fs::copy(project.join("far/blue.png"), project.join("textures/red.png")).unwrap();
    farm.ok(&["submit", "job.yaml"]).expect(0, &["sent 1 files", "4 were there already"]);
    // A missing texture stops the submission, unless the user accepts that.
    std::fs::remove_file(project.join("far/blue.png")).unwrap();
    let lacks = ["image `blue.png` of material `painted", "blue.png is not there"];
    farm.pictor(&["submit", "job.yaml"]).expect(2, &lacks).expect(2, &["--allow-missing"]);
    farm.ok(&["submit", "job.yaml", "--allow-missing"]).expect(0, &["warning: image"]);
}

#[test]
fn only_results_that_are_missing_or_differ_are_fetched() {
    let farm = TestFarm::start(&[]);
    let run = farm.submit(
        "pictor: v1\nname: write\ndims: { i: { count: 20 } }\nsteps:\n- name: a\n  over: [i]\n  \
         command:\n    run: [sh, -c, \"echo {i} > {output.x}; head -c 100000 /dev/zero >> {output.x}\"]\n    \
         outputs: { x: x.txt }\n  deliver: { x: \"all/{i:03}.txt\" }\n",
    );
    farm.ok(&["show", &run, "--watch"]).expect(0, &["succeeded"]);
    let download =
        |more: &[&str]| farm.json(&[&["download", &run, "--out", "fetched"], more].concat());
    assert_eq!(download(&["00?.txt"])["fetched"], 10);
    let said = download(&[]);
    assert_eq!((&said["fetched"], said["files"].as_array().unwrap().len()), (&10.into(), 20));
    assert_eq!(download(&[])["fetched"], 0);
    let whole = files(&farm.dir.path("fetched"));
    // One is gone, one is broken but has the same length, one is too short.
    let path = |n: u32| farm.dir.path(&format!("fetched/all/{n:03}.txt"));
    std::fs::remove_file(path(1)).unwrap();
    std::fs::write(path(2), vec![b'x'; 100_002]).unwrap();
    std::fs::write(path(3), "short").unwrap();
    // A file that somebody else may have written is not replaced silently; the rest is there.
    let refused = farm.pictor(&["download", &run, "--out", "fetched"]);
    refused.expect(1, &["002.txt and another file: something else is there", "--overwrite"]);
    assert_eq!(std::fs::read(path(2)).unwrap(), vec![b'x'; 100_002]);
    assert_eq!(download(&["--overwrite"])["fetched"], 2);
    assert_eq!(files(&farm.dir.path("fetched")), whole);
}

#[test]
fn thousands_of_tiny_files_are_sent_quickly_and_only_once() {
    let count = if support::soak() { 3_000 } else { 1_000 };
    let farm = TestFarm::start(&[]);
    project(&farm);
    for number in 1..=count {
        farm.dir.write(&format!("project/frames/f_{number:05}.png"), &number.to_string());
    }
    let script = farm.dir.write(
        "more.py",
        "import bpy, sys, os\n\
         folder = sys.argv[sys.argv.index('--') + 1]\n\
         bpy.ops.wm.open_mainfile(filepath=os.path.join(folder, 'shots/scene.blend'))\n\
         image = bpy.data.images.load(os.path.join(folder, 'frames/f_00001.png'))\n\
         image.source, image.use_fake_user = 'SEQUENCE', True\n\
         image.filepath = '//../frames/f_00001.png'\n\
         bpy.ops.wm.save_mainfile()\n",
    );
    blender(&script, &farm.dir.path("project"));
    let sent = format!("sent {} files", count + 6);
    farm.ok(&["submit", "job.yaml"]).expect(0, &[&sent, "0 were there already"]);
    let again = farm.ok(&["submit", "job.yaml"]);
    assert!(!again.err.contains("sent"), "{again}");
}

#[test]
fn schedules_are_made_listed_triggered_and_removed() {
    let farm = TestFarm::start(&[]);
    farm.dir.write("job.yaml", NOOP);
    let add = ["schedule", "add", "nightly", "job.yaml", "--cron", "0 2 * * *"];
    let said = farm.ok(&[&add[..], &["--zone", "Europe/Berlin", "--jitter", "5m"]].concat());
    let times: Vec<&str> = said.out.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(times.len(), 5, "{said}");
    assert!(times.iter().all(|time| time.contains("02:00")), "{said}");
    farm.pictor(&add).expect(1, &["nightly", "already", "(conflict)"]);
    farm.ok(&["schedule", "list"]).expect(0, &["nightly", "0 2 * * *", "Europe/Berlin"]);
    let run = farm.json(&["schedule", "trigger", "nightly"])["run"].as_str().unwrap().to_owned();
    farm.ok(&["show", &run, "--watch"]).expect(0, &["succeeded"]);
    farm.ok(&["schedule", "show", "nightly"]).expect(0, &["started", &run, "overlap: skip"]);
    farm.ok(&["schedule", "pause", "nightly"]);
    farm.ok(&["schedule", "list"]).expect(0, &["paused"]);
    farm.ok(&["schedule", "resume", "nightly"]).expect(0, &["starts runs again"]);
    farm.ok(&["schedule", "remove", "nightly"]);
    farm.pictor(&["schedule", "show", "nightly"]).expect(1, &["there is no schedule `nightly`"]);
    let bad = ["schedule", "add", "x", "job.yaml", "--cron", "61 2 * * *"];
    farm.pictor(&bad).expect(1, &["`61`", "minute", "invalid_schedule"]);
    farm.pictor(&[&add[..], &["--overlap", "never"]].concat()).expect(2, &["skip", "replace"]);
}

#[test]
fn tokens_are_made_for_a_role_and_worthless_once_revoked() {
    let farm = TestFarm::start(&[]);
    let run = farm.submit(NOOP);
    let made = farm.ok(&["token", "add", "ann", "--role", "viewer"]);
    let token = made.out.trim().to_owned();
    assert!(token.starts_with("pictor_") && token.lines().count() == 1, "{made}");
    let ann = |arguments: &[&str]| {
        let mut command = farm.command(arguments);
        command.env_remove("PICTOR_TOKEN_FILE").env("PICTOR_TOKEN", &token);
        Running::start(&mut command).finish()
    };
    ann(&["runs"]).expect(0, &[&run]);
    ann(&["cancel", &run]).expect(1, &["(forbidden)"]);
    farm.ok(&["token", "list"]).expect(0, &["ann", "viewer", "valid"]);
    let id = token.split('_').nth(1).unwrap();
    farm.ok(&["token", "revoke", id]);
    farm.ok(&["token", "list"]).expect(0, &["revoked"]);
    ann(&["runs"]).expect(1, &["(unauthorized)"]);
}

#[test]
fn workers_are_listed_and_taken_out_of_service() {
    let farm = TestFarm::start(&[]);
    let worker = farm.json(&["workers"]);
    let id = worker["id"].to_string();
    farm.ok(&["workers"]).expect(0, &["WORKER", "enabled"]);
    farm.ok(&["workers", &id]).expect(0, &["processors", "of memory"]);
    farm.ok(&["workers", &id, "--set", "disabled"]).expect(0, &["disabled"]);
    let run = farm.submit(NOOP);
    assert_eq!(farm.state(&run), "running");
    farm.ok(&["workers", &id, "--set", "enabled"]);
    farm.ok(&["show", &run, "--watch"]).expect(0, &["succeeded"]);
    farm.pictor(&["workers", &id, "--set", "asleep"]).expect(2, &["enabled", "draining"]);
}

/// A thousand connections that ask nothing: with few descriptors the server lets the oldest ones go, and where it may
/// have more than it was started with, it takes them.
#[test]
fn a_thousand_idle_connections_do_not_stop_a_server() {
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: own.maximum, ..own }).unwrap();
    for shell in ["ulimit -n 256", "ulimit -S -n 256"] {
        let farm = TestFarm::start_after(shell, &[]);
        let place = farm.address.trim_start_matches("http://");
        let idle: Vec<_> = (0..1000).map(|_| TcpStream::connect(place)).collect();
        farm.ok(&["runs"]);
        drop(idle);
    }
}
