//! The producers in `docs/clients`, in each language the same: they do on a
//! real broker, with real workers, what `docs/producers.md` tells of them.
//!
//! Where a language can't be run, its tests fail. `ops/test` leaves them out
//! on such a machine, and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod behaviour;
mod golden;
pub mod program;
pub mod scripted;

macro_rules! tests_in {
    ($module:ident, $language:ident) => {
        mod $module {
            use super::behaviour;
            use super::program::Language::$language;

            #[tokio::test]
            async fn ten_lines_enqueue_a_turn() {
                $language.build();
                behaviour::ten_lines_enqueue_a_turn($language).await;
            }

            #[tokio::test]
            async fn two_prompts_are_one_conversation() {
                $language.build();
                behaviour::two_prompts_are_one_conversation($language).await;
            }

            #[tokio::test]
            async fn ctrl_c_cancels_the_turn() {
                $language.build();
                behaviour::ctrl_c_cancels_the_turn($language).await;
            }

            #[tokio::test]
            async fn a_cancel_that_no_worker_hears_is_reported_and_repeated() {
                $language.build();
                behaviour::a_cancel_that_no_worker_hears($language).await;
            }

            #[tokio::test]
            async fn a_connection_lost_in_mid_turn_loses_nothing_and_repeats_nothing() {
                $language.build();
                behaviour::a_connection_lost_in_mid_turn($language).await;
            }

            #[tokio::test]
            async fn g6_a_worker_killed_in_mid_turn_shows_as_a_second_attempt() {
                $language.build();
                behaviour::a_worker_killed_in_mid_turn($language).await;
            }

            #[tokio::test]
            async fn who_comes_late_reads_the_turn_from_the_log_and_follows_it() {
                $language.build();
                behaviour::who_comes_late($language).await;
            }

            #[tokio::test]
            async fn a_refusal_is_shown_with_its_code_and_message() {
                $language.build();
                behaviour::a_refusal($language).await;
            }

            #[tokio::test]
            async fn g5_each_event_counts_once_and_a_new_attempt_starts_over() {
                $language.build();
                behaviour::the_rules_of_reading($language).await;
            }

            #[tokio::test]
            async fn g5_a_forged_answer_is_not_shown() {
                $language.build();
                behaviour::a_forged_answer($language).await;
            }

            #[tokio::test]
            async fn g5_a_forged_answer_in_the_log_is_not_shown() {
                $language.build();
                behaviour::a_forged_answer_in_the_log($language).await;
            }

            #[tokio::test]
            async fn the_contracts_turns_are_shown_as_they_are_to_be_read() {
                $language.build();
                behaviour::the_contracts_turns($language).await;
            }
        }
    };
}

tests_in!(python, Python);
tests_in!(typescript, TypeScript);
tests_in!(go, Go);
tests_in!(java, Java);
