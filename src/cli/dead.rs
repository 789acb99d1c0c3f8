//! `turn-worker dead`: requests that were not accepted, and why.

mod retry;
mod show;

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use turn_worker::config::{Settings, parse_duration};
use turn_worker::event::ErrorCode;
use turn_worker::operator::{DeadLetter, MAX_HELD, Operator};

use super::exit::Usage;
use super::output::{self, Output};
use super::render::human::{age, bytes, since};
use super::render::style::Style;
use super::render::table::{Column, Look, Table};
use super::stderr::notice;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker dead list
  turn-worker dead list --oldest --limit 1000 | jq -r .code | sort | uniq -c
  turn-worker dead show 12
  turn-worker dead show nightly-42

`turn-worker dead list --help` and `turn-worker dead show --help` describe more.

Looking has no effect: what is looked at stays in the queue, in its order, also when this is interrupted. Of the \
settings, only TURN_WORKER_AMQP_… and TURN_WORKER_PREFIX matter. The broker's user needs to read the dead queue: \
ops/deploy/rabbitmq/users set operator NAME.

Exit status: 0 printed, 1 it could not be, or there is no such dead letter, 2 wrong arguments or settings, 141 the program that \
read the output is gone.";

const LIST_HELP: &str = "\
Examples:
  turn-worker dead list
  turn-worker dead list --oldest --limit 1000 | jq -r .code | sort | uniq -c

Without a terminal, JSON lines: place (1 is the oldest in the queue), of (how many there are), turn_id, workspace, \
code, message, time, bytes. What is not known is null. To get to the newest, all have to be fetched whole; \
--oldest ends after --limit.";

#[derive(Debug, Args)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List rejected requests with the reasons, the newest first
    #[command(after_long_help = LIST_HELP)]
    List(ListArgs),
    /// Show a rejected request whole, with its headers
    #[command(after_long_help = show::HELP)]
    Show(show::ShowArgs),
    /// Send a rejected request once more, under a new id
    #[command(after_long_help = retry::HELP)]
    Retry(retry::DeadRetryArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// How many to list at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=MAX_HELD))]
    limit: u64,
    /// The oldest, and these first
    #[arg(long)]
    oldest: bool,
    /// JSON lines, one a request, also on a terminal
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, Args)]
struct Patience {
    /// How long the broker may take
    #[arg(long, value_name = "D", default_value = "30s", value_parser = limit)]
    timeout: Duration,
}

fn limit(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|limit| (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(limit))
        .ok_or_else(|| "expected a duration such as 90s or 1h, 1s to 1h".to_owned())
}

/// Which of the dead letters is meant.
#[derive(Debug, PartialEq, Eq)]
enum Which {
    Place(u64),
    Turn(String),
}

impl Which {
    fn of(text: &str, is_turn_id: bool) -> Result<Self, Usage> {
        if is_turn_id || text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Turn(text.to_owned()));
        }
        match text.parse() {
            Ok(place @ 1..=MAX_HELD) => Ok(Self::Place(place)),
            _ => Err(Usage(format!(
                "the place is {text:?}, expected 1 (the oldest) to {MAX_HELD}; with --turn-id it is a turn's id"
            ))),
        }
    }
}

/// The dead letter that is meant.
struct FoundLetter {
    letter: DeadLetter,
    /// The places of other ones of the same turn.
    others: Vec<u64>,
    total: u64,
}

async fn find(operator: &Operator, which: &Which, limit: Duration) -> anyhow::Result<FoundLetter> {
    let most = match which {
        Which::Place(place) => *place,
        Which::Turn(_) => MAX_HELD,
    };
    let (mut found, mut others) = (None::<DeadLetter>, Vec::new());
    let total = walk(operator, most, limit, |letter| {
        let meant = match which {
            Which::Place(place) => letter.place == *place,
            Which::Turn(id) => letter.turn_id.as_ref() == Some(id),
        };
        if meant {
            others.extend(found.replace(letter).map(|older| older.place));
        }
    })
    .await?;
    let Some(letter) = found else {
        match which {
            Which::Place(place) => bail!(
                "there is no rejected request {place}: the queue holds {total} (1 is the oldest)"
            ),
            Which::Turn(id) => {
                bail!("no rejected request among the {total} is of turn {id:?}")
            }
        }
    };
    Ok(FoundLetter {
        letter,
        others,
        total,
    })
}

/// What the list says of one. The body is let go of.
#[derive(Debug)]
struct Entry {
    place: u64,
    turn_id: Option<String>,
    workspace: Option<String>,
    code: Option<String>,
    message: Option<String>,
    rejected_at: Option<Timestamp>,
    bytes: usize,
}

pub(super) async fn dead(settings: Settings, args: DeadArgs) -> anyhow::Result<ExitCode> {
    let operator = operator(&settings);
    match args.command {
        Command::List(args) => list(&operator, args).await,
        Command::Show(args) => show::show(&operator, args).await,
        Command::Retry(args) => {
            let client = super::submit::client(&settings);
            retry::retry(&operator, &client, args).await
        }
    }
}

/// The operator that the settings make.
pub(super) fn operator(settings: &Settings) -> Operator {
    let name = format!("turn-worker operator {}", turn_worker::serve::process_id());
    let connector = turn_worker::serve::connector(settings, &name);
    Operator::new(connector, &settings.prefix)
}

async fn list(operator: &Operator, args: ListArgs) -> anyhow::Result<ExitCode> {
    let most = if args.oldest { args.limit } else { MAX_HELD };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut entries = VecDeque::new();
    let total = walk(operator, most, args.patience.timeout, |letter| {
        if entries.len() == limit {
            entries.pop_front();
        }
        entries.push_back(Entry::of(letter));
    })
    .await?;
    if !args.oldest {
        entries.make_contiguous().reverse();
    }
    let output = Output::new(args.json);
    let printed = match output.screen() {
        Some((style, width)) => output::print(&shown(&entries, total, args.oldest, style, width)),
        None => {
            let shown = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            if shown < total {
                notice(&format!("{shown} of {total} rejected requests are listed"));
            }
            entries
                .iter()
                .try_for_each(|entry| output.json(&entry.json(total)))
        }
    };
    output::status(printed)
}

/// Shows the oldest `most` to `look`, one after the other; returns how many there
/// are in all.
async fn walk(
    operator: &Operator,
    most: u64,
    limit: Duration,
    mut look: impl FnMut(DeadLetter),
) -> anyhow::Result<u64> {
    let until = Instant::now() + limit;
    let mut came = 0;
    let walking = async {
        let mut letters = operator.dead_letters(until).await?;
        let total = letters.total();
        if most >= MAX_HELD && total > MAX_HELD {
            notice(&format!(
                "of {total} rejected requests only the oldest {MAX_HELD} can be held, and looked at"
            ));
        }
        while came < most
            && let Some(letter) = letters.next().await?
        {
            came += 1;
            look(letter);
        }
        letters.close().await;
        anyhow::Ok(total)
    };
    match timeout_at(until, walking).await {
        Ok(walked) => walked,
        Err(_) => bail!(
            "{came} rejected requests came within {limit:?}, and not all that were asked for; allow more with --timeout, or ask for fewer (`dead list --oldest --limit N`)"
        ),
    }
}

impl Entry {
    fn of(letter: DeadLetter) -> Self {
        Self {
            place: letter.place,
            bytes: letter.body.len(),
            turn_id: letter.turn_id.map(bounded),
            workspace: letter.workspace.map(bounded),
            code: letter.code.map(bounded),
            message: letter.message.map(bounded),
            rejected_at: letter.rejected_at,
        }
    }

    fn json(&self, total: u64) -> serde_json::Value {
        json!({
            "place": self.place,
            "of": total,
            "turn_id": self.turn_id,
            "workspace": self.workspace,
            "code": self.code,
            "message": self.message,
            "time": self.rejected_at,
            "bytes": self.bytes,
        })
    }
}

/// A full line is no producer's mistake.
fn look_of(code: Option<&str>) -> Look {
    match code {
        Some(code) if code == ErrorCode::BacklogFull.as_str() => Look::Odd,
        _ => Look::Bad,
    }
}

/// Of a stranger's text, as much as the longest reason has.
fn bounded(mut text: String) -> String {
    let mut end = text.len().min(4096);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn shown(
    entries: &VecDeque<Entry>,
    total: u64,
    oldest: bool,
    style: Style,
    width: usize,
) -> String {
    let how_many = entries.len() as u64;
    let first = if oldest { "oldest" } else { "newest" };
    let head = match (total, how_many) {
        (0, _) | (_, 0) => return "no rejected requests\n".to_owned(),
        (1, _) => "1 rejected request".to_owned(),
        (total, shown) if shown < total => {
            format!("the {first} {shown} of {total} rejected requests")
        }
        (total, _) => format!("{total} rejected requests, the {first} first"),
    };
    let mut table = Table::new(&[
        Column::Number("#"),
        Column::Text("AGE"),
        Column::Text("CODE"),
        Column::Name("TURN"),
        Column::Name("WORKSPACE"),
        Column::Number("SIZE"),
    ]);
    let now = Timestamp::now();
    for entry in entries {
        let known = |text: &Option<String>, look| match text {
            Some(text) => (text.clone(), look),
            None => ("–".to_owned(), Look::Dim),
        };
        let when = entry.rejected_at.map(|then| age(since(then, now)));
        table.row([
            (entry.place.to_string(), Look::Plain),
            known(&when, Look::Plain),
            known(&entry.code, look_of(entry.code.as_deref())),
            known(&entry.turn_id, Look::Plain),
            known(&entry.workspace, Look::Plain),
            (bytes(entry.bytes as u64), Look::Plain),
        ]);
        if let Some(message) = &entry.message {
            table.note(message);
        }
    }
    format!("{}\n\n{}", style.bold(&head), table.render(style, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(place: u64) -> Entry {
        Entry {
            place,
            turn_id: Some("t-01\u{1b}[2J".to_owned()),
            workspace: Some("../a".to_owned()),
            code: Some("workspace.rejected".to_owned()),
            message: Some("workspace: found \"../a\",\nexpected less".to_owned()),
            rejected_at: None,
            bytes: 2048,
        }
    }

    #[test]
    fn g8_a_list_reads_well_and_moves_no_cursor() {
        let unknown = Entry {
            turn_id: None,
            workspace: None,
            code: None,
            message: None,
            ..entry(3)
        };
        let entries = VecDeque::from([entry(12), unknown]);
        assert_eq!(
            shown(&entries, 12, false, Style::default(), 80),
            "\
the newest 2 of 12 rejected requests

 #  AGE  CODE                TURN  WORKSPACE     SIZE
12  –    workspace.rejected  t-01  ../a       2.0 KiB
  workspace: found \"../a\", …
 3  –    –                   –     –          2.0 KiB
"
        );
        let none = shown(&VecDeque::new(), 0, false, Style::default(), 80);
        assert_eq!(none, "no rejected requests\n");
    }

    #[test]
    fn g10_a_strangers_text_is_kept_in_part() {
        assert_eq!(bounded("é".repeat(5000)).len(), 4096);
    }
}
