//! `turn-worker schema`: prints the contract's documents.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use turn_worker::amqp::topology::Topology;
use turn_worker::config::Settings;
use turn_worker::contract::Document;

pub(super) const EXAMPLES: &str = "\
Examples:
  turn-worker schema request > request.schema.json
  turn-worker schema request-types | json2ts > request.ts
  turn-worker schema event | jq '.\"$defs\".ErrorCode'
  turn-worker schema asyncapi > asyncapi.json

Schemas are JSON Schema 2020-12; the AsyncAPI document is of version 3.0, and names exchanges and queues as \
TURN_WORKER_PREFIX has it. No other variable is read, and no broker is asked.

Exit status: 0 printed, 2 wrong arguments or settings, 141 the reader of the output is gone.";

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Which one; asyncapi holds the others
    #[arg(value_enum, default_value_t = Which::Asyncapi)]
    document: Which,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    Request,
    RequestTypes,
    Event,
    Control,
    Description,
    Asyncapi,
}

pub(super) fn schema(settings: &Settings, args: &SchemaArgs) -> ExitCode {
    let document = match args.document {
        Which::Request => Document::Request,
        Which::RequestTypes => Document::RequestTypes,
        Which::Event => Document::Event,
        Which::Control => Document::Control,
        Which::Description => Document::Description,
        Which::Asyncapi => Document::AsyncApi,
    };
    let topology = Topology::new(&settings.prefix, settings.dead_letter_limit);
    let text = document.text(&topology);
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(super::exit::CLOSED_PIPE),
    }
}
