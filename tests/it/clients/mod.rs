//! The producers in `docs/clients`, in each language the same: they do on a
//! real broker, with real workers, what `docs/producers.md` promises of them.
//! They are small programs on top of the client library of their language, so
//! that this tests the library.
//!
//! Where a language can't be run, its tests fail. `ops/test` leaves them out
//! on such a machine, and says so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod behaviour;
mod golden;
pub mod program;
pub mod scripted;

macro_rules! tests_in {
    ($language:ident) => {
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
        async fn a_connection_lost_in_mid_turn_neither_loses_nor_repeats_events() {
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
    };
}

macro_rules! library_tests_in {
    ($language:ident) => {
        /// What needs no broker: the examples of the contract, among others.
        #[test]
        fn the_library_passes_its_own_tests() {
            $language.build();
            $language.test_library();
        }

        #[tokio::test]
        async fn a_broker_that_was_away_and_lost_the_queue_loses_no_answer() {
            $language.build();
            behaviour::a_broker_that_was_away($language).await;
        }

        #[tokio::test]
        async fn g8_only_a_broker_with_the_certificate_of_its_host_is_trusted() {
            $language.build();
            behaviour::a_broker_with_tls($language).await;
        }

        #[tokio::test]
        async fn many_turns_at_a_time_and_a_slow_reader() {
            $language.build();
            behaviour::a_service($language).await;
        }

        #[tokio::test]
        async fn what_is_left_is_cancelled_and_what_is_sent_again_runs_once() {
            $language.build();
            behaviour::what_a_service_does_with_its_turns($language).await;
        }

        #[tokio::test]
        async fn a_process_that_is_restarted_reads_on() {
            $language.build();
            behaviour::a_process_that_is_restarted($language).await;
        }

        #[tokio::test]
        async fn g5_ends_come_by_reply_and_each_turn_is_found_where_it_is() {
            $language.build();
            behaviour::what_a_service_asks($language).await;
        }
    };
}

/// All languages in one test, since a broker takes a while to restart.
#[tokio::test]
async fn a_restart_of_the_broker_loses_no_answer() {
    let languages = program::Language::all_that_run();
    for language in &languages {
        language.build();
    }
    behaviour::a_broker_that_restarts(&languages).await;
}

mod python {
    tests_in!(Python);
    library_tests_in!(Python);
}

mod typescript {
    tests_in!(TypeScript);
    library_tests_in!(TypeScript);

    #[tokio::test]
    async fn the_chat_page_streams_resumes_and_cancels() {
        TypeScript.build();
        behaviour::the_chat_page().await;
    }

    #[tokio::test]
    async fn the_chat_page_works_in_a_browser() {
        TypeScript.build();
        behaviour::the_chat_page_in_a_browser().await;
    }
}

mod go {
    tests_in!(Go);
    library_tests_in!(Go);
}

mod java {
    tests_in!(Java);
    library_tests_in!(Java);
}
