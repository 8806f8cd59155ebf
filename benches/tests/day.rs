//! A small farm's day keeps the rules of a large one's: slots are used, nobody is starved, everything ends.

use pictor_benches::day::{Scenario, simulate};

#[test]
fn a_day_of_a_small_farm_uses_its_slots_and_starves_nobody() {
    let scenario = Scenario { seed: 16, machines: 100, runs: 500, accounts: 10, hours: 1 };
    let mut hours = Vec::new();
    let summary = simulate(&scenario, |hour| hours.push(*hour));
    assert_eq!(summary.ended.iter().sum::<u32>(), 500);
    let [hour] = &*hours else { panic!("{hours:?}") };
    // Less than on a large farm, as one long task weighs more.
    assert!(hour.work.done * 100 > hour.work.ideal * 90, "{hour:?}");
    assert!(hour.work.done <= hour.work.ideal, "{hour:?}");
    let shares = summary.shares.shares();
    assert_eq!(shares.len(), 10);
    assert!(shares.median() > 0.5, "{shares:?}");
    // Tasks take up to twenty minutes.
    let without = summary.shares.longest_without();
    assert!(without.max() < 600.0, "{without:?}");
}
