//! One suite for both databases, and tests of what only one of them can do.

#![expect(clippy::unwrap_used, reason = "these are tests, but not all marked as such")]

mod suite;

use suite::{history, postgres, registry, runs};

/// Makes two tests of each function: with `SQLite` and with Postgres.
macro_rules! conformance {
    ($($module:ident($part:ident): $($name:ident)*;)*) => {
        mod on_sqlite {$($(
            #[tokio::test]
            async fn $name() {
                let dir = tempfile::TempDir::new().unwrap();
                let stores = super::suite::open(dir.path().to_str().unwrap()).await;
                super::$module::$name(stores.$part()).await;
            }
        )*)*}
        mod on_postgres {$($(
            #[tokio::test]
            async fn $name() {
                let stores = super::suite::open(&super::postgres::database()).await;
                super::$module::$name(stores.$part()).await;
            }
        )*)*}
    };
}

conformance! {
    history(store):
        every_kind_of_row_comes_back_as_it_was
        rows_come_back_in_order_whatever_their_commits
        the_same_rows_again_change_nothing
        another_row_in_the_same_place_is_an_error
        a_gap_or_a_step_back_in_time_is_refused
        a_control_message_is_kept_once
        one_bad_run_keeps_the_whole_batch_out
        a_big_batch_comes_back;
    runs(store):
        runs_are_listed_and_found_by_prefix
        runs_are_filtered_by_state_owner_and_name
        unfinished_runs_are_read_from_a_run_on
        a_run_is_kept_as_it_was_created
        a_submission_happens_once_under_its_key
        a_text_that_cannot_be_stored_is_the_callers_mistake
        a_run_that_has_ended_is_removed_with_everything
        rejected_messages_are_kept
        each_owner_has_a_higher_epoch_and_the_same_key
        a_closed_store_says_so;
    registry(registry):
        a_token_is_kept_until_it_is_revoked
        a_worker_that_registers_again_is_the_same_worker
        the_audit_log_is_read_backwards_in_pages
        the_audit_log_forgets_what_is_old_and_what_is_too_much
        machines_are_found_by_the_token_they_enrolled_with
        an_account_knows_what_it_has_uploaded
        a_schedule_belongs_to_its_account
        a_message_is_due_until_it_is_delivered;
    registry(both):
        what_is_long_over_is_forgotten
        a_due_time_starts_one_run;
}
