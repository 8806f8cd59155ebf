//! What the sandbox costs: the start of a program, a `command` step, and a tile of a Blender that is kept running, each
//! with and without it. A process has one sandbox, so this program starts itself for each round of steps.

use pictor_benches::farm::BenchFarm;
use pictor_benches::scene::scene;
use pictor_benches::table::{Series, head, line};
use pictor_benches::{machine, say};
use pictor_executor::process::Group;
use pictor_executor::{Confinement, Sandbox, SandboxPolicy, Shared};
use std::collections::BTreeSet;
use std::process::Stdio;
use tokio::process::Command;
use tokio::time::Instant;

/// Tells a process which sandbox it is to measure.
const CHILD: &str = "PICTOR_BENCH_SANDBOX";
const STARTS: u32 = 200;
const ROUNDS: u32 = 5;

fn main() {
    if let Ok(policy) = std::env::var(CHILD) {
        let policy = policy.parse().expect("a policy");
        Sandbox::choose(policy, Shared::default()).expect("a sandbox");
        return pictor_benches::runtime().block_on(steps(policy));
    }
    if !machine::measures() {
        return;
    }
    machine::introduce("the sandbox");
    say(&Sandbox::current().sentence());
    pictor_benches::runtime().block_on(starts());
    compare();
}

/// The start and end of a program that does nothing.
async fn starts() {
    let folder = machine::fresh_folder("starts").canonicalize().expect("it was made");
    let inside = Confinement::default().writes(&folder);
    let outside = Confinement::trusted().writes(&folder);
    let (mut with, mut without, mut more) = <(Series, Series, Series)>::default();
    for _ in 0..STARTS {
        let plain = start(&outside).await;
        let kept = start(&inside).await;
        without.push(plain);
        with.push(kept);
        more.push(kept - plain);
    }
    head("The start and end of `true`");
    line("without sandbox", &without, "ms", "");
    line("in the sandbox", &with, "ms", "");
    line("difference", &more, "ms", "at most 20 ms");
}

/// Milliseconds until `true` has ended.
async fn start(needs: &Confinement) -> f64 {
    let began = Instant::now();
    let pipes = [Stdio::null(), Stdio::null(), Stdio::null()];
    let mut group = Group::spawn(&Command::new("true"), needs, pipes).expect("a program");
    assert!(group.wait().await.expect("its end").success());
    began.elapsed().as_secs_f64() * 1e3
}

/// Steps of whole runs, in processes of their own.
fn compare() {
    let mut tables: [[Series; 2]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (policy, tables) in
            [SandboxPolicy::Off, SandboxPolicy::Required].into_iter().zip(&mut tables)
        {
            let program = std::env::current_exe().expect("this program");
            let mut child = std::process::Command::new(program);
            let said = child.env(CHILD, policy.to_string()).output().expect("this program again");
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            let text = String::from_utf8(said.stdout).expect("numbers");
            let numbers = text.split_whitespace().map(|word| word.parse().expect("milliseconds"));
            for (series, number) in tables.iter_mut().zip(numbers) {
                series.push(number);
            }
        }
    }
    let [[plain_command, plain_tile], [command, tile]] = &tables;
    head("Steps, medians of each run");
    line("a `command` step without sandbox", plain_command, "ms", "");
    line("a `command` step in the sandbox", command, "ms", "");
    line("a warm tile without sandbox", plain_tile, "ms", "");
    line("a warm tile in the sandbox", tile, "ms", "");
}

/// Prints the medians, in milliseconds, of a `command` step and of a warm tile.
async fn steps(policy: SandboxPolicy) {
    let folder = machine::fresh_folder(&format!("sandbox-{policy}"));
    let folder = folder.canonicalize().expect("it was made");
    let programs = pictor_executor::Programs::default();
    let wanted = BTreeSet::from(["blender"]);
    let mut found =
        pictor_executor::inventory::find(&folder, &programs, &wanted, &folder, None).await;
    found.allows_commands = true;
    let mut farm = BenchFarm::start(&folder, found).await;
    let dims = "pictor: v1\nname: commands\ndims: { n: 1-40 }\n";
    let _ = farm
        .run(&format!(
            "{dims}steps:\n- {{ name: work, over: [n], command: {{ run: ['true'] }} }}\n"
        ))
        .await;
    let commands: Series = farm.durations("work").await.into_iter().collect();
    let scene = scene("turntable", "../workflows/scenes/turntable.py", &[]);
    let render = format!(
        "pictor: v1\nname: tiles\nrender: {{ scene: {}, frames: 1, tiles: 4x4, resolution: 480x270, samples: 4, seed: 7 }}\n",
        scene.display()
    );
    let _ = farm.run(&render).await;
    let tiles: Series = farm.durations("render").await[1..].iter().copied().collect();
    farm.stop().await;
    say(&format!("{} {}", 1e3 * commands.median(), 1e3 * tiles.median()));
}
