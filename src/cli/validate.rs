//! `turn-worker validate`: what the workers would say of a request, or of a
//! control message.

mod control;
mod ignored;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use turn_worker::amqp::messages::ControlRequest;
use turn_worker::config::Settings;
use turn_worker::request::{Properties, Rejection, TurnRequest};

use self::ignored::Ignored;
use super::exit;
use super::render::clean::clean_json;
use super::render::style::Style;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker validate request.json
  jq -n '{turn_id: \"t-01\", workspace: \"acme/website\", messages: []}' | turn-worker validate - --json
  turn-worker validate --control cancel.json

Everything that is wrong is listed at once, in the words with which the workers would reject it. A worker's own limits \
hold where they are set here too: TURN_WORKER_MAX_REQUEST_BYTES, TURN_WORKER_CODEX_MODELS, TURN_WORKER_CODEX_EFFORTS, TURN_WORKER_CODEX_SERVICE_TIERS, TURN_WORKER_WORKSPACE_ROOT. \
No broker is asked and the disk is not read; so whether a workspace lies inside another, or has too many turns \
in line, is only known when the turn is there. Nor are the message's properties seen: message_id, expiration, \
content_encoding, and reply_to, without which a question has no answer.

Exit status: 0 it would be accepted, 1 it would not, 2 wrong arguments or settings, or it can't be read.";

/// More than any worker takes: what is larger is not worth reading on.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// The file that holds the request, - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// It is a control message: a cancel, or a question where a turn is
    #[arg(long)]
    control: bool,
    /// One JSON object, also on a terminal: valid, and code, message, turn_id (of the answer), violations (field, found,
    /// allowed), omitted or understood; ignored (field, what, meant)
    #[arg(long)]
    json: bool,
}

pub(super) fn validate(settings: &Settings, args: &ValidateArgs) -> anyhow::Result<ExitCode> {
    let body = read(&args.file)
        .map_err(|error| exit::Usage(format!("can't read {}: {error}", args.file.display())))?;
    let root = &settings.workspace_root;
    let resolved = root.canonicalize().ok();
    let roots = [root.clone()].into_iter().chain(resolved).collect();
    let limits = settings.request_limits(roots);
    let is_terminal = io::stdout().is_terminal();
    let style = Style::for_output(is_terminal);
    let (valid, json, people) = if args.control {
        let verdict = ControlRequest::read(&body, &limits.roots);
        let (json, people) = control::shown(&verdict, &Ignored::in_control(&body), style);
        (verdict.is_ok(), json.to_string(), people)
    } else {
        let verdict = TurnRequest::parse(&body, &limits, &Properties::default());
        let ignored = Ignored::in_request(&body);
        let json = as_json(&verdict, &ignored)?;
        (verdict.is_ok(), json, for_people(&verdict, &ignored, style))
    };
    let text = if args.json || !is_terminal {
        clean_json(&json) + "\n"
    } else {
        people
    };
    if io::stdout().write_all(text.as_bytes()).is_err() {
        return Ok(ExitCode::from(exit::CLOSED_PIPE));
    }
    Ok(match valid {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(exit::FAILURE),
    })
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let read = |from: &mut dyn Read, body: &mut Vec<u8>| from.take(MAX_BYTES + 1).read_to_end(body);
    if file == Path::new("-") {
        read(&mut io::stdin().lock(), &mut body)?;
    } else {
        read(&mut std::fs::File::open(file)?, &mut body)?;
    }
    if body.len() as u64 > MAX_BYTES {
        let text = format!("it has more than {MAX_BYTES} bytes, and no worker takes as many");
        return Err(io::Error::other(text));
    }
    Ok(body)
}

fn as_json(
    verdict: &Result<TurnRequest, Rejection>,
    ignored: &Ignored,
) -> serde_json::Result<String> {
    let mut told = match verdict {
        Ok(_) => json!({ "valid": true }),
        Err(rejection) => {
            let violations: Vec<Value> = (rejection.violations.iter())
                .map(|v| json!({ "field": v.field, "found": v.found, "allowed": v.rule }))
                .collect();
            json!({
                "valid": false,
                "code": rejection.code,
                "message": rejection.to_string(),
                "turn_id": rejection.turn_id,
                "violations": violations,
                "omitted": rejection.omitted,
            })
        }
    };
    ignored.add_to(&mut told);
    let mut fields: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
    for (name, value) in told.as_object().into_iter().flatten() {
        fields.insert(name, to_raw_value(value)?);
    }
    // Never as a `Value`, which makes a float of a large integer.
    if let Ok(request) = verdict {
        fields.insert("understood", to_raw_value(request)?);
    }
    serde_json::to_string(&fields)
}

fn for_people(verdict: &Result<TurnRequest, Rejection>, ignored: &Ignored, style: Style) -> String {
    let mut lines = Vec::new();
    match verdict {
        Ok(request) => {
            let (turn_id, workspace) = (&request.turn_id, &request.workspace);
            lines.push(style.green(&format!("valid: turn {turn_id} in {workspace}")));
        }
        Err(rejection) => {
            lines.push(style.red(&format!("not valid: {}", rejection.code)));
            for violation in &rejection.violations {
                lines.push(style.bold(&violation.field));
                lines.push(format!("  found    {}", violation.found));
                lines.push(format!("  expected {}", violation.rule));
            }
            if rejection.omitted > 0 {
                lines.push(format!("and {} more", rejection.omitted));
            }
            lines.push(match &rejection.turn_id {
                Some(turn_id) => format!("answered as turn {turn_id}"),
                None => {
                    "not answered: found no usable turn_id, expected one here or as the message_id"
                        .to_owned()
                }
            });
        }
    }
    lines.extend(ignored.lines(style));
    lines.join("\n") + "\n"
}
