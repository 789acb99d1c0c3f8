//! The event log: kept where it is wanted, without holding turns up.

use crate::support::broker::Broker;
use crate::support::pool::{Pool, turn};

const ON: (&str, &str) = ("EVENT_LOG", "on");

/// What a broker with damaged disks has: a stream that never confirms.
const BREAK_LOG: &str = "
    {ok, Base} = application:get_env(osiris, data_dir),
    [begin Dir = filename:join(Base, Id), ok = file:rename(Dir, Dir ++ \".gone\"),
           ok = file:write_file(Dir, <<>>), exit(Pid, kill)
     end || {Pid, {Id, _}} <- maps:to_list(element(3, rabbit_stream_coordinator:state())), is_list(Id)].";

/// Guards `LogKeeper`, and the alarm that the outbox rings. Takes as long as
/// a confirm may take, and some.
#[tokio::test]
async fn g5_an_event_log_that_breaks_holds_no_turn_up() {
    // The broker goes on trying to start the stream again, by which it keeps a core busy.
    let broker = Broker::private();
    let mut pool = Pool::on(&broker.url(), 1, &[ON]).await;
    pool.enqueue(&[turn("t1", "a", &["say one"])]).await;
    pool.events.ended("t1").await;
    pool.idle().await;
    assert_eq!(broker.ctl(&["eval", BREAK_LOG]).trim(), "[true]");
    pool.enqueue(&[turn("t2", "a", &["say two"]), turn("t3", "a", &[])])
        .await;
    pool.process(0)
        .logged("the event log is broken and unbound: turns go on without it")
        .await;
    pool.events.all_ended(["t2", "t3"]).await;
    pool.idle().await;
    pool.stop().await;
}

/// Guards `Topology::keep_log` at the start: what is there is left as it is.
#[tokio::test]
async fn an_event_log_with_other_arguments_is_reported_and_stops_no_turn() {
    let url = Broker::vhost();
    let mut pool = Pool::on(&url, 1, &[ON, ("EVENT_LOG_MAX_AGE", "1h")]).await;
    let other = pool.spawn(&[("EVENT_LOG_MAX_AGE", "2h")]);
    pool.process(other)
        .logged("the event log can't be had as the settings want it: turns go on without")
        .await;
    let lines = pool.process(other).log_lines();
    let error = lines
        .iter()
        .find_map(|line| line["error"].as_str())
        .unwrap();
    // Newer brokers report milliseconds.
    assert!(
        error.contains("exists with another x-max-age: it has 3600")
            && error.contains("wanted is 7200"),
        "{error}"
    );
    pool.process(other).ready().await;
    pool.enqueue(&[turn("t1", "a", &[])]).await;
    pool.events.ended("t1").await;
    pool.stop().await;
}
