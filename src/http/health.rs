use tokio::sync::watch;

use crate::conditions::{ConditionReport, Conditions};
use crate::config::Roles;
use crate::host::Host;

/// What the process can do at the moment; cheap to clone, all clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    roles: Roles,
    host: Host,
    conditions: Conditions,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    connected: bool,
    consuming: bool,
    sequencer: SequencerState,
    draining: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SequencerState {
    #[default]
    Absent,
    /// Ready to take over as soon as the broker makes it the active one.
    Standby,
    Active,
}

impl Health {
    /// The process does not serve yet; `roles` says what it has to do.
    pub fn new(roles: Roles, host: Host, conditions: Conditions) -> Self {
        Self {
            roles,
            host,
            conditions,
            state: watch::Sender::new(State::default()),
        }
    }

    pub fn set_connected(&self, connected: bool) {
        self.state.send_modify(|state| state.connected = connected);
    }

    /// Whether the worker consumes offers. One with all slots busy does, too.
    pub fn set_consuming(&self, consuming: bool) {
        self.state.send_modify(|state| state.consuming = consuming);
    }

    pub fn set_sequencer(&self, sequencer: SequencerState) {
        self.state.send_modify(|state| state.sequencer = sequencer);
    }

    /// The process takes no more turns, for the rest of its life.
    pub fn set_draining(&self) {
        self.state.send_modify(|state| state.draining = true);
    }

    /// Why the process can't take work; empty: it can.
    pub fn reasons(&self) -> Vec<String> {
        let state = *self.state.borrow();
        let no_consumer = self.roles.worker && !state.consuming;
        let no_sequencer = self.roles.sequencer && state.sequencer == SequencerState::Absent;
        let lacking = self.host.findings();
        let states = [
            (state.draining, "draining: no more turns are taken"),
            (!state.connected, "not connected to the broker"),
            (no_consumer, "the worker does not consume offers"),
            (
                no_sequencer,
                "the sequencer is neither active nor on standby",
            ),
        ]
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, reason)| reason.to_owned());
        let blocking = self.reports(true);
        lacking
            .iter()
            .map(ToString::to_string)
            .chain(states)
            .chain(blocking)
            .collect()
    }

    /// Conditions that an operator has to look at, although turns run.
    pub fn warnings(&self) -> Vec<String> {
        self.reports(false).collect()
    }

    fn reports(&self, blocking: bool) -> impl Iterator<Item = String> + use<> {
        let reports = self.conditions.reports().into_iter();
        let wanted = move |report: &ConditionReport| report.blocking == blocking;
        reports.filter(wanted).map(|report| report.to_string())
    }
}
