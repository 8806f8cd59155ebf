//! A long time of schedules, with a clock that goes from due time to due time.

use crate::farm::{Base, ms, schedule, set};
use pictor_server::schedule::Timetable;
use std::collections::BTreeMap;

pub(crate) async fn a_year_in_four_zones_has_one_run_for_each_day(base: &Base) {
    let zones = [
        ("berlin", "Europe/Berlin"),
        ("boston", "America/New_York"),
        ("howe", "Australia/Lord_Howe"),
        ("utc", "UTC"),
    ];
    // With Postgres the whole year takes a minute: without `make soak` only the two months in which clocks change.
    let whole = !base.is_postgres() || std::env::var_os("PICTOR_SOAK").is_some();
    let (start, end) = if whole {
        (ms("2026-01-01T12:00:00Z"), ms("2027-01-01T12:00:00Z"))
    } else {
        (ms("2026-02-20T12:00:00Z"), ms("2026-04-20T12:00:00Z"))
    };
    set(start);
    let (mut runner, owner) = base.runner().await;
    let schedules = base.schedules();
    for (name, zone) in zones {
        schedules.add(&schedule(name, "15 2 * * *", zone), "ada").await.unwrap();
    }
    let mut now_ms = start;
    while now_ms < end {
        set(now_ms);
        let next = runner.step(now_ms).await.unwrap();
        base.end_all(&owner).await;
        now_ms = next.wake_ms.unwrap();
    }
    let runs = base.runs().await;
    let days = usize::try_from((end - start) / 86_400_000).unwrap();
    assert_eq!(runs.len(), 4 * days);
    for (name, zone) in zones {
        let table = Timetable::parse("15 2 * * *", zone).unwrap();
        let due: Vec<i64> = table.after(start).take_while(|due| *due < end).collect();
        let mut due_times = base.registry.due_times(name, 1000).await.unwrap();
        due_times.reverse();
        assert!(due_times.iter().all(|due| due.outcome.name() == "started"), "{name}");
        assert_eq!(due_times.iter().map(|due| due.due_ms).collect::<Vec<_>>(), due, "{name}");
        let started: Vec<_> = due_times.into_iter().map(|due| due.run.unwrap()).collect();
        let mine = runs.iter().filter(|run| run.id.0.starts_with(name));
        assert_eq!(mine.map(|run| run.id.clone()).collect::<Vec<_>>(), started, "{name}");
    }
    // Each run started when it was due.
    let made: Vec<i64> = runs.iter().map(|run| run.created_ms).collect();
    let mut due: Vec<i64> = Vec::new();
    for (name, _) in zones {
        due.extend(base.registry.due_times(name, 1000).await.unwrap().iter().map(|due| due.due_ms));
    }
    due.sort_unstable();
    assert_eq!(made, due);
}

pub(crate) async fn hourly_runs_pass_both_nights_with_two_servers_at_once(base: &Base) {
    let other = base.other().await;
    let nights = [
        ("2026-03-28T22:00:00Z", "2026-03-29T06:00:00Z"),
        ("2026-10-24T22:00:00Z", "2026-10-25T06:00:00Z"),
    ];
    set(ms(nights[0].0));
    let new = schedule("hourly", "0,30 * * * *", "Europe/Berlin");
    base.schedules().add(&new, "ada").await.unwrap();
    let mut expected = BTreeMap::new();
    for (start, end) in nights {
        let (start, end) = (ms(start), ms(end));
        set(start);
        base.schedules().replace(&new, "ada").await.unwrap();
        let ((mut first, owner), (mut second, _)) = (base.runner().await, other.runner().await);
        let mut now_ms = start;
        while now_ms <= end {
            set(now_ms);
            let (one, two) = tokio::join!(first.step(now_ms), second.step(now_ms));
            assert_eq!(one.unwrap().wake_ms, two.unwrap().wake_ms);
            for run in base.going().await {
                // It may have been stored by the other server, whose owner loop does not own the farm.
                let loaded = pictor_server::load_run(
                    &*base.store,
                    &run,
                    &pictor_engine::RunLimits::default(),
                )
                .await
                .unwrap();
                owner.add(loaded, "ada".into(), now_ms).await.unwrap();
            }
            base.end_all(&owner).await;
            if now_ms > start {
                *expected.entry(now_ms).or_default() += 1;
            }
            now_ms += 30 * 60_000;
        }
    }
    let mut made: BTreeMap<i64, i32> = BTreeMap::new();
    for run in base.runs().await {
        *made.entry(run.created_ms).or_default() += 1;
    }
    assert_eq!(made, expected, "every half hour of both nights, once");
    assert_eq!(made.len(), 2 * 16);
}
