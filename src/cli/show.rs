//! `turn-worker show`: one turn.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use turn_worker::config::{Settings, parse_duration};
use turn_worker::error::with_sources;
use turn_worker::event::Usage;
use turn_worker::operator::{AttemptEnd, EndReport, PoolStatus, TurnReport, TurnState};
use turn_worker::workspace::{RecordReader, TurnRecord};

use super::dead::operator;
use super::exit;
use super::output::{self, Output};
use super::render::clean::clean;
use super::render::end;
use super::render::human::{age, since};
use super::render::style::Style;
use super::render::table::{Column, Look, Table};
use super::stderr::notice;
use super::turn::check_names;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker show nightly-42
  turn-worker show nightly-42 -w acme/website --json | jq .error

Reads the records under TURN_WORKER_WORKSPACE_ROOT, so run it where a worker runs, as a user that may read them. Of a \
turn that has not ended there, it also listens to the pool, as `status` does, for a few seconds. The last 10,000 turns \
of each workspace are recorded, and the last 10,000 that never ran. Without --workspace it looks into all workspaces. \
The event log is not needed.

Without a terminal, one JSON object a turn: turn_id, workspace, state (waiting, running, started, ended, unknown), \
attempts, cancel_requested; of a turn that waits place (null behind the first 5 of its line), of, why; of one that runs \
worker, attempt, since, spent (tokens so far, if codex reports them); of one that has ended outcome, at, by, code, reason, error, model, usage, duration_ms, \
thread_id, superseded_by; null is unknown. `started` is a turn that no worker reports, without a recorded end.

Exit status: 0 shown, 1 unknown, 2 wrong arguments or settings, 141 the reader of the output is gone.";

#[derive(Debug, Args)]
pub(super) struct ShowTurnArgs {
    /// The turn's id
    turn_id: String,
    /// The turn's workspace; all are searched without
    #[arg(long, short, value_name = "W")]
    workspace: Option<String>,
    /// How long to listen to a pool of which no worker or no sequencer reports itself
    #[arg(long, value_name = "D", default_value = "5s", value_parser = limit)]
    timeout: Duration,
    /// JSON, also on a terminal
    #[arg(long)]
    json: bool,
}

fn limit(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|limit| (Duration::from_secs(3)..=Duration::from_secs(600)).contains(limit))
        .ok_or_else(|| "expected a duration such as 5s or 1m, 3s to 10m".to_owned())
}

pub(super) async fn show(settings: Settings, args: ShowTurnArgs) -> anyhow::Result<ExitCode> {
    let ShowTurnArgs {
        turn_id,
        workspace,
        timeout,
        json,
    } = args;
    check_names(&turn_id, workspace.as_deref())?;
    let records = recorded(&settings, workspace.as_deref(), &turn_id);
    let wanted = workspace.as_deref();
    let ended = |record: &TurnRecord| {
        let report = TurnReport::of(&turn_id, wanted, Some(record), None);
        matches!(report.state, TurnState::Ended(_))
    };
    let pool = match !records.is_empty() && records.iter().all(ended) {
        true => None,
        false => heard(&settings, timeout).await,
    };
    let mut reports: Vec<TurnReport> = records
        .iter()
        .map(|record| TurnReport::of(&turn_id, wanted, Some(record), pool.as_ref()))
        .collect();
    if reports.is_empty() {
        reports.push(TurnReport::of(&turn_id, wanted, None, pool.as_ref()));
    }
    let known = |report: &TurnReport| !matches!(report.state, TurnState::Unknown { .. });
    let known = reports.iter().any(known);
    let output = Output::new(json);
    let now = Timestamp::now();
    let printed = match output.screen() {
        Some((style, width)) => {
            let texts: Vec<_> = reports
                .iter()
                .map(|report| shown(report, now, style, width))
                .collect();
            output::print(&texts.join("\n"))
        }
        None => (reports.iter()).try_for_each(|report| output.json(&json!(report))),
    };
    let printed = output::status(printed)?;
    Ok(match known || printed != ExitCode::SUCCESS {
        true => printed,
        false => ExitCode::from(exit::FAILURE),
    })
}

/// What can't be read is said, and the pool asked all the same.
fn recorded(settings: &Settings, workspace: Option<&str>, turn_id: &str) -> Vec<TurnRecord> {
    let reader = match RecordReader::open(&settings.workspace_root) {
        Ok(reader) => reader,
        Err(error) => {
            let error = with_sources(&error);
            notice(&format!(
                "no records: {error} (TURN_WORKER_WORKSPACE_ROOT names the workspace root)"
            ));
            return Vec::new();
        }
    };
    let found = match workspace {
        Some(workspace) => {
            let found = reader.turn(workspace, turn_id);
            found.map(|record| (record.into_iter().collect(), true))
        }
        None => reader.find(turn_id),
    };
    match found {
        Ok((records, all)) => {
            if !all {
                notice("too many workspaces to look into all of them; name one with --workspace");
            }
            records
        }
        Err(error) => {
            notice(&format!("can't read the records: {}", with_sources(&error)));
            Vec::new()
        }
    }
}

async fn heard(settings: &Settings, timeout: Duration) -> Option<PoolStatus> {
    match operator(settings).status(timeout).await {
        Ok(status) => Some(status),
        Err(error) => {
            notice(&format!("the pool was not heard: {}", with_sources(&error)));
            None
        }
    }
}

fn shown(report: &TurnReport, now: Timestamp, style: Style, width: usize) -> String {
    let mut out = format!(
        "{}\n",
        style.bold(&format!("turn {}", clean(&report.turn_id)))
    );
    let mut line = |name: &str, value: &str| {
        let value = clean(value).trim_end().replace('\n', "\n            ");
        out.push_str(&format!("{} {value}\n", style.dim(&format!("{name:<11}"))));
    };
    line("workspace", report.workspace.as_deref().unwrap_or("–"));
    match &report.state {
        TurnState::Waiting { place, of, why } => {
            let place = match place {
                Some(place) => format!("waits, number {place} of {of} in its line"),
                None => {
                    format!("waits in its line of {of}, or is not in it: it is not among the first")
                }
            };
            line("state", &place);
            line("why", why);
        }
        TurnState::Running {
            worker,
            attempt,
            since: at,
            spent,
        } => {
            let running = age(since(*at, now));
            line(
                "state",
                &format!("runs on {worker}, attempt {attempt}, for {running}"),
            );
            if let Some(tokens) = *spent {
                let usage = Usage {
                    tokens,
                    agents: None,
                };
                line("so far", &end::tokens(Some(&usage)));
            }
        }
        TurnState::Started => {
            line(
                "state",
                "started; no worker reports it, and no end is recorded",
            );
        }
        TurnState::Ended(end) => ended(end, now, &mut line),
        TurnState::Unknown { why } => {
            line("state", "unknown");
            line("why", why);
        }
    }
    if report.cancel_requested {
        line("cancel", "was asked for");
    }
    if !report.attempts.is_empty() {
        let mut table = Table::new(&[
            Column::Number("ATTEMPT"),
            Column::Name("WORKER"),
            Column::Text("STARTED"),
            Column::Text("END"),
        ]);
        for attempt in &report.attempts {
            let look = match attempt.end {
                AttemptEnd::Finished | AttemptEnd::Open => Look::Plain,
                AttemptEnd::Returned => Look::Odd,
                AttemptEnd::Lost => Look::Bad,
            };
            table.row([
                (attempt.attempt.to_string(), Look::Plain),
                (attempt.worker.clone(), Look::Plain),
                (attempt.started_at.to_string(), Look::Plain),
                (attempt.end.as_str().to_owned(), look),
            ]);
        }
        out.push_str(&format!("\n{}", table.render(style, width)));
    }
    out
}

fn ended(report: &EndReport, now: Timestamp, line: &mut impl FnMut(&str, &str)) {
    let ago = age(since(report.at, now));
    let by = report.by.as_ref().map(|by| format!(", by {by}"));
    let by = by.unwrap_or_default();
    line(
        "state",
        &format!("ended {} at {} ({ago} ago){by}", report.outcome, report.at),
    );
    if let Some(code) = report.code {
        let reason = report.reason.map(|reason| format!(", {reason}"));
        line("code", &format!("{code}{}", reason.unwrap_or_default()));
    }
    if let Some(error) = &report.error {
        line("error", error);
    }
    if let Some(by) = &report.superseded_by {
        line("superseded", &format!("by turn {by}"));
    }
    if let Some(model) = &report.model {
        line("model", model);
    }
    line("usage", &end::tokens(report.usage.as_ref()));
    if let Some(duration) = report.duration_ms {
        line("took", &end::duration_text(Duration::from_millis(duration)));
    }
    if let Some(thread) = &report.thread_id {
        line("thread", thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turn_worker::event::{ErrorCode, Reason, StopReason};
    use turn_worker::operator::AttemptReport;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report(state: TurnState) -> TurnReport {
        TurnReport {
            turn_id: "t-1".to_owned(),
            workspace: Some("acme/a".to_owned()),
            state,
            attempts: vec![AttemptReport {
                attempt: 1,
                worker: "alpha\u{1b}[2J-1".to_owned(),
                started_at: at(900),
                end: AttemptEnd::Finished,
            }],
            cancel_requested: false,
        }
    }

    #[test]
    fn g8_a_failed_turn_reads_well_and_moves_no_cursor() {
        let state = TurnState::Ended(EndReport {
            outcome: StopReason::Error,
            at: at(940),
            by: None,
            code: Some(ErrorCode::TurnFailed),
            reason: Some(Reason::Auth),
            error: Some("no\u{1b}]0;x\u{7} login".to_owned()),
            model: Some("gpt-5".to_owned()),
            usage: None,
            duration_ms: Some(40_000),
            thread_id: None,
            superseded_by: None,
        });
        let text = shown(&report(state), at(1_000), Style::default(), 80);
        assert_eq!(
            text,
            "\
turn t-1
workspace   acme/a
state       ended error at 1970-01-01T00:15:40Z (1 min 0 s ago)
code        turn.failed, auth
error       no login
model       gpt-5
usage       tokens unknown
took        40.0 s

ATTEMPT  WORKER   STARTED               END
      1  alpha-1  1970-01-01T00:15:00Z  finished
"
        );
    }

    #[test]
    fn a_waiting_turn_has_its_place_and_why_it_waits() {
        let state = TurnState::Waiting {
            place: Some(2),
            of: 3,
            why: "t-0 runs on alpha-1".to_owned(),
        };
        let text = shown(&report(state), at(1_000), Style::default(), 80);
        assert!(
            text.contains("waits, number 2 of 3 in its line\n"),
            "{text}"
        );
        assert!(text.contains("why         t-0 runs on alpha-1\n"), "{text}");
    }
}
