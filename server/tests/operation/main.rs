//! What keeps a farm running unattended, with real databases: schedules, webhooks, prune, backup.

#![expect(clippy::unwrap_used, reason = "these are tests, but not all marked as such")]

mod backup;
mod crash;
mod farm;
mod process;
mod prune;
mod rules;
mod sweep;
mod webhook;
mod year;

/// Makes two tests of each function: with `SQLite` and with Postgres.
macro_rules! on_both {
    ($($module:ident: $($name:ident)*;)*) => {
        mod on_sqlite {$($(
            #[tokio::test]
            async fn $name() {
                let base = super::farm::Base::sqlite().await;
                super::farm::in_time(super::$module::$name(&base)).await;
            }
        )*)*}
        mod on_postgres {$($(
            #[tokio::test]
            async fn $name() {
                let base = super::farm::Base::postgres().await;
                super::farm::in_time(super::$module::$name(&base)).await;
            }
        )*)*}
    };
}

on_both! {
    year:
        a_year_in_four_zones_has_one_run_for_each_day
        hourly_runs_pass_both_nights_with_two_servers_at_once;
    rules:
        a_due_time_is_passed_over_while_an_earlier_run_is_going
        a_run_waits_until_the_earlier_one_has_ended_and_only_one_does
        a_new_run_takes_the_place_of_the_one_that_is_going
        times_that_were_missed_are_made_up_for_as_the_schedule_says
        a_clock_that_jumps_starts_nothing_twice
        jitter_delays_each_run_by_the_same_time_on_every_server
        what_was_due_while_a_schedule_was_paused_is_passed_over
        a_schedule_that_is_started_by_hand_starts_once_a_second
        a_job_that_cannot_be_submitted_any_more_is_noted
        mistakes_in_a_schedule_say_what_is_allowed
        a_schedule_that_changes_wakes_the_runner;
    crash:
        a_crash_at_any_point_starts_each_run_once
        a_crash_while_a_run_is_replaced_leaves_one_run_going
        runs_that_cannot_be_read_hold_up_no_other;
    webhook:
        a_message_is_tried_until_it_is_taken
        an_end_that_was_committed_just_before_a_crash_is_told_once
        a_takeover_tells_nothing_twice
        a_lost_worker_is_told_once_until_it_is_seen_again
        messages_that_nobody_wants_are_given_up
        a_hook_that_hangs_holds_up_no_other;
    prune:
        old_runs_go_with_their_bytes_and_an_archive_is_kept
        a_dry_run_counts_and_removes_nothing
        a_crash_at_any_point_leaves_no_history_without_its_bytes
        assets_that_nothing_uses_go_after_a_while;
    sweep:
        what_nobody_reads_any_more_is_deleted
        whoever_takes_over_deletes_what_was_to_be_deleted
        a_crash_at_any_point_of_a_deletion_leaves_nothing_for_ever;
    backup:
        a_backup_of_a_farm_at_work_is_restored_and_finishes_with_the_same_results;
}
