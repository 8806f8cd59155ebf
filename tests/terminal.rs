//! What programs of others say never moves the cursor, reaches the clipboard or rings: the real command on a terminal.

mod support;

use support::{TestDir, until};

/// Clears the screen, writes to the clipboard, sets the title, moves the cursor, all in 7 and in 8 bits.
const ESCAPES: &str = r"\033[2J\033]52;c;cGljdG9y\007\033]0;title\033\\\033[10A\302\2332J\302\23552;c;eA==\302\234\2332J\r";

/// Asserts that nothing but our own sequences reached the terminal: those that draw bars, or the one that clears it.
#[track_caller]
fn assert_plain(said: &str, what: &str) {
    let ours = said.replace("\u{1b}[H\u{1b}[2J\u{1b}[3J", "");
    let mut rest = ours.as_str();
    while let Some((_, after)) = rest.split_once('\u{1b}') {
        let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        // Colours and lines of bars, and the visibility of the cursor.
        let sequence = &after[..=end];
        assert!(
            what == "run"
                && sequence.starts_with('[')
                && sequence.ends_with(['m', 'A', 'B', 'K', 'h', 'l', 'J'])
                && sequence != "[2J"
                && sequence != "[10A",
            "{what}: {sequence:?} in {said:?}"
        );
        rest = after;
    }
    let bad = |c: char| c == '\u{7}' || ('\u{80}'..'\u{a0}').contains(&c);
    assert!(!ours.contains(bad), "{what}: {said:?}");
    assert!(
        ours.contains("\\u{1b}") || ours.contains("\\x1b") || what == "runs",
        "{what} shows what was said: {said:?}"
    );
}

#[test]
fn what_programs_say_moves_nothing_on_a_terminal() {
    let dir = TestDir::new();
    let [go, here] = ["go", "here"].map(|name| dir.shared(name).display().to_string());
    let noisy = format!(
        "printf 'out {ESCAPES}\\n'; printf 'err {ESCAPES}\\n' >&2; printf 'pictor: note {ESCAPES} a\\n'; \
         printf 'pictor: progress 0.5 {ESCAPES} b\\n'; : > {here}; while [ ! -e {go} ]; do sleep 0.05; done"
    );
    let failing =
        format!("printf 'openjd_fail: {ESCAPES} c\\n'; printf 'last {ESCAPES}\\n'; exit 1");
    let naming = format!("mkdir out; : > \"out/$(printf '{ESCAPES}')\"");
    let step = |name: &str, script: &str, more: &str| {
        let script = serde_json::to_string(&script.replace('{', "{{").replace('}', "}}")).unwrap();
        format!("- {{ name: {name}, command: {{ run: [bash, -c, {script}]{more} }} }}\n")
    };
    let steps = [
        step("noisy", &noisy, ""),
        step("failing", &failing, ""),
        step("naming", &naming, ", outputs: { out: out }"),
    ];
    dir.write("job.yaml", &format!("pictor: v1\nname: loud\nsteps:\n{}", steps.concat()));
    let run = dir.on_terminal(200, "run job.yaml --out out --slots 3");
    until("the program runs", || dir.shared("here").exists());
    let id = dir.json(&["runs"])["id"].as_str().unwrap().to_owned();
    until("its progress is known", || {
        dir.ok(&["tasks", &id]).out.contains("\\u{1b}")
            && dir.ok(&["show", &id]).out.contains("failed:")
    });
    let watch = dir.on_terminal(200, &format!("show {id} --watch"));
    for command in ["show", "tasks"] {
        let said = dir.on_terminal(200, &format!("{command} {id}")).finish();
        assert_plain(&said.out, command);
    }
    std::fs::write(dir.shared("go"), "").unwrap();
    assert_plain(&run.finish().out, "run");
    assert_plain(&watch.finish().out, "watch");
    for command in
        ["runs", "show ID", "tasks ID", "logs ID noisy", "logs ID failing", "logs ID naming"]
    {
        let said = dir.on_terminal(200, &command.replace("ID", &id)).finish();
        assert_plain(&said.out, command);
    }
    // A job file may hold them as well.
    dir.write(
        "job.yaml",
        "pictor: v1\nname: \"a\\e[2J\"\nsteps:\n- { name: \"b\\e]52;c;eA==\\a\", nop: {} }\n",
    );
    let said = dir.on_terminal(200, "run job.yaml --out out").finish();
    assert!(!said.out.contains(['\u{1b}', '\u{7}']), "{said}");
}
