//! Which tokens a turn reports (G7). The stand-in reports the thread's
//! running total, as codex does: 100, 40 and 20 for each answer, of which a
//! turn has one more than it says things. It has no records to look them up in.

use std::fs;

use crate::support::engine::is_exec;
use crate::support::host::Host;

const ANSWER: [u64; 3] = [100, 40, 20];

fn answers(count: u64) -> Option<[u64; 3]> {
    Some(ANSWER.map(|each| each * count))
}

#[test]
fn g7_each_of_three_turns_of_a_thread_reports_its_own_tokens() {
    let host = Host::new();
    assert_eq!(host.run("a", "t\nsay 1").usage(), answers(2));
    assert_eq!(host.run("a", "u\nsay 1\nsay 2\nsay 3").usage(), answers(4));
    assert_eq!(host.run("a", "v").usage(), answers(1));
    // The total it got is the sum of all.
    let thread = fs::read_to_string(host.session_file("a")).unwrap();
    let total = fs::read_to_string(host.stand_in_file("threads").join(thread.trim())).unwrap();
    assert!(total.starts_with("[700,"), "{total}");
}

#[test]
fn g7_a_turn_on_a_thread_with_an_unknown_past_reports_no_usage_and_the_next_does() {
    let host = Host::new();
    let thread = "01a201f5-61c9-7403-9850-cc317d92e3b1";
    let threads = host.stand_in_file("threads");
    fs::create_dir_all(&threads).unwrap();
    fs::write(threads.join(thread), "[5000,4000,0,300,0]").unwrap();
    fs::create_dir_all(host.workspace("a")).unwrap();
    fs::write(host.session_file("a"), thread).unwrap();

    let first = host.run("a", "t\nsay hi");
    first.assert_end_turn();
    assert_eq!(first.thread(), thread);
    if is_exec() {
        assert_eq!(first.usage(), None);
        assert_eq!(first.notices(), ["codex.usage_unknown"]);
    } else {
        // It reports the total of a thread that it loads.
        assert_eq!(first.usage(), answers(2));
        assert_eq!(first.notices(), [""; 0]);
    }
    let second = host.run("a", "u\nsay hi");
    assert_eq!(second.usage(), answers(2));
    assert_eq!(second.notices(), [""; 0]);
}

/// Whether codex took a cut-off turn's tokens into its total can't be known
/// without its records, so the turn after it has no base to count from.
#[test]
fn g7_what_codex_never_reported_is_absent_and_counted_with_no_later_turn() {
    for cut_off in ["say 2\nfail no", "say 2\ndie", "say 2\nexit 0"] {
        let host = Host::new();
        host.run("a", "t\nsay 1").assert_end_turn();
        let cut_off = host.run("a", &format!("u\n{cut_off}"));
        let next = host.run("a", "v\nsay 3");
        if is_exec() {
            assert_eq!((cut_off.usage(), next.usage()), (None, None));
            assert_eq!(next.notices(), ["codex.usage_unknown"]);
        } else {
            // It reports what each answer took, and the total of a thread that it loads.
            assert_eq!((cut_off.usage(), next.usage()), (answers(1), answers(2)));
            assert_eq!(next.notices(), [""; 0]);
        }
        assert_eq!(host.run("a", "w\nsay 4").usage(), answers(2));
    }
}

#[test]
fn g7_after_the_worker_died_the_next_turn_reports_its_own_tokens() {
    let host = Host::new();
    host.run("a", "t\nsay 1").assert_end_turn();
    for turn in ["u", "v"] {
        let mut running = host.start("a", &format!("{turn}\nsay ready\nhang"));
        running.said("ready");
        running.kill();
        host.unlocked("a", &[]);
    }
    assert_eq!(host.run("a", "w\nsay 2").usage(), answers(2));
}
