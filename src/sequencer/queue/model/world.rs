//! The world: broker, shell, workers, journal and locks, as far as the queue can
//! tell. It checks what must hold as it goes.

use std::collections::{HashSet, VecDeque};

use super::super::affinity::LOOK_AGAIN;
use super::super::*;
use super::{
    ClaimRun, Hearing, Kind, Name, Paused, SHARED_IDS, SLOTS, Step, Takeover, WORKERS, WORKSPACES,
};
use crate::heartbeat::HEARTBEAT;
use crate::homes::{Disk, HomeEntry, HomeRecord, Homes, LostDisk};
use crate::pool::JournalEnds;
use crate::request::OnBusy;
use crate::workspace::{JournalEnd, Pause, PauseScope};

#[derive(Debug, Clone, Copy)]
struct Message {
    place: u64,
    turn: Name,
    redelivered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    ByRun,
    By(Verdict),
}

#[derive(Debug, Default)]
struct Record {
    /// Where its first copy stands in the order of enqueuing.
    place: Option<u64>,
    has_run: bool,
    /// The disk that it was last started on.
    ran_on: Option<Uuid>,
    ended: Option<Ended>,
    /// The length of the workspace's journal with the end of its run.
    ended_at: Option<u64>,
    /// Cancelled, maybe for another turn.
    mark: Option<Option<Name>>,
    cancelled: bool,
    /// It was not to wait, and had not to.
    let_in: bool,
    /// By any sequencer.
    first_delivered: Option<Instant>,
    /// As it is kept on disk.
    received: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Status {
    Done {
        turn: Name,
        worker: String,
        warm: bool,
        journal: Option<JournalEnd>,
    },
    Taken {
        turn: Name,
        worker: String,
    },
    Declined {
        turn: Name,
        worker: String,
    },
    Beat {
        worker: String,
        /// Of an older worker, which has no private queue.
        is_older: bool,
        running: Vec<Name>,
        idle: Vec<usize>,
    },
}

/// A process of the pool, until it is killed and another takes its place.
#[derive(Debug, Default)]
struct Process {
    restarts: u32,
    frozen: bool,
    running: Vec<Name>,
    /// The journals' lengths as it sees them, if not as they are.
    view: Option<Vec<u64>>,
    /// As it was when the process looked last.
    paused: Arc<Pauses>,
}

/// What the model knows of a turn that the active queue holds.
struct InLine {
    turn: Name,
    redelivered: bool,
    at: Instant,
    tags: Vec<u64>,
    /// By when it has to be started, as far as the queue knows.
    due: Option<Instant>,
}

pub(crate) struct World {
    now: Instant,
    max_waiting: usize,
    kinds: Vec<Kind>,
    /// Of each process.
    slots: usize,
    queue: Queue,
    zombie: Option<Queue>,
    successors: u64,
    /// On disk.
    paused: Arc<Pauses>,

    published: u64,
    ready: VecDeque<Message>,
    unacked: BTreeMap<u64, Message>,
    next_tag: u64,
    /// Acks on their way to the broker.
    acks: VecDeque<u64>,
    acked: HashSet<u64>,

    offers: Vec<(Ticket, Name, Destination, Uuid)>,
    claims: Vec<(Ticket, Name, Verdict)>,
    /// Times of receipt that are to be kept.
    receipts: Vec<(Ticket, Name)>,
    status: VecDeque<Status>,
    control: VecDeque<Name>,

    /// By disks; one where the root is shared.
    work: BTreeMap<Uuid, VecDeque<Name>>,
    /// Each worker has a disk of its own.
    is_local: bool,
    disks: Vec<Uuid>,
    /// Disks made so far.
    disks_made: u128,
    /// Homes on their way to the log.
    set_homes: Vec<HomeRecord>,
    /// All entries, and those that the active sequencer has not read.
    log: Vec<HomeEntry>,
    unread: VecDeque<HomeEntry>,
    /// Workspaces that have left a disk.
    left: HashSet<(usize, Uuid)>,
    /// Offers in the private queues, by the processes that have declared one.
    private: BTreeMap<String, VecDeque<Name>>,
    workers: Vec<Process>,
    /// The last of them is of a version without private queues.
    has_older: bool,
    /// Which process keeps a server for a workspace.
    servers: HashMap<usize, String>,
    records: HashMap<Name, Record>,
    /// How long the workspaces' journals are.
    journals: Vec<u64>,
    /// As far as the processes with a sequencer have heard.
    heard: JournalEnds,
    /// Turns of which they have heard the end.
    heard_ends: HashSet<Name>,

    lines: Vec<Vec<InLine>>,
    /// By the active queue.
    offered: HashSet<Name>,
    /// Their lines were full when they came.
    came_when_full: HashSet<Name>,
    /// Asked to be claimed, without the answer that it runs.
    undecided: HashSet<Name>,
    /// Reported to have been started.
    started: HashSet<Name>,
    named: HashMap<Name, Instant>,
}

impl World {
    pub(crate) fn new(max_waiting: usize, seed: u64, kinds: Vec<Kind>, is_local: bool) -> Self {
        let now = Instant::now();
        let mut world = Self {
            now,
            max_waiting,
            kinds,
            slots: 1 + seed as usize / 2 % SLOTS,
            queue: new_queue(max_waiting, seed, is_local, now),
            zombie: None,
            successors: 0,
            paused: Arc::default(),
            published: 0,
            ready: VecDeque::new(),
            unacked: BTreeMap::new(),
            next_tag: 0,
            acks: VecDeque::new(),
            acked: HashSet::new(),
            offers: Vec::new(),
            claims: Vec::new(),
            receipts: Vec::new(),
            status: VecDeque::new(),
            control: VecDeque::new(),
            work: BTreeMap::new(),
            is_local,
            disks: vec![SHARED; WORKERS],
            disks_made: 0,
            set_homes: Vec::new(),
            log: Vec::new(),
            unread: VecDeque::new(),
            left: HashSet::new(),
            private: BTreeMap::new(),
            workers: (0..WORKERS).map(|_| Process::default()).collect(),
            has_older: seed.is_multiple_of(2) && !is_local,
            servers: HashMap::new(),
            records: HashMap::new(),
            journals: vec![0; WORKSPACES.len()],
            heard: JournalEnds::default(),
            heard_ends: HashSet::new(),
            lines: WORKSPACES.iter().map(|_| Vec::new()).collect(),
            offered: HashSet::new(),
            came_when_full: HashSet::new(),
            undecided: HashSet::new(),
            started: HashSet::new(),
            named: HashMap::new(),
        };
        for worker in 0..WORKERS {
            world.new_disk(worker);
            world.declare(worker);
        }
        world
    }

    fn new_disk(&mut self, worker: usize) {
        if self.is_local {
            self.disks_made += 1;
            self.disks[worker] = Uuid::from_u128(self.disks_made);
        }
    }

    fn work_of(&mut self, worker: usize) -> &mut VecDeque<Name> {
        self.work.entry(self.disks[worker]).or_default()
    }

    /// What the log says to any reader.
    fn homes(&self) -> Homes {
        let mut homes = Homes::default();
        for entry in &self.log {
            match entry.clone() {
                HomeEntry::Home(record) => drop(homes.set(record)),
                HomeEntry::DiskLost(lost) => drop(homes.disk_lost(lost)),
                other => panic!("{other:?}"),
            }
        }
        homes
    }

    fn append(&mut self, entry: HomeEntry) {
        self.log.push(entry.clone());
        self.unread.push_back(entry);
    }

    fn write_home(&mut self, which: usize, arrives: bool) {
        if self.set_homes.is_empty() {
            return;
        }
        let record = self.set_homes.remove(which % self.set_homes.len());
        if arrives {
            self.append(HomeEntry::Home(record));
        } else {
            self.queue.home_failed(self.now, &record.workspace);
        }
    }

    fn read_log(&mut self) {
        match self.unread.pop_front() {
            Some(HomeEntry::Home(record)) => {
                self.with_queue(|queue, now, out| queue.home_set(now, record, out));
            }
            Some(HomeEntry::DiskLost(lost)) => {
                self.with_queue(|queue, now, out| queue.disk_lost(now, lost, out));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    /// With all that runs and lies there. The worker comes back with an empty one.
    fn lose_disk(&mut self, worker: usize) {
        if !self.is_local {
            return;
        }
        let disk = self.disks[worker];
        self.private.remove(&self.id(worker));
        self.work.remove(&disk);
        self.workers[worker].running.clear();
        self.new_disk(worker);
        self.die(worker);
        let lost = LostDisk {
            disk: self.disk(disk),
            at: jiff::Timestamp::UNIX_EPOCH,
            by: String::new(),
        };
        self.append(HomeEntry::DiskLost(lost));
    }

    fn disk(&self, id: Uuid) -> Disk {
        Disk {
            id,
            host: format!("h{}", id.as_u128()).into(),
        }
    }

    /// As the session does it: paused, released under the lock, and then recorded.
    fn move_to(&mut self, workspace: usize, worker: usize) {
        let (name, to) = (WORKSPACES[workspace], self.disks[worker]);
        let is_paused = self.queue.paused.of(name, None).is_some();
        let known = self.queue.homes().and_then(|homes| homes.disk_of(name));
        let Some(from) = known.map(|disk| disk.id) else {
            return;
        };
        let mut running = self.workers.iter().flat_map(|worker| &worker.running);
        let runs = running.any(|turn| turn.0 == workspace);
        let is_lost = !self.disks.contains(&from);
        if !is_paused || runs || is_lost || from == to || self.queue.may_run(self.now, name) {
            return;
        }
        self.left.insert((workspace, from));
        self.left.remove(&(workspace, to));
        let homes = self.queue.homes().unwrap();
        let record = homes.next(&name.into(), Some(self.disk(to)));
        self.servers.remove(&workspace);
        self.append(HomeEntry::Home(record));
    }

    fn id(&self, worker: usize) -> String {
        let disk = self.disks[worker].as_u128();
        format!("w{worker}-{}-{disk}", self.workers[worker].restarts)
    }

    fn is_older(&self, worker: usize) -> bool {
        self.has_older && worker == WORKERS - 1
    }

    fn declare(&mut self, worker: usize) {
        if !self.is_older(worker) {
            self.private.entry(self.id(worker)).or_default();
        }
    }

    fn record(&mut self, turn: Name) -> &mut Record {
        self.records.entry(turn).or_default()
    }

    fn start_within(&self, turn: Name) -> Option<Duration> {
        self.kinds[turn.1].start_within.map(Duration::from_secs)
    }

    fn on_busy(&self, turn: Name) -> OnBusy {
        self.kinds[turn.1].on_busy
    }

    fn comes_before(&self, turn: Name, other: Name) -> bool {
        let place = |turn: Name| self.records[&turn].place.unwrap();
        turn.0 == other.0 && place(turn) < place(other)
    }

    fn has_ended(&self, turn: Name) -> bool {
        self.records.get(&turn).is_some_and(|r| r.ended.is_some())
    }

    /// Whether all that were enqueued before it in its workspace have ended.
    fn is_its_turn(&self, turn: Name) -> bool {
        let place = self.records[&turn].place;
        self.records
            .iter()
            .filter(|((workspace, _), record)| {
                *workspace == turn.0 && record.place.is_some() && record.place < place
            })
            .all(|(_, record)| record.ended.is_some())
    }

    /// Turns of other workspaces that the active queue got under the same id
    /// before this one, and that have not ended.
    fn have_its_id(&self, turn: Name) -> Vec<Name> {
        let held = self.lines.iter().flatten();
        let first_tag = |of: Name| {
            let held = self.lines[of.0].iter().find(|line| line.turn == of);
            held.map_or(u64::MAX, |line| line.tags[0])
        };
        held.map(|line| line.turn)
            .filter(|other| share_an_id(turn, *other) && first_tag(*other) < first_tag(turn))
            .filter(|other| !self.has_ended(*other))
            .collect()
    }

    // The shell: carries out what the active queue wants.
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Ack { tag } => self.ack(tag),
                Action::Offer {
                    ticket,
                    turn,
                    repeat,
                    to,
                    disk,
                    ..
                } => {
                    let turn = name_of(&turn);
                    self.check_home(turn, disk);
                    assert!(
                        self.is_its_turn(turn),
                        "{turn:?} offered before its turn (G1)"
                    );
                    if let Destination::Private { .. } = to {
                        assert!(!repeat, "{turn:?} offered to one process again (G2)");
                    }
                    assert!(!self.is_paused(turn), "{turn:?} offered while it is paused");
                    let others = self.have_its_id(turn);
                    assert!(
                        others.is_empty() || self.started.contains(&turn) || self.has_ended(turn),
                        "{turn:?} offered, though {others:?} have its id (G5)"
                    );
                    let twice = self.offers.iter().any(|(other, ..)| *other == ticket);
                    assert!(
                        !twice,
                        "{turn:?} offered while its last offer was in flight"
                    );
                    self.offers.push((ticket, turn, to, disk));
                    self.offered.insert(turn);
                }
                Action::Claim {
                    ticket,
                    turn,
                    verdict,
                    ..
                } => {
                    let turn = name_of(&turn);
                    let twice = self.claims.iter().any(|(other, ..)| *other == ticket);
                    assert!(!twice, "{turn:?} claimed twice at once");
                    if let Verdict::Busy { .. }
                    | Verdict::Superseded { .. }
                    | Verdict::IdTaken { .. } = verdict
                    {
                        self.undecided.insert(turn);
                    }
                    if verdict == Verdict::BacklogFull && self.undecided.insert(turn) {
                        // Its own delivery is not yet in the line.
                        let held = self.lines[turn.0].len();
                        // Without a home it was not decided before.
                        assert!(
                            held >= self.max_waiting || self.came_when_full.contains(&turn),
                            "rejected with {held} in line"
                        );
                    }
                    if verdict == Verdict::Expired {
                        assert!(!self.started.contains(&turn), "asked again about {turn:?}");
                        self.undecided.insert(turn);
                    }
                    if verdict == Verdict::Cancelled {
                        self.undecided.insert(turn);
                        assert!(self.records[&turn].cancelled, "nobody cancelled {turn:?}");
                    }
                    self.claims.push((ticket, turn, verdict));
                }
                Action::RepeatCancel {
                    turn,
                    superseded_by,
                } => {
                    let turn = name_of(&turn);
                    match superseded_by.map(|by| named(turn.0, &by)) {
                        None => assert!(self.records[&turn].cancelled),
                        Some(by) => {
                            assert!(self.records[&turn].mark.is_some(), "{turn:?}: not durable");
                            assert!(self.comes_before(turn, by));
                        }
                    }
                    self.control.push_back(turn);
                }
                Action::SetHome { record } => {
                    assert!(self.is_local);
                    self.set_homes.push(record);
                }
                Action::Receive { ticket, turn, .. } => {
                    self.receipts.push((ticket, name_of(&turn)))
                }
            }
        }
    }

    /// Of an offer of the active queue.
    fn check_home(&self, turn: Name, disk: Uuid) {
        let known = self.queue.disk_of(WORKSPACES[turn.0]);
        assert_eq!(known, Some(disk), "{turn:?} offered elsewhere than at home");
        let host = self.queue.hosts.get(disk).unwrap();
        assert!(
            !host.is_away(self.now),
            "{turn:?} offered to a host that is away"
        );
    }

    fn ack(&mut self, tag: u64) {
        let turn = self.unacked[&tag].turn;
        assert!(self.acked.insert(tag), "{turn:?} acked twice");
        let first_is_held = || {
            self.unacked.iter().any(|(other, message)| {
                *other != tag && message.turn == turn && !self.acked.contains(other)
            })
        };
        assert!(
            self.has_ended(turn) || first_is_held(),
            "{turn:?} acked before its end (G4)"
        );
        self.acks.push_back(tag);
        let line = &mut self.lines[turn.0];
        for in_line in line.iter_mut() {
            in_line.tags.retain(|other| *other != tag);
        }
        line.retain(|in_line| !in_line.tags.is_empty());
    }

    fn with_queue<T>(
        &mut self,
        feed: impl FnOnce(&mut Queue, Instant, &mut Vec<Action>) -> T,
    ) -> T {
        let mut out = Vec::new();
        let value = feed(&mut self.queue, self.now, &mut out);
        self.carry_out(out);
        value
    }

    fn deliver(&mut self) {
        let Some(message) = self.ready.pop_front() else {
            return;
        };
        let (tag, turn) = (self.next_tag, message.turn);
        self.next_tag += 1;
        self.unacked.insert(tag, message);
        let mut out = Vec::new();
        let queued = QueuedTurn {
            workspace: WORKSPACES[turn.0].into(),
            turn_id: id_of(turn).into(),
            fingerprint: 0,
            start_within: self.start_within(turn),
            on_busy: self.on_busy(turn),
            request: Arc::from([]),
            enqueued_at: None,
            tenant: tenant_of(turn).map(Arc::from),
        };
        let arrival = self
            .queue
            .delivered(self.now, tag, message.redelivered, queued, &mut out);
        if arrival == Arrival::New {
            match self.lines[turn.0].len() >= self.max_waiting {
                true => self.came_when_full.insert(turn),
                false => self.came_when_full.remove(&turn),
            };
        }
        // Checks of the limit look at who is ahead; acks of duplicates touch no line.
        self.carry_out(out);
        let now = self.now;
        self.record(turn).first_delivered.get_or_insert(now);
        let due = self.start_within(turn).map(|limit| now + limit);
        match arrival {
            Arrival::New => {
                // If it was, that was before it was published again.
                self.started.remove(&turn);
                self.lines[turn.0].push(InLine {
                    turn,
                    redelivered: message.redelivered,
                    at: self.now,
                    tags: vec![tag],
                    due,
                });
            }
            Arrival::Redelivered { .. } => {
                let held = self.lines[turn.0].iter_mut().find(|l| l.turn == turn);
                held.unwrap().tags.push(tag);
            }
            Arrival::Duplicate { .. } => assert!(!message.redelivered),
        }
    }

    fn confirm(&mut self, which: usize, taken: bool) {
        if self.offers.is_empty() {
            return;
        }
        let (ticket, turn, to, disk) = self.offers.remove(which % self.offers.len());
        if taken && self.publish(turn, &to, disk) {
            self.with_queue(|queue, now, out| queue.offer_confirmed(now, ticket, out));
        } else {
            self.with_queue(|queue, now, out| queue.offer_failed(now, ticket, out));
        }
    }

    /// False if there is no such queue.
    fn publish(&mut self, turn: Name, to: &Destination, disk: Uuid) -> bool {
        // A lost one is deleted.
        let is_lost = self.is_local && !self.disks.contains(&disk);
        let queue = match to {
            Destination::Shared(_) if is_lost => None,
            Destination::Shared(_) => Some(self.work.entry(disk).or_default()),
            Destination::Private { queue, .. } => self.private.get_mut(&**queue),
        };
        queue.map(|queue| queue.push_back(turn)).is_some()
    }

    /// The claim as the file system and the broker see it, asked for by a
    /// sequencer with a clock at `at`.
    fn claim(&mut self, turn: Name, verdict: &Verdict, at: Instant) -> ClaimAnswer {
        let mut by = None;
        match verdict {
            Verdict::Cancelled | Verdict::BacklogFull | Verdict::HostLost { .. } => {}
            Verdict::Expired => {
                let first = self.records[&turn].first_delivered.unwrap();
                let limit = self.start_within(turn).unwrap();
                assert!(at >= first + limit, "{turn:?} expired before its time");
            }
            Verdict::Busy { ahead } => {
                assert_eq!(self.on_busy(turn), OnBusy::Reject);
                let mut ahead = ahead.iter().map(|id| named(turn.0, id));
                if ahead.all(|ahead| self.has_ended(ahead)) {
                    return ClaimAnswer::AllEnded;
                }
            }
            Verdict::Superseded { by: id } => {
                let name = named(turn.0, id);
                if self.has_ended(name) || self.record(name).has_run {
                    return ClaimAnswer::Spent;
                }
                assert_eq!(self.on_busy(name), OnBusy::Interrupt);
                assert!(
                    self.comes_before(turn, name),
                    "{turn:?} came after {name:?}, which interrupts it"
                );
                by = Some(name);
            }
            Verdict::IdTaken { workspace } => {
                let workspace = WORKSPACES.iter().position(|w| *w == &**workspace);
                let other = (workspace.unwrap(), turn.1);
                assert!(share_an_id(turn, other) && self.records[&other].place.is_some());
                if self.has_ended(other) {
                    return ClaimAnswer::AllEnded;
                }
            }
        }
        let is_free = self.is_its_turn(turn);
        let record = self.record(turn);
        if let Verdict::HostLost { .. } = verdict {
            record.ended.get_or_insert(Ended::By(verdict.clone()));
            return ClaimAnswer::Won;
        }
        if let Verdict::Cancelled | Verdict::Superseded { .. } = verdict {
            record.mark.get_or_insert(by);
        }
        if record.ended.is_some() {
            return ClaimAnswer::AlreadyEnded;
        }
        if record.has_run {
            return ClaimAnswer::AlreadyRun;
        }
        if let Verdict::Busy { .. } = verdict {
            assert!(!is_free, "{turn:?} had not to wait");
            assert!(!record.let_in, "{turn:?} was let in, and then was not");
        }
        record.ended = Some(Ended::By(verdict.clone()));
        ClaimAnswer::Won
    }

    fn receive(&mut self, which: usize, kept: bool) {
        if self.receipts.is_empty() {
            return;
        }
        let (ticket, turn) = self.receipts.remove(which % self.receipts.len());
        if !kept {
            return;
        }
        let now = self.now;
        let first = *self.record(turn).received.get_or_insert(now);
        let due = self.start_within(turn).map(|limit| first + limit);
        let is_held = self.queue.turns.contains_key(&ticket);
        let in_line = self.lines[turn.0].iter_mut().find(|l| l.turn == turn);
        if let Some(in_line) = in_line.filter(|_| is_held) {
            in_line.due = in_line.due.min(due);
        }
        self.with_queue(|queue, now, out| queue.was_received(now, ticket, now - first, out));
    }

    fn run_claim(&mut self, which: usize, how: ClaimRun) {
        if self.claims.is_empty() {
            return;
        }
        let now = self.now;
        let (ticket, turn, verdict) = self.claims.remove(which % self.claims.len());
        let answer = match how {
            ClaimRun::FailedBefore => ClaimAnswer::Failed,
            ClaimRun::FailedAfter => {
                self.claim(turn, &verdict, now);
                ClaimAnswer::Failed
            }
            ClaimRun::Answered => self.claim(turn, &verdict, now),
            ClaimRun::SaysRun => match self.claim(turn, &verdict, now) {
                ClaimAnswer::AlreadyEnded if self.records[&turn].has_run => ClaimAnswer::AlreadyRun,
                answer => answer,
            },
        };
        // A turn that had ended and was published again may have a claim of its own by now.
        let asked_again = self.claims.iter().any(|(_, other, _)| *other == turn);
        // The answer may be about one that has left the line since.
        let held = self.queue.turns.contains_key(&ticket);
        if answer == ClaimAnswer::AlreadyRun && held && !asked_again {
            self.undecided.remove(&turn);
            self.started.insert(turn);
        }
        if let ClaimAnswer::AllEnded | ClaimAnswer::Spent = answer
            && held
            && !asked_again
        {
            self.undecided.remove(&turn);
        }
        let told = self.control.len();
        self.with_queue(|queue, now, out| queue.claim_answered(now, ticket, answer, out));
        if let (Verdict::Superseded { .. }, ClaimAnswer::AlreadyRun, true) = (verdict, answer, held)
        {
            let told = self.control.range(told..).any(|other| *other == turn);
            assert!(told, "who runs {turn:?} is not told to stop");
        }
    }

    /// The worker that runs the turn stops it.
    fn hear_control(&mut self, lost: bool) {
        let Some(turn) = self.control.pop_front().filter(|_| !lost) else {
            return;
        };
        for worker in 0..WORKERS {
            let mut running = self.workers[worker].running.iter();
            if let Some(which) = running.position(|other| *other == turn) {
                self.finish(worker, which);
            }
        }
    }

    fn hear(&mut self, status: Status) {
        match status {
            Status::Done {
                turn,
                worker,
                warm,
                journal,
            } => {
                let (workspace, id) = (WORKSPACES[turn.0], id_of(turn));
                if let Some(end) = journal {
                    self.heard.note(workspace, end);
                }
                self.heard_ends.insert(turn);
                self.with_queue(|queue, now, out| {
                    queue.served(now, workspace, &id, &worker, warm);
                    queue.use_room(now, &worker, out);
                    queue.done(now, workspace, &id, out);
                });
            }
            Status::Taken { turn, worker } => {
                let (workspace, id) = (WORKSPACES[turn.0], id_of(turn));
                self.named.insert(turn, self.now);
                self.with_queue(|queue, now, out| {
                    queue.offer_taken(now, workspace, &id, &worker, out);
                });
            }
            Status::Declined { turn, worker } => {
                let (workspace, id) = (WORKSPACES[turn.0], id_of(turn));
                self.with_queue(|queue, now, out| {
                    queue.offer_declined(now, workspace, &id, &worker, out);
                });
            }
            Status::Beat {
                worker,
                is_older,
                running,
                idle,
            } => {
                let turns = running;
                self.named
                    .extend(turns.iter().map(|turn| (*turn, self.now)));
                let ids: Vec<String> = turns.iter().map(|turn| id_of(*turn)).collect();
                let running: Vec<(&str, &str)> = turns
                    .iter()
                    .zip(&ids)
                    .map(|(turn, id)| (WORKSPACES[turn.0], id.as_str()))
                    .collect();
                let idle: Vec<&str> = idle
                    .iter()
                    .map(|workspace| WORKSPACES[*workspace])
                    .collect();
                let slots = self.slots;
                let id = disk_of(&worker);
                let disk = self.is_local.then(|| self.disk(id));
                let report = WorkerReport {
                    worker: &worker,
                    slots,
                    serves: true,
                    offers_to: (!is_older).then_some(&*worker),
                    running: &running,
                    idle: &idle,
                    idle_is_cut: false,
                    answers: !is_older,
                    disk: disk.as_ref(),
                };
                self.with_queue(|queue, now, out| {
                    queue.worker_heard(now, &report, out);
                    queue.heartbeat(now, running.iter().copied(), out);
                });
                let (now, queue) = (self.now, &self.queue);
                let mut hosts = queue.hosts.iter();
                let host = hosts.find(|(disk, _)| *disk == id);
                let next = host.and_then(|(_, host)| host.affinity.next_for(now, &worker));
                assert_eq!(
                    next, None,
                    "{worker} has a free slot, and a head waits (G2)"
                );
            }
        }
    }

    fn hear_status(&mut self, how: Hearing) {
        let status = match how {
            Hearing::LastFirst => self.status.pop_back(),
            _ => self.status.pop_front(),
        };
        let Some(status) = status else { return };
        match how {
            Hearing::Lost => {}
            Hearing::InOrder | Hearing::LastFirst => self.hear(status),
            Hearing::Twice => {
                self.hear(status.clone());
                self.hear(status);
            }
        }
    }

    fn flush_acks(&mut self, many: usize) {
        for tag in self.acks.drain(..many.min(self.acks.len())) {
            self.unacked.remove(&tag);
        }
    }

    fn has_room(&self, worker: usize) -> bool {
        !self.workers[worker].frozen && self.workers[worker].running.len() < self.slots
    }

    fn take(&mut self, worker: usize) {
        if self.has_room(worker)
            && let Some(turn) = self.work_of(worker).pop_front()
        {
            self.take_offer(worker, turn);
        }
    }

    /// From its private queue, which it looks into also when it is full.
    fn take_private(&mut self, worker: usize) {
        let id = self.id(worker);
        if self.workers[worker].frozen {
            return;
        }
        let Some(turn) = self.private.get_mut(&id).and_then(VecDeque::pop_front) else {
            return;
        };
        if self.has_room(worker) {
            self.take_offer(worker, turn);
        } else {
            self.work_of(worker).push_back(turn);
            let worker = id;
            self.status.push_back(Status::Declined { turn, worker });
        }
    }

    fn take_offer(&mut self, worker: usize, turn: Name) {
        let paused = &self.workers[worker].paused;
        if paused.of(WORKSPACES[turn.0], tenant_of(turn)).is_some() {
            return;
        }
        if !self.is_older(worker) {
            let worker = self.id(worker);
            self.status.push_back(Status::Taken { turn, worker });
        }
        let sees = |world: &Self| {
            let view = world.workers[worker].view.as_ref();
            view.unwrap_or(&world.journals)[turn.0]
        };
        let heard = self.heard.of(WORKSPACES[turn.0]);
        if heard.is_some_and(|end| end.len > sees(self)) {
            // An old read: the offer is returned.
            self.work_of(worker).push_front(turn);
            return;
        }
        let ended_at = self.records[&turn].ended_at;
        if ended_at.is_some_and(|at| at > sees(self)) {
            assert!(
                !self.heard_ends.contains(&turn),
                "{turn:?} would run again, though its end was heard (G4)"
            );
            // What was not heard is as new as the file system shows it.
            self.workers[worker].view = None;
        }
        if self.has_ended(turn) {
            self.tell_done(worker, turn);
            return;
        }
        let mut running = self.workers.iter().flat_map(|worker| &worker.running);
        if running.any(|other| other.0 == turn.0) {
            return;
        }
        assert!(
            self.is_its_turn(turn),
            "{turn:?} started before its turn (G1)"
        );
        if self.left.contains(&(turn.0, self.disks[worker])) {
            return;
        }
        if self.is_local {
            let homes = self.homes();
            let home = homes.disk_of(WORKSPACES[turn.0]).map(|disk| disk.id);
            assert_eq!(
                home,
                Some(self.disks[worker]),
                "{turn:?} runs elsewhere than at home"
            );
            let record = &self.records[&turn];
            let ran_on = record.ran_on.unwrap_or(self.disks[worker]);
            assert!(
                self.disks.contains(&ran_on),
                "{turn:?} runs again, though its disk was lost"
            );
        }
        self.servers.remove(&turn.0);
        let disk = self.disks[worker];
        let record = self.record(turn);
        record.ran_on = Some(disk);
        record.has_run = true;
        if record.mark.is_some() {
            record.ended = Some(Ended::ByRun);
            self.record_end(turn);
            self.tell_done(worker, turn);
        } else {
            self.workers[worker].running.push(turn);
            assert!(self.workers[worker].running.len() <= self.slots);
        }
    }

    fn tell_done(&mut self, worker: usize, turn: Name) {
        let worker = self.id(worker);
        let warm = self.servers.get(&turn.0) == Some(&worker);
        let journal = self.records[&turn].ended_at.map(|len| JournalEnd {
            journal: uuid::Uuid::nil(),
            segment: 1,
            len,
            crc: 0,
        });
        self.status.push_back(Status::Done {
            turn,
            worker,
            warm,
            journal,
        });
    }

    /// Who writes has the journal as it is.
    fn record_end(&mut self, turn: Name) {
        self.journals[turn.0] += 1;
        self.record(turn).ended_at = Some(self.journals[turn.0]);
    }

    fn finish(&mut self, worker: usize, which: usize) {
        if self.workers[worker].running.is_empty() || self.workers[worker].frozen {
            return;
        }
        let running = &mut self.workers[worker].running;
        let turn = running.remove(which % running.len());
        let before = self.record(turn).ended.replace(Ended::ByRun);
        assert_eq!(before, None, "{turn:?} ended twice (G5)");
        self.record_end(turn);
        // Some turns leave a server that can't be used again.
        if turn.1 % 3 != 2 && !self.is_older(worker) {
            self.servers.insert(turn.0, self.id(worker));
        }
        self.tell_done(worker, turn);
    }

    /// What it had taken goes back to all; its queue stays for a while.
    fn die(&mut self, worker: usize) {
        let id = self.id(worker);
        for turn in std::mem::take(&mut self.workers[worker].running) {
            self.work_of(worker).push_front(turn);
        }
        self.servers.retain(|_, kept_by| *kept_by != id);
        self.workers[worker].frozen = false;
        self.workers[worker].restarts += 1;
        self.declare(worker);
        self.look_at_pauses(worker);
    }

    fn pause(&mut self, paused: Option<Paused>) {
        let scope = paused.map(|paused| match paused {
            Paused::Pool => PauseScope::Pool,
            Paused::Workspace(workspace) => PauseScope::Workspace(WORKSPACES[workspace].to_owned()),
            Paused::Tenant => PauseScope::Tenant(TENANT.to_owned()),
        });
        let pause = |scope| Pause {
            scope,
            since: jiff::Timestamp::UNIX_EPOCH,
            by: String::new(),
            reason: None,
        };
        let pauses = scope.map(pause).into_iter().collect();
        self.paused = Arc::new(Pauses { pauses });
    }

    fn look_at_pauses(&mut self, process: usize) {
        let paused = Arc::clone(&self.paused);
        // Versions without private queues have no pauses either.
        if self.is_older(process) {
            return;
        }
        match self.workers.get_mut(process) {
            Some(worker) => worker.paused = paused,
            None => self.with_queue(|queue, now, out| queue.set_paused(now, paused, out)),
        }
    }

    /// As far as the active sequencer knows.
    fn is_paused(&self, turn: Name) -> bool {
        let paused = &self.queue.paused;
        paused.of(WORKSPACES[turn.0], tenant_of(turn)).is_some()
    }

    /// What was not taken in time goes to all. What a frozen process was
    /// delivered does not.
    fn expire_private(&mut self) {
        for worker in 0..WORKERS {
            if !self.workers[worker].frozen {
                self.expire(&self.id(worker));
            }
        }
        let ids: Vec<String> = (0..WORKERS).map(|worker| self.id(worker)).collect();
        let gone: Vec<String> =
            (self.private.keys().filter(|id| !ids.contains(id)).cloned()).collect();
        for id in gone {
            self.expire(&id);
        }
    }

    fn expire(&mut self, id: &str) {
        let offers = self.private.get_mut(id).map(std::mem::take);
        let disk = disk_of(id);
        // The queue of a lost disk is deleted.
        if self.disks.contains(&disk) {
            let work = self.work.entry(disk).or_default();
            work.extend(offers.unwrap_or_default());
        }
    }

    fn beats(&self) -> Vec<Status> {
        let living = (0..WORKERS).filter(|worker| !self.workers[*worker].frozen);
        let beat = living.map(|worker| {
            let (id, running) = (self.id(worker), self.workers[worker].running.clone());
            let idle = self.servers.iter().filter(|(_, kept_by)| **kept_by == id);
            Status::Beat {
                is_older: self.is_older(worker),
                idle: idle.map(|(workspace, _)| *workspace).collect(),
                worker: id,
                running,
            }
        });
        beat.collect()
    }

    fn cancel(&mut self, turn: Name, with_workspace: bool) {
        for workspace in 0..WORKSPACES.len() {
            let other = (workspace, turn.1);
            if other == turn || !with_workspace && share_an_id(turn, other) {
                self.record(other).cancelled = true;
            }
        }
        let id = id_of(turn);
        let workspace = with_workspace.then_some(WORKSPACES[turn.0]);
        self.with_queue(|queue, now, out| queue.cancel(now, &id, workspace, out));
    }

    fn pass(&mut self, time: Duration, beats_lost: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + HEARTBEAT);
            self.expire_private();
            if !beats_lost {
                self.beats().into_iter().for_each(|beat| self.hear(beat));
            }
            self.with_queue(|queue, now, out| queue.tick(now, out));
        }
    }

    fn take_over(&mut self, how: Takeover, published: bool) {
        // What was under way may have arrived or not.
        for (_, turn, to, disk) in std::mem::take(&mut self.offers) {
            if published {
                self.publish(turn, &to, disk);
            }
        }
        for record in std::mem::take(&mut self.set_homes) {
            if published {
                self.append(HomeEntry::Home(record));
            }
        }
        for (_, turn, verdict) in std::mem::take(&mut self.claims) {
            if published {
                self.claim(turn, &verdict, self.now);
            }
        }
        for (_, turn) in std::mem::take(&mut self.receipts) {
            if published {
                let now = self.now;
                self.record(turn).received.get_or_insert(now);
            }
        }
        self.acks.clear();
        self.status.clear();
        for (_, message) in std::mem::take(&mut self.unacked).into_iter().rev() {
            self.ready.push_front(Message {
                redelivered: true,
                ..message
            });
        }
        let order: Vec<u64> = self.ready.iter().map(|message| message.place).collect();
        assert!(order.is_sorted());
        self.lines.iter_mut().for_each(Vec::clear);
        self.offered.clear();
        self.undecided.clear();
        self.started.clear();
        self.named.clear();
        match how {
            Takeover::Reset => self.queue.reset(),
            Takeover::Successor | Takeover::Zombie => {
                self.successors += 1;
                let (most, seed) = (self.max_waiting, self.successors);
                let successor = new_queue(most, seed, self.is_local, self.now);
                let before = std::mem::replace(&mut self.queue, successor);
                self.zombie = matches!(how, Takeover::Zombie).then_some(before);
            }
        }
        if self.is_local {
            let homes = self.homes();
            self.unread.clear();
            self.queue.homes_read(self.now, homes);
        }
        self.look_at_pauses(WORKERS);
    }

    /// A sequencer that is no longer one, hears no message and acks into the void,
    /// goes on offering what it believes in and gets its claims answered.
    fn zombie_passes(&mut self, time: Duration) {
        let Some(mut zombie) = self.zombie.take() else {
            return;
        };
        let mut todo = Vec::new();
        zombie.tick(self.now + time, &mut todo);
        while let Some(action) = todo.pop() {
            match action {
                Action::Offer {
                    ticket,
                    turn,
                    to,
                    disk,
                    ..
                } => {
                    let turn = name_of(&turn);
                    assert!(
                        self.is_its_turn(turn),
                        "{turn:?} offered before its turn (G1)"
                    );
                    self.publish(turn, &to, disk);
                    zombie.offer_confirmed(self.now + time, ticket, &mut todo);
                }
                Action::Claim {
                    ticket,
                    turn,
                    verdict,
                    ..
                } => {
                    let answer = self.claim(name_of(&turn), &verdict, self.now + time);
                    zombie.claim_answered(self.now + time, ticket, answer, &mut todo);
                }
                // It never reads it back.
                Action::SetHome { record } => self.append(HomeEntry::Home(record)),
                Action::Ack { .. } | Action::RepeatCancel { .. } | Action::Receive { .. } => {}
            }
        }
        self.zombie = Some(zombie);
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish(turn) => {
                let place = self.published;
                self.published += 1;
                self.record(turn).place.get_or_insert(place);
                self.ready.push_back(Message {
                    place,
                    turn,
                    redelivered: false,
                });
            }
            Step::Deliver(many) => (0..many).for_each(|_| self.deliver()),
            Step::Confirm { which, taken } => self.confirm(which, taken),
            Step::Claim { which, how } => self.run_claim(which, how),
            Step::Receive { which, kept } => self.receive(which, kept),
            Step::HearControl { many, lost } => {
                (0..many).for_each(|_| self.hear_control(lost));
            }
            Step::HearStatus { many, how } => {
                (0..many).for_each(|_| self.hear_status(how));
            }
            Step::FlushAcks(many) => self.flush_acks(many),
            Step::Take(worker) => self.take(worker),
            Step::Finish { worker, which } => self.finish(worker, which),
            Step::TakePrivate(worker) => self.take_private(worker),
            Step::LookAway(worker) => self.workers[worker].view = Some(self.journals.clone()),
            Step::LookAgain(worker) => self.workers[worker].view = None,
            Step::Freeze(worker) => self.workers[worker].frozen = true,
            Step::Thaw(worker) => self.workers[worker].frozen = false,
            Step::DeleteQueue(worker) => {
                // With what lies in it. The process declares it again.
                self.private.remove(&self.id(worker));
                if !self.workers[worker].frozen {
                    self.declare(worker);
                }
            }
            Step::Moment(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                self.with_queue(|queue, now, out| queue.tick(now, out));
            }
            Step::Beat => self.status.extend(self.beats()),
            Step::Die(worker) => self.die(worker),
            Step::LoseOffer(which) => {
                let disk = self.disks[which % WORKERS];
                let work = self.work.entry(disk).or_default();
                if !work.is_empty() {
                    work.remove(which % work.len());
                }
            }
            Step::Cancel {
                turn,
                with_workspace,
            } => self.cancel(turn, with_workspace),
            Step::Pass {
                seconds,
                beats_lost,
            } => self.pass(Duration::from_secs(seconds), beats_lost),
            Step::TellDepth => self.tell_depths(),
            Step::WriteHome { which, arrives } => self.write_home(which, arrives),
            Step::ReadLog(many) => (0..many).for_each(|_| self.read_log()),
            Step::LoseDisk(worker) => self.lose_disk(worker),
            Step::Move { workspace, worker } => self.move_to(workspace, worker),
            Step::Takeover { how, published } => self.take_over(how, published),
            Step::Pause(paused) => self.pause(paused),
            Step::LookAtPauses(process) => self.look_at_pauses(process),
            Step::ZombiePasses(seconds) => self.zombie_passes(Duration::from_secs(seconds)),
        }
        self.check();
    }

    fn tell_depths(&mut self) {
        for (disk, work) in &self.work {
            self.queue.work_queue_depth(*disk, work.len() as u64);
        }
    }

    /// No fate of it is decided before its home is known.
    fn has_home(&self, turn: Name) -> bool {
        let ticket = self.queue.find(WORKSPACES[turn.0], &id_of(turn));
        ticket.is_none_or(|ticket| self.queue.turns[&ticket].disk.is_some())
    }

    /// It ends with a lost disk, once the log says so.
    fn is_lost(&self, turn: Name) -> bool {
        let ticket = self.queue.find(WORKSPACES[turn.0], &id_of(turn));
        ticket.is_some_and(|ticket| self.queue.turns[&ticket].lost_with.is_some())
    }

    /// What the requests ask for where a workspace is busy.
    fn check_busy(&mut self) {
        let held: Vec<Name> = self.lines.iter().flatten().map(|line| line.turn).collect();
        for turn in held {
            let record = &self.records[&turn];
            if self.on_busy(turn) == OnBusy::Reject
                && !self.undecided.contains(&turn)
                && !record.has_run
                && record.ended.is_none()
                && self.has_home(turn)
                && !self.is_lost(turn)
            {
                assert!(self.is_its_turn(turn), "{turn:?} waits, and was not to");
                self.record(turn).let_in = true;
            }
        }
        for line in &self.lines {
            for (place, by) in line.iter().enumerate() {
                let record = &self.records[&by.turn];
                let decided = record.has_run || record.cancelled || record.ended.is_some();
                let may_be_refused = by.turn.1 < SHARED_IDS && self.undecided.contains(&by.turn);
                if self.on_busy(by.turn) != OnBusy::Interrupt || decided || may_be_refused {
                    continue;
                }
                for turn in line[..place].iter().map(|ahead| ahead.turn) {
                    assert!(
                        self.has_ended(turn)
                            || !self.has_home(turn)
                            || self.is_lost(turn)
                            || self.is_lost(by.turn)
                            || self.undecided.contains(&turn)
                            || self.records[&turn].mark.is_some(),
                        "{turn:?} goes on, though {:?} interrupts it",
                        by.turn
                    );
                }
            }
        }
    }

    /// No head waits without a reason of its own (G2), and the numbers agree.
    fn check(&mut self) {
        self.check_busy();
        self.check_affinity();
        let held: usize = self.lines.iter().map(Vec::len).sum();
        assert_eq!(self.queue.turns(), held);
        let busy = self.lines.iter().filter(|line| !line.is_empty()).count();
        assert_eq!(self.queue.workspaces(), busy);
        let mut needs_timer = false;
        for head in self.lines.iter().filter_map(|line| line.first()) {
            let turn = head.turn;
            let in_flight = self.offers.iter().any(|(_, other, ..)| *other == turn);
            let in_claim = self.claims.iter().any(|(_, other, _)| *other == turn);
            if !self.has_home(turn) {
                assert!(
                    in_claim || self.waits_for_home(turn),
                    "{turn:?} gets no home"
                );
                continue;
            }
            if self.is_lost(turn) {
                continue;
            }
            let is_paused = self.is_paused(turn);
            needs_timer |= !in_flight && !in_claim && !is_paused;
            let listens = head.redelivered && self.now < head.at + LISTEN;
            let named = self.named.get(&turn);
            let runs = named.is_some_and(|at| self.now < *at + REPEAT.first);
            assert!(
                self.offered.contains(&turn)
                    || self.undecided.contains(&turn)
                    || self.waits_for_room(turn)
                    || is_paused
                    || listens
                    || runs,
                "{turn:?} is head and was not offered (G2)"
            );
        }
        for in_line in self.lines.iter().flatten() {
            let turn = in_line.turn;
            assert!(
                in_line.due.is_none_or(|due| self.now < due)
                    || !self.has_home(turn)
                    || self.is_lost(turn)
                    || self.undecided.contains(&turn)
                    || self.started.contains(&turn),
                "{turn:?} may still start too late"
            );
        }
        if needs_timer {
            let next = self.queue.next_deadline();
            assert!(next.is_some_and(|at| at <= self.now + REPEAT.most));
        }
    }

    /// With a timer, and only while no slot is known to be free for it.
    fn waits_for_room(&self, turn: Name) -> bool {
        let ticket = self.queue.find(WORKSPACES[turn.0], &id_of(turn));
        ticket.is_some_and(|ticket| {
            let held = &self.queue.turns[&ticket];
            let host = held.disk.and_then(|disk| self.queue.hosts.get(disk));
            host.is_some_and(|host| host.affinity.waits(ticket))
                && held.timer.is_some_and(|at| at <= self.now + LOOK_AGAIN)
        })
    }

    /// A home is asked for, or will be when a disk is there.
    fn waits_for_home(&self, turn: Name) -> bool {
        let line = &self.queue.lines[WORKSPACES[turn.0]];
        let mut tickets = line.order.iter();
        let timer = tickets.any(|ticket| {
            let held = &self.queue.turns[ticket];
            // Its end with a lost disk may have failed to be published several times.
            let latest = (self.now + LOOK_AGAIN).max(held.claim_not_before);
            held.timer.is_some_and(|at| at <= latest)
        });
        line.asks_home || timer
    }

    /// What is counted for processes is what the turns say of themselves.
    fn check_affinity(&self) {
        for held in self.queue.turns.values() {
            if self.is_paused(name_of(&held.turn)) && !held.in_flight {
                let waits = held.offered_to.is_some() || held.unanswered.is_some();
                assert!(
                    !waits,
                    "{:?} holds up others, though it is paused (G2)",
                    held.turn
                );
            }
            let is_decided = held.asked.is_some() || held.claim_not_before > self.now;
            if held.offered_to.is_some() && !held.in_flight && !is_decided {
                let at = held.timer.expect("a private offer is waited for");
                assert!(at <= self.now + NO_WORD, "{:?} waits (G2)", held.turn);
            }
        }
        for (disk, host) in self.queue.hosts.iter() {
            host.affinity.check(disk, &self.queue.turns);
        }
    }

    fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.unacked.is_empty() && self.queue.turns() == 0
    }

    fn are_slots_free(&self) -> bool {
        let mut living = self.workers.iter().filter(|worker| !worker.frozen);
        living.all(|worker| worker.running.is_empty())
    }

    /// There are no more faults: every turn must come to its end.
    pub(crate) fn settle(&mut self) {
        for worker in &mut self.workers {
            worker.view = None;
        }
        self.pause(None);
        (0..=WORKERS).for_each(|process| self.look_at_pauses(process));
        for round in 0..2_000 {
            if self.is_quiet() {
                break;
            }
            while !self.ready.is_empty() {
                self.deliver();
            }
            while !self.claims.is_empty() {
                self.run_claim(0, ClaimRun::Answered);
            }
            while !self.set_homes.is_empty() {
                self.write_home(0, true);
            }
            while !self.unread.is_empty() {
                self.read_log();
            }
            while !self.receipts.is_empty() {
                self.receive(0, true);
            }
            while !self.control.is_empty() {
                self.hear_control(false);
            }
            while !self.offers.is_empty() {
                self.confirm(0, true);
            }
            while let Some(status) = self.status.pop_front() {
                self.hear(status);
            }
            for worker in 0..WORKERS {
                // The broker drops a frozen process some time.
                if round > 50 && self.workers[worker].frozen {
                    self.die(worker);
                }
                while !self.workers[worker].running.is_empty() && !self.workers[worker].frozen {
                    self.finish(worker, 0);
                }
                for _ in 0..self.slots {
                    self.take_private(worker);
                    self.take(worker);
                }
            }
            self.flush_acks(usize::MAX);
            self.tell_depths();
            if self.work.values().all(VecDeque::is_empty)
                && self.status.is_empty()
                && self.are_slots_free()
            {
                let next = self.queue.next_deadline().unwrap_or(self.now);
                self.pass(next.saturating_duration_since(self.now), false);
            }
            self.check();
        }
        assert!(self.is_quiet(), "something is held for ever (G4)");
        assert_eq!(self.queue.next_deadline(), None);
        assert!(self.queue.by_id.is_empty() && self.queue.lines.is_empty());
        for (turn, record) in &self.records {
            assert!(
                record.place.is_none() || record.ended.is_some(),
                "{turn:?} never ended"
            );
            if let Some(Ended::By(Verdict::Cancelled)) = record.ended {
                assert!(record.cancelled);
            }
            if let Some(Ended::By(Verdict::Superseded { by })) = &record.ended {
                let by = &self.records[&named(turn.0, by)];
                assert!(by.place.is_some() && by.ended.is_some());
            }
            let is_lost = matches!(record.ended, Some(Ended::By(Verdict::HostLost { .. })));
            if let Some(Ended::By(_)) = record.ended
                && !is_lost
            {
                assert!(!record.has_run, "{turn:?} ran and was told it did not");
            }
        }
    }
}

/// Of the process of that name.
fn disk_of(process: &str) -> Uuid {
    let disk = process.rsplit('-').next().unwrap();
    Uuid::from_u128(disk.parse().unwrap())
}

fn new_queue(max_waiting: usize, seed: u64, is_local: bool, now: Instant) -> Queue {
    let queue = Queue::new(max_waiting, seed);
    match is_local {
        true => queue.with_local_storage(now),
        false => queue,
    }
}

fn id_of(turn: Name) -> String {
    match turn {
        (_, number) if number < SHARED_IDS => number.to_string(),
        (workspace, number) => format!("{}-{number}", WORKSPACES[workspace]),
    }
}

const TENANT: &str = "odd";

fn tenant_of(turn: Name) -> Option<&'static str> {
    (turn.1 % 2 == 1).then_some(TENANT)
}

fn share_an_id(turn: Name, other: Name) -> bool {
    turn.0 != other.0 && id_of(turn) == id_of(other)
}

/// The turn of that id in a workspace.
fn named(workspace: usize, id: &str) -> Name {
    let number = id.rsplit('-').next().unwrap_or(id);
    (workspace, number.parse().unwrap())
}

fn name_of(turn: &QueuedTurn) -> Name {
    let workspace = WORKSPACES.iter().position(|w| *w == &*turn.workspace);
    named(workspace.unwrap(), &turn.turn_id)
}
