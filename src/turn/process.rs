//! One process of codex from its start to the last sign of it.
//!
//! ```text
//! listening ──▶ leaving (codex is done, or has closed its output) ──▶ gone
//!     └───────▶ stopping (interrupt, grace, kill) ────────────────────────┘
//! ```

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::coalesce::Coalescer;
use super::emit::Emitter;
use super::event_sink::EventSink;
use super::stop::{Clocks, Stop};
use crate::codex::app_server::Server;
use crate::codex::engine::{Ask, End, Engine, EngineRun, Output, Reported, TurnInput};
use crate::codex::protocol::CliEvent;
use crate::codex::translate::Translator;
use crate::event::{EventBody, NoticeCode, Tokens, Usage};
use crate::fault;
use crate::guard::SpawnError;
use crate::labels::RateLimit;

/// From the interrupt to the kill. codex stops its command and ends within
/// a tenth of a second; the rest is for a busy machine.
const GRACE: Duration = Duration::from_secs(5);
/// How long codex may live on after it said how the turn ended, before what
/// hangs is killed. The turn's end is known, so no event is lost by it.
const LINGER: Duration = Duration::from_secs(10);
/// How long the last lines may take to come once everything is being killed.
const DRAIN: Duration = Duration::from_secs(2);
/// Between two events about what the turn has spent so far, at least.
const USAGE_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Ran {
    pub translator: Translator,
    pub end: End,
    /// Why it was stopped, unless codex had already said how the turn ended.
    pub stop: Option<Stop>,
    /// What codex has reported of the turn's tokens while it ran.
    pub reported: Option<Reported>,
    /// Why the thread that was to be resumed is gone; no turn was run then.
    pub lost: Option<String>,
    /// Why codex refused to resume the thread; no turn was run then.
    pub refused: Option<String>,
    /// What codex has reported last of the account's allowance.
    pub rate_limits: Vec<RateLimit>,
    /// What may serve the workspace's next turn.
    pub kept: Option<Server>,
}

/// Runs codex once. `on_thread` gets the thread's id as soon as codex
/// reports it, before anything that follows is published.
pub(super) async fn run<E: Engine, S: EventSink>(
    engine: &E,
    input: TurnInput<'_>,
    ask: Ask,
    kept: Option<Server>,
    out: &mut Emitter<'_, S>,
    clocks: &mut Clocks,
    on_thread: impl FnMut(&str) + Send,
) -> Result<Ran, SpawnError> {
    let run = engine.start(input, ask, kept).await?;
    fault::at("turn.spawned");
    let mut process = Process {
        run,
        translator: Translator::new(),
        on_thread,
        pieces: engine.delta_window().map(Coalescer::new),
        lost: None,
        refused: None,
        rate_limits: Vec::new(),
        usage: None,
        next_usage: Instant::now() + USAGE_INTERVAL,
    };
    clocks.heard();
    let stop = match process.listen(out, clocks).await {
        Ok(()) => process.leave(clocks).await,
        Err(stop) => Err(stop),
    };
    let (end, stop) = match stop {
        Ok(end) => (end, None),
        Err(stop) => (process.stop(out).await, Some(stop)),
    };
    Ok(Ran {
        stop: stop.filter(|_| !process.translator.is_over()),
        reported: process.run.reported(),
        translator: process.translator,
        end,
        lost: process.lost,
        refused: process.refused,
        rate_limits: process.rate_limits,
        kept: process.run.keep(),
    })
}

struct Process<R, F> {
    run: R,
    translator: Translator,
    on_thread: F,
    /// Joins texts that come in pieces.
    pieces: Option<Coalescer>,
    lost: Option<String>,
    refused: Option<String>,
    rate_limits: Vec<RateLimit>,
    /// As it was last published.
    usage: Option<Usage>,
    next_usage: Instant,
}

impl<R: EngineRun, F: FnMut(&str) + Send> Process<R, F> {
    /// Until codex has reported how the turn ended, or closes its output.
    async fn listen<S: EventSink>(
        &mut self,
        out: &mut Emitter<'_, S>,
        clocks: &mut Clocks,
    ) -> Result<(), Stop> {
        let heard = self.hear(out, clocks).await;
        let rest = self.pieces.as_mut().map(Coalescer::flush);
        let emitted = emit(rest.unwrap_or_default(), out, clocks).await;
        heard.and(emitted)
    }

    async fn hear<S: EventSink>(
        &mut self,
        out: &mut Emitter<'_, S>,
        clocks: &mut Clocks,
    ) -> Result<(), Stop> {
        while !self.translator.is_over() {
            let due = self.pieces.as_ref().and_then(Coalescer::deadline);
            let output = tokio::select! {
                biased;
                stop = clocks.stop() => return Err(stop),
                output = self.run.next() => output,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let due = self.pieces.as_mut().map(|pieces| pieces.due(Instant::now()));
                    emit(due.unwrap_or_default(), out, clocks).await?;
                    continue;
                }
            };
            let Some(output) = output else { return Ok(()) };
            if let Output::Sleeps(time) = output {
                clocks.expect_silence(time);
            }
            if matches!(output, Output::Event(CliEvent::UsageUpdated { .. }))
                && let Some(spent) = self.spent()
            {
                out.spent(spent);
            }
            let mut bodies = self.translate(output);
            bodies.extend(self.grown_usage(Instant::now()));
            if let Some(pieces) = &mut self.pieces {
                let now = Instant::now();
                let joined = bodies.into_iter().flat_map(|body| pieces.push(body, now));
                bodies = joined.collect();
            }
            emit(bodies, out, clocks).await?;
            clocks.heard();
        }
        Ok(())
    }

    /// By all agents, as far as codex has reported it.
    fn spent(&self) -> Option<Tokens> {
        let reported = self.run.reported()?;
        let spent = Usage::of(reported.own, reported.agents);
        spent.map(|usage| usage.tokens)
    }

    /// codex is about to end by itself; anything that it still says is after
    /// the turn's end.
    async fn leave(&mut self, clocks: &mut Clocks) -> Result<End, Stop> {
        let over = self.translator.is_over();
        let linger = sleep_until(Instant::now() + LINGER);
        let run = &mut self.run;
        let leaving = async {
            // Read on, or a full pipe would keep codex from ending.
            while run.next().await.is_some() {}
            run.end().await
        };
        tokio::select! {
            biased;
            end = leaving => Ok(end),
            () = linger, if over => {
                tracing::warn!("codex lives on though the turn has ended; killing it");
                Err(Stop::Idle)
            }
            stop = clocks.stop() => Err(stop),
        }
    }

    /// Interrupt, grace, kill. What codex says meanwhile still counts, and
    /// still waits for room on its way out, but only so long.
    async fn stop<S: EventSink>(&mut self, out: &mut Emitter<'_, S>) -> End {
        self.run.interrupt().await;
        let _ = self.listen(out, &mut Clocks::at_most(GRACE)).await;
        // What has ended by itself takes no notice of it.
        self.run.kill().await;
        let _ = self.listen(out, &mut Clocks::at_most(DRAIN)).await;
        self.run.end().await
    }

    /// What the turn has spent so far, if that has grown since it was last published.
    fn grown_usage(&mut self, now: Instant) -> Option<EventBody> {
        if now < self.next_usage || self.translator.is_over() {
            return None;
        }
        self.next_usage = now + USAGE_INTERVAL;
        let reported = self.run.reported()?;
        let usage = Usage::of(reported.own, reported.agents)?;
        let is_new = self.usage.replace(usage) != Some(usage);
        is_new.then_some(EventBody::Usage { usage })
    }

    fn translate(&mut self, output: Output) -> Vec<EventBody> {
        match output {
            Output::Event(event) => {
                let known = self.translator.thread_id().is_some();
                let bodies = self.translator.translate(event);
                if let (false, Some(thread)) = (known, self.translator.thread_id()) {
                    (self.on_thread)(thread);
                }
                bodies
            }
            Output::LineTooLong { bytes } => {
                self.translator.line_lost();
                vec![EventBody::Notice {
                    code: NoticeCode::LineTooLong,
                    message: format!("codex wrote a line of {bytes} bytes, which was left out"),
                }]
            }
            Output::Garbage { bytes } => {
                self.translator.line_lost();
                tracing::warn!(bytes, "codex wrote a line that is no event");
                Vec::new()
            }
            Output::Nothing | Output::Sleeps(_) => Vec::new(),
            Output::RateLimits(limits) => {
                self.rate_limits = limits;
                Vec::new()
            }
            Output::ThreadLost { message } => {
                self.lost = Some(message);
                Vec::new()
            }
            Output::ThreadRefused { message } => {
                self.refused = Some(message.clone());
                let cause = None;
                self.translator
                    .translate(CliEvent::TurnFailed { message, cause })
            }
        }
    }
}

/// All of it goes out, though the turn has to stop at the first: the
/// translator counts it as published.
async fn emit<S: EventSink>(
    bodies: Vec<EventBody>,
    out: &mut Emitter<'_, S>,
    clocks: &mut Clocks,
) -> Result<(), Stop> {
    let mut emitted = Ok(());
    for body in bodies {
        emitted = emitted.and(out.emit(body, clocks).await);
    }
    emitted
}

#[cfg(test)]
mod tests;
