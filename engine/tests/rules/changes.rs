//! Changes to the settings of an existing run: folded like everything else, and passed on to workers.

use super::bench::Bench;
use pictor_engine::{RunState, TaskState};
use pictor_tasks::body::{Body, OnError};
use pictor_tasks::history::{Changes, Event, ResetTasks};
use pictor_tasks::message::FailureKind;
use pictor_tasks::units::Millis;

#[test]
fn a_changed_setting_goes_for_all_steps_and_for_whoever_folds_again() {
    let mut bench = Bench::new(
        "
retry: { attempts: 1 }
steps:
  - { name: one, timeout: 1h, noop: {} }
  - { name: two, needs: [one], noop: {} }
",
    );
    bench.fail("one", FailureKind::Failed);
    assert_eq!(bench.run_state(), RunState::Failed);
    bench.control(Event::Changed(Changes {
        attempts: Some(2),
        backoff: Some(Millis(0)),
        timeout: Some(Millis(60_000)),
        priority: Some(9),
        reset: vec![ResetTasks { step: 0, tasks: vec![0] }],
        ..Changes::default()
    }));
    bench.check_recovery();
    bench.turn();
    assert_eq!(bench.given("one").assignment.brief.timeout, Some(Millis(60_000)));
    bench.fail("one", FailureKind::Failed);
    assert_ne!(bench.state("one"), TaskState::Failed, "there is another try");
    bench.turn();
    bench.succeed("one");
    bench.finish();
    assert_eq!(bench.run_state(), RunState::Succeeded);
    bench.check_recovery();
}

#[test]
fn on_error_goes_for_all_that_the_macro_made() {
    let mut bench = Bench::new("upscale: { input: clip.mp4, model: m }\n");
    let all = |bench: &Bench| -> Vec<bool> {
        let steps = bench.run().plan().steps.iter();
        let lenient = |body: &Body| match body {
            Body::Upscale(upscale) => Some(upscale.on_error == OnError::Copy),
            Body::Stitch(stitch) => Some(stitch.on_error == OnError::Copy),
            Body::Encode(encode) => Some(encode.allow_gaps),
            _ => None,
        };
        steps.filter_map(|step| lenient(&step.body)).collect()
    };
    assert_eq!(all(&bench), [false; 3]);
    let change =
        |on_error| Event::Changed(Changes { on_error: Some(on_error), ..Changes::default() });
    bench.control(change(OnError::Copy));
    assert_eq!(all(&bench), [true; 3]);
    bench.check_recovery();
    bench.control(change(OnError::Fail));
    assert_eq!(all(&bench), [false; 3]);
    let other = Bench::new("steps: [{ name: one, noop: {} }]\n");
    let changes = Changes { on_error: Some(OnError::Copy), ..Changes::default() };
    assert!(
        other.run().lacks_settings(&changes).is_some_and(|why| why.contains("upscales nothing"))
    );
    assert_eq!(bench.run().lacks_settings(&changes), None);
}
