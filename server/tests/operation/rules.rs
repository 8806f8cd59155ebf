//! Overlaps, missed times, jitter, pauses, triggers: the outcomes of due times.

use crate::farm::{Base, JOB, cancel, due_times, ms, now, schedule, set, with};
use pictor_api::NewSchedule;
use pictor_server::ServerRole;
use pictor_server::schedule::ScheduleError;
use tokio::sync::watch;

const START: &str = "2026-06-01T00:00:00Z";
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// Adds a schedule of every ten minutes when the clock shows `START`.
async fn every_ten(base: &Base, rules: &[(&str, &str)]) -> i64 {
    let start = ms(START);
    set(start);
    let new = with(&schedule("ten", "*/10 * * * *", "UTC"), rules);
    base.schedules().add(&new, "ada").await.unwrap();
    start
}

fn list(due_times: &[(i64, &str)]) -> Vec<(i64, String)> {
    due_times.iter().map(|(minute, outcome)| (*minute, (*outcome).to_owned())).collect()
}

pub(crate) async fn a_due_time_is_passed_over_while_an_earlier_run_is_going(base: &Base) {
    let start = every_ten(base, &[("overlap", "skip")]).await;
    let (mut runner, owner) = base.runner().await;
    for minute in [10, 20, 30] {
        runner.step(start + minute * MINUTE).await.unwrap();
    }
    base.end_all(&owner).await;
    runner.step(start + 40 * MINUTE).await.unwrap();
    let expected = [(10, "started"), (20, "skipped"), (30, "skipped"), (40, "started")];
    assert_eq!(due_times(base, "ten", start).await, list(&expected));
    assert_eq!(base.runs().await.len(), 2);
}

pub(crate) async fn a_run_waits_until_the_earlier_one_has_ended_and_only_one_does(base: &Base) {
    let start = every_ten(base, &[("overlap", "queue")]).await;
    let (mut runner, owner) = base.runner().await;
    for minute in [10, 20, 30] {
        runner.step(start + minute * MINUTE).await.unwrap();
    }
    let expected = [(10, "started"), (20, "queued"), (30, "skipped")];
    assert_eq!(due_times(base, "ten", start).await, list(&expected));
    assert_eq!(base.runs().await.len(), 1);
    let waits = runner.step(start + 31 * MINUTE).await.unwrap();
    assert!(waits.waits && waits.wake_ms == Some(start + 40 * MINUTE), "{waits:?}");

    base.end_all(&owner).await;
    // Another server takes over: it knows that a run is queued.
    let (mut runner, owner) = base.runner().await;
    runner.step(start + 32 * MINUTE).await.unwrap();
    let expected = [(10, "started"), (20, "started"), (30, "skipped")];
    assert_eq!(due_times(base, "ten", start).await, list(&expected));
    let runs = base.runs().await;
    assert_eq!(runs.len(), 2);
    assert!(runs[1].id.0.starts_with("ten-20260601t002000-"), "{}", runs[1].id);
    assert!(owner.has_run(&runs[1].id).await.unwrap());
    let idle = runner.step(start + 33 * MINUTE).await.unwrap();
    assert!(!idle.waits);
}

pub(crate) async fn a_new_run_takes_the_place_of_the_one_that_is_going(base: &Base) {
    let start = every_ten(base, &[("overlap", "replace")]).await;
    let (mut runner, _owner) = base.runner().await;
    for minute in [10, 20, 30] {
        runner.step(start + minute * MINUTE).await.unwrap();
    }
    let expected = [(10, "started"), (20, "replaced"), (30, "replaced")];
    assert_eq!(due_times(base, "ten", start).await, list(&expected));
    let states: Vec<String> =
        base.runs().await.into_iter().map(|run| run.state.name().to_owned()).collect();
    assert_eq!(states, ["cancelled", "cancelled", "running"]);
}

pub(crate) async fn times_that_were_missed_are_made_up_for_as_the_schedule_says(base: &Base) {
    let start = ms(START);
    set(start);
    let hourly = |name: &str, overlap, catch_up| {
        with(&schedule(name, "@hourly", "UTC"), &[("overlap", overlap), ("catch_up", catch_up)])
    };
    let schedules = base.schedules();
    for new in [
        hourly("none", "skip", "none"),
        hourly("one", "skip", "one"),
        hourly("all", "skip", "all"),
        hourly("last", "replace", "all"),
    ] {
        schedules.add(&new, "ada").await.unwrap();
    }
    // No server was running for four and a half hours.
    let mut now_ms = start + 4 * HOUR + 30 * MINUTE;
    set(now_ms);
    let (mut runner, owner) = base.runner().await;
    runner.step(now_ms).await.unwrap();
    assert_eq!(due_times(base, "none", start).await, list(&[(240, "skipped")]));
    assert_eq!(due_times(base, "one", start).await, list(&[(240, "started")]));
    assert_eq!(due_times(base, "last", start).await, list(&[(240, "started")]));
    let waits = [(60, "started"), (120, "queued"), (180, "queued"), (240, "queued")];
    assert_eq!(due_times(base, "all", start).await, list(&waits));

    // They run one after the other; times that are due meanwhile are not missed but follow `overlap`.
    for _ in 0..2 {
        base.end_all(&owner).await;
        now_ms += MINUTE;
        runner.step(now_ms).await.unwrap();
    }
    now_ms = start + 5 * HOUR;
    runner.step(now_ms).await.unwrap();
    for _ in 0..2 {
        base.end_all(&owner).await;
        now_ms += MINUTE;
        runner.step(now_ms).await.unwrap();
    }
    let done =
        [(60, "started"), (120, "started"), (180, "started"), (240, "started"), (300, "skipped")];
    assert_eq!(due_times(base, "all", start).await, list(&done));
    assert_eq!(due_times(base, "none", start).await, list(&[(240, "skipped"), (300, "started")]));

    // A month later it is the last hundred.
    base.end_all(&owner).await;
    runner.step(start + 30 * 24 * HOUR + 30 * MINUTE).await.unwrap();
    let all = due_times(base, "all", start).await;
    assert_eq!(all.len(), done.len() + 100);
    assert_eq!(all[done.len()], ((30 * 24 - 99) * 60, "started".to_owned()));
    assert!(all[done.len() + 1..].iter().all(|(_, outcome)| outcome == "queued"));
}

pub(crate) async fn a_clock_that_jumps_starts_nothing_twice(base: &Base) {
    let start = every_ten(base, &[("catch_up", "none")]).await;
    let (mut runner, owner) = base.runner().await;
    let at = async |runner: &mut pictor_server::schedule::Runner, minute: i64| {
        set(start + minute * MINUTE);
        let next = runner.step(start + minute * MINUTE).await.unwrap();
        base.end_all(&owner).await;
        (next.wake_ms.unwrap() - start) / MINUTE
    };
    assert_eq!(at(&mut runner, 10).await, 20);
    assert_eq!(at(&mut runner, 20).await, 30);
    // Back by a quarter of an hour: what is due again has been handled.
    assert_eq!(at(&mut runner, 5).await, 10);
    assert_eq!(at(&mut runner, 10).await, 20);
    // A server that starts just then does not start it again either.
    let (mut fresh, _) = base.runner().await;
    assert_eq!(at(&mut fresh, 20).await, 30);
    assert_eq!(at(&mut runner, 20).await, 30);
    assert_eq!(at(&mut runner, 30).await, 40);
    // Forward by a year: what lies between was missed. Back again: the schedule continues at once.
    let year = 365 * 24 * 60;
    assert_eq!(at(&mut runner, year + 10).await, year + 20);
    assert_eq!(at(&mut runner, 35).await, 40);
    assert_eq!(at(&mut runner, 40).await, 50);
    assert_eq!(at(&mut runner, 50).await, 60);
    let minutes: Vec<i64> = due_times(base, "ten", start).await.iter().map(|due| due.0).collect();
    assert_eq!(minutes, [10, 20, 30, 40, 50, year + 10]);
    assert_eq!(base.runs().await.len(), 6);
}

pub(crate) async fn jitter_delays_each_run_by_the_same_time_on_every_server(base: &Base) {
    let start = every_ten(base, &[("jitter", "5m")]).await;
    let other = base.other().await;
    let ((mut one, owner), (mut two, _)) = (base.runner().await, other.runner().await);
    let mut wakes = Vec::new();
    let mut now_ms = start;
    for _ in 0..20 {
        let next = one.step(now_ms).await.unwrap().wake_ms;
        assert_eq!(next, two.step(now_ms).await.unwrap().wake_ms);
        now_ms = next.unwrap();
        let before = base.runs().await.len();
        one.step(now_ms - 1).await.unwrap();
        assert_eq!(base.runs().await.len(), before, "not before its time");
        set(now_ms);
        one.step(now_ms).await.unwrap();
        assert_eq!(base.runs().await.len(), before + 1);
        base.end_all(&owner).await;
        wakes.push(now_ms - start);
    }
    let delays: Vec<i64> =
        wakes.iter().zip(1..).map(|(wake, n): (_, i64)| wake - n * 10 * MINUTE).collect();
    assert!(delays.iter().all(|delay| (0..=5 * MINUTE).contains(delay)), "{delays:?}");
    assert!(delays.iter().max() > Some(&(2 * MINUTE)), "{delays:?}");
    // The due times themselves have no jitter.
    let minutes: Vec<i64> = due_times(base, "ten", start).await.iter().map(|due| due.0).collect();
    assert_eq!(minutes, (1..=20).map(|n| n * 10).collect::<Vec<_>>());
}

pub(crate) async fn what_was_due_while_a_schedule_was_paused_is_passed_over(base: &Base) {
    let start = every_ten(base, &[("catch_up", "all")]).await;
    let schedules = base.schedules();
    let (mut runner, _owner) = base.runner().await;
    let paused = schedules.pause("ten").await.unwrap();
    assert!(paused.schedule.paused && paused.schedule.next_ms.is_empty());
    for minute in [10, 20, 35] {
        set(start + minute * MINUTE);
        assert_eq!(runner.step(now()).await.unwrap().wake_ms, None);
    }
    let resumed = schedules.resume("ten").await.unwrap();
    assert_eq!(resumed.schedule.next_ms[0], start + 40 * MINUTE);
    runner.step(now()).await.unwrap();
    assert_eq!(due_times(base, "ten", start).await, list(&[(30, "skipped")]));
    runner.step(start + 40 * MINUTE).await.unwrap();
    assert_eq!(due_times(base, "ten", start).await, list(&[(30, "skipped"), (40, "started")]));
    schedules.remove("ten").await.unwrap();
    assert_eq!(runner.step(start + HOUR).await.unwrap().wake_ms, None);
    assert_eq!(base.going().await.len(), 1, "what it has started goes on");
    let gone = schedules.pause("ten").await.unwrap_err();
    assert!(matches!(gone, ScheduleError::NoSchedule(_)), "{gone}");
}

pub(crate) async fn a_schedule_that_is_started_by_hand_starts_once_a_second(base: &Base) {
    let start = every_ten(base, &[("overlap", "skip")]).await;
    let schedules = base.schedules();
    let (mut runner, owner) = base.runner().await;
    set(start + 3 * MINUTE + 200);
    let first = schedules.trigger("ten").await.unwrap();
    assert_eq!((first.due_ms, first.outcome.as_str()), (start + 3 * MINUTE, "started"));
    let again = schedules.trigger("ten").await.unwrap_err();
    assert!(matches!(again, ScheduleError::Going(_)), "{again}");
    assert!(again.to_string().contains(&first.run), "{again}");
    let run = base.going().await.pop().unwrap();
    assert_eq!(run.0.as_ref(), first.run);
    // The owner finds it like every run that it was not told of.
    let loaded = pictor_server::load_run(&*base.store, &run, &pictor_engine::RunLimits::default())
        .await
        .unwrap();
    owner.add(loaded, "ada".into(), now()).await.unwrap();
    cancel(&owner, &run).await;
    let twice = schedules.trigger("ten").await.unwrap();
    assert_eq!(twice, first, "a double click is one run");
    runner.step(start + 10 * MINUTE).await.unwrap();
    assert_eq!(due_times(base, "ten", start).await, list(&[(3, "started"), (10, "started")]));
    // With `queue` it is queued, with `replace` it replaces the unfinished run.
    let ten = |overlap| with(&schedule("ten", "*/10 * * * *", "UTC"), &[("overlap", overlap)]);
    set(start + 11 * MINUTE);
    schedules.replace(&ten("queue"), "ada").await.unwrap();
    assert_eq!(schedules.trigger("ten").await.unwrap().outcome, "queued");
    set(start + 12 * MINUTE);
    assert!(matches!(schedules.trigger("ten").await, Err(ScheduleError::Waits(_))));
    schedules.replace(&ten("replace"), "ada").await.unwrap();
    assert_eq!(schedules.trigger("ten").await.unwrap().outcome, "replaced");
    assert_eq!(base.going().await.len(), 2, "the new one is stored first");
    runner.step(now()).await.unwrap();
    assert_eq!(base.going().await.len(), 1);
}

pub(crate) async fn a_job_that_cannot_be_submitted_any_more_is_noted(base: &Base) {
    let start = every_ten(base, &[]).await;
    let mut stored = base.registry.schedule("ten").await.unwrap().unwrap();
    stored.job = serde_json::json!({ "text": "pictor: v1\nname: x\n" }).to_string();
    assert!(base.registry.put_schedule(&stored).await.unwrap());
    let fine = schedule("fine", "*/10 * * * *", "UTC");
    base.schedules().add(&fine, "ada").await.unwrap();
    let (mut runner, _owner) = base.runner().await;
    runner.step(start + 10 * MINUTE).await.unwrap();
    assert_eq!(due_times(base, "ten", start).await, list(&[(10, "failed")]));
    let rejected = base.store.rejected(1).await.unwrap();
    assert!(rejected[0].reason.starts_with("schedule `ten`: "), "{}", rejected[0].reason);
    assert_eq!(due_times(base, "fine", start).await, list(&[(10, "started")]), "others go on");
    assert_eq!(base.going().await.len(), 1);
}

pub(crate) async fn mistakes_in_a_schedule_say_what_is_allowed(base: &Base) {
    set(ms(START));
    let schedules = base.schedules();
    let good = schedule("good", "*/10 * * * *", "UTC");
    let told = async |new: &NewSchedule| schedules.add(new, "ada").await.unwrap_err().to_string();
    for (rule, word, part) in [
        ("name", "", "expected 1 to 64 characters"),
        ("name", "a/b", "may have letters, digits"),
        ("name", "-a", "a letter or digit first"),
        ("cron", "* *", "has 2 fields: expected five"),
        ("cron", "0 0 30 2 *", "is never due"),
        ("zone", "Mars/Base", "is not a time zone"),
        ("jitter", "soon", "expected a duration"),
        ("jitter", "10m", "less than the time between two due times (10m)"),
    ] {
        let text = told(&with(&good, &[(rule, word)])).await;
        assert!(text.contains(part), "{rule} {word}: {text}");
    }
    let mut bad = good.clone();
    bad.job.text = JOB.replace("noop", "nop");
    assert!(told(&bad).await.contains("nop"));
    JOB.clone_into(&mut bad.job.text);
    bad.job.assets.insert("a.blend".into(), "x".into());
    assert!(told(&bad).await.contains("64 hexadecimal digits"));
    assert!(schedules.list().await.unwrap().is_empty());

    let added = schedules.add(&good, "ada").await.unwrap();
    assert_eq!(added.schedule.next.len(), 5);
    assert_eq!(added.schedule.next[0], "2026-06-01T00:10:00+00:00");
    assert!(told(&good).await.contains("already"));
    let replaced = schedules.replace(&with(&good, &[("cron", "@daily")]), "bob").await.unwrap();
    assert_eq!((&*replaced.schedule.account, &*replaced.schedule.cron), ("ada", "@daily"));
    assert_eq!(schedules.list().await.unwrap().len(), 1);
    let shown = schedules.show("good").await.unwrap();
    assert_eq!(shown.job.text, JOB);
    assert!(schedules.show("none").await.is_err());
}

pub(crate) async fn a_schedule_that_changes_wakes_the_runner(base: &Base) {
    // Nothing is due for a day: the runner sleeps.
    let start = ms(START);
    set(start + MINUTE);
    let schedules = base.schedules();
    schedules.add(&schedule("daily", "@daily", "UTC"), "ada").await.unwrap();
    let owner = base.owner().await;
    let (role, watch) = watch::channel(ServerRole::Owner(owner.clone()));
    let runner = tokio::spawn({
        let schedules = schedules.clone();
        async move { schedules.run(watch).await }
    });
    tokio::task::yield_now().await;
    let new = with(&schedule("soon", "*/10 * * * *", "UTC"), &[("overlap", "replace")]);
    schedules.add(&new, "ada").await.unwrap();
    for minute in [10, 20] {
        set(start + minute * MINUTE);
        schedules.replace(&schedule("other", "@yearly", "UTC"), "ada").await.unwrap();
        let is_there = async || i64::try_from(base.runs().await.len()).unwrap() == minute / 10;
        while !is_there().await {
            tokio::task::yield_now().await;
        }
    }
    while base.going().await.len() != 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(due_times(base, "soon", start).await, list(&[(10, "started"), (20, "replaced")]));
    // A server that is no longer the owner leaves due times to the one that is.
    role.send_replace(ServerRole::Standby { owner: None });
    set(start + 30 * MINUTE);
    schedules.replace(&schedule("other", "@yearly", "UTC"), "ada").await.unwrap();
    drop(role);
    runner.await.unwrap();
    assert_eq!(base.runs().await.len(), 2);
}
