//! `stand-in-model`: answers like the OpenAI Responses API, as far as codex
//! needs it, without a model behind it. The demo runs on it.

#[path = "model_server.rs"]
mod model_server;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::Parser;
use tokio::net::TcpListener;

/// A stand-in for the OpenAI Responses API: free, without a key
///
/// Point codex at it with a provider in its config.toml:
///
///   model_provider = "stand-in"
///   [model_providers.stand-in]
///   name = "stand-in"
///   base_url = "http://127.0.0.1:PORT/v1"
///   wire_api = "responses"
#[derive(Parser)]
#[command(name = "stand-in-model", verbatim_doc_comment, after_help = model_server::NOTATION)]
struct Arguments {
    /// Where to listen; 0.0.0.0 in a container that others ask
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    host: Ipv4Addr,
    /// 0 takes a free one, which the first line of output names
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments { host, port } = Arguments::parse();
    match run(host, port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stand-in-model: {host}:{port}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(host: Ipv4Addr, port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind((host, port)).await?;
    println!("listening on http://{}/v1", listener.local_addr()?);
    model_server::serve(listener, model_server::Shared::default()).await
}
