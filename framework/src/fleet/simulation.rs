//! The fleet as a whole: nodes that come and go, the queue, and which node has which job.
//!
//! Events in the order of their times; among those of one instant, in a fixed order. Runs are played on their own and
//! show up here when they end.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Fleet;
use super::keeper::{Keeper, Nobody, Queue};
use super::node::{Bursts, Node};
use super::outcome::{Outcome, Sample};
use super::random::{self, seconds};
use super::run::{End, Run, Zombie};
use super::saver::{Saver, Task};
use crate::checkpoint::interval::History;
use crate::error::Error;
use crate::job::Job;
use crate::source::limit;
use crate::verdict::{Verdict, judge};

/// How long a node tries to read a state, before it gives the job back.
const GIVES_UP: Duration = Duration::from_secs(60);
/// Round trips before work begins: the receive, the claim of the checkpoint, its manifest.
const ROUND_TRIPS: u32 = 3;
/// How many samples there are.
const SAMPLES: u32 = 240;

/// Among events of one instant the first is the first here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A job can be received.
    Visible(usize),
    /// A node is there.
    Born(usize),
    /// The node of that number is ready for another job.
    Free(usize, u64),
    /// Something happens to the run of a node.
    Run(usize),
    /// The node of that number is lost.
    Dies(usize, u64),
}

/// One of the fleet's places, with one node after the other.
struct Place {
    /// How many nodes it has had.
    number: u64,
    /// The last of them, while it is there.
    node: Option<Node>,
    runs: u64,
    run: Option<Run>,
    idle_since: Duration,
    /// What its worker has learned from the last job that it had.
    learned: History,
}

struct Work {
    /// What is saved: how far it is, and the nodes that it has had.
    progress: Duration,
    history: History,
    attempts: u32,
    /// Which of them saved last.
    saved: u32,
    first: Duration,
    /// When it was left by its last node.
    since: Duration,
    /// Its last node goes on with it.
    zombie: Option<(Run, Zombie)>,
}

pub(super) struct Simulation<'a> {
    fleet: &'a Fleet,
    queue: Queue,
    bursts: Bursts,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    places: Vec<Place>,
    alive: u64,
    jobs: Vec<Work>,
    /// Jobs that wait for a node, and nodes that wait for a job.
    visible: VecDeque<usize>,
    /// By their places and numbers; some may be lost by now.
    idle: VecDeque<(usize, u64)>,
    outcome: Outcome,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(fleet: &'a Fleet) -> Self {
        let place = || Place {
            number: 0,
            node: None,
            runs: 0,
            run: None,
            idle_since: Duration::ZERO,
            learned: History::default(),
        };
        let queue = Queue {
            origin: Instant::now(),
            job: Job::new("simulated"),
            receipt: Arc::new(Nobody),
            faults: fleet.faults,
        };
        let first = |place: usize| Reverse((Node::first(fleet.seed, place as u64), Event::Born(place)));
        Simulation {
            fleet,
            queue,
            bursts: Bursts::draw(fleet.seed, fleet.preset, fleet.time),
            events: (0..fleet.nodes).map(first).collect(),
            places: (0..fleet.nodes).map(|_| place()).collect(),
            alive: 0,
            jobs: Vec::new(),
            visible: VecDeque::new(),
            idle: VecDeque::new(),
            outcome: Outcome::default(),
        }
    }

    pub(super) fn play(mut self) -> Outcome {
        let end = self.fleet.time;
        let mut sampled = 0;
        while let Some(Reverse((now, event))) = self.events.pop().filter(|Reverse((now, _))| *now < end) {
            self.sample(&mut sampled, now);
            match event {
                Event::Visible(job) => {
                    self.visible.push_back(job);
                    self.hand_out(now);
                }
                Event::Born(place) => self.born(place, now),
                Event::Free(place, number) if self.is_there(place, number) => {
                    self.idle.push_back((place, number));
                    self.hand_out(now);
                }
                Event::Run(place) => self.runs(place, now),
                Event::Dies(place, number) if self.is_there(place, number) && self.places[place].run.is_none() => {
                    self.outcome.idle += now - self.places[place].idle_since;
                    self.dies(place, now);
                }
                Event::Free(..) | Event::Dies(..) => {}
            }
        }
        self.sample(&mut sampled, end);
        self.close(end);
        self.outcome
    }

    fn is_there(&self, place: usize, number: u64) -> bool {
        self.places[place].number == number && self.places[place].node.is_some()
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.events.push(Reverse((at, event)));
    }

    fn sample(&mut self, sampled: &mut u32, now: Duration) {
        while *sampled <= SAMPLES {
            let at = self.fleet.time.mul_f64(f64::from(*sampled) / f64::from(SAMPLES));
            if at > now {
                break;
            }
            *sampled += 1;
            self.outcome.samples.push(Sample { at, nodes: self.alive, finished: self.outcome.finished });
        }
    }

    fn born(&mut self, at: usize, now: Duration) {
        let place = &mut self.places[at];
        place.number += 1;
        let node = Node::draw(self.fleet.seed, at as u64, place.number, now, self.fleet.preset, &self.bursts);
        (place.node, place.runs, place.idle_since) = (Some(node), 0, now);
        place.learned = History::default();
        let number = place.number;
        self.alive += 1;
        self.at(node.dies, Event::Dies(at, number));
        self.idle.push_back((at, number));
        self.hand_out(now);
    }

    fn dies(&mut self, at: usize, now: Duration) {
        if let Some(node) = self.places[at].node.take() {
            self.alive -= 1;
            self.outcome.losses += 1;
            self.outcome.node_time += now - node.born;
            self.at(now + node.gap, Event::Born(at));
        }
    }

    /// Gives jobs to nodes while there are both: those given back first, and no more jobs at once than nodes.
    fn hand_out(&mut self, now: Duration) {
        while let Some(&(place, number)) = self.idle.front() {
            if !self.is_there(place, number) {
                self.idle.pop_front();
                continue;
            }
            let job = match self.visible.pop_front() {
                Some(job) => job,
                None if self.may_start() => self.start(now),
                None => return,
            };
            self.idle.pop_front();
            self.begin(place, job, now);
        }
    }

    fn may_start(&self) -> bool {
        let Outcome { started, finished, .. } = self.outcome;
        started - finished < self.fleet.nodes as u64 && self.fleet.jobs.is_none_or(|jobs| started < jobs)
    }

    fn start(&mut self, now: Duration) -> usize {
        self.outcome.started += 1;
        self.jobs.push(Work {
            progress: Duration::ZERO,
            history: History::default(),
            attempts: 0,
            saved: 0,
            first: now,
            since: now,
            zombie: None,
        });
        self.jobs.len() - 1
    }

    /// A node has asked for a job, and gets this one.
    fn begin(&mut self, at: usize, job: usize, now: Duration) {
        self.claimed(job, now);
        let (place, work, fleet) = (&mut self.places[at], &mut self.jobs[job], self.fleet);
        let Some(node) = place.node else { return };
        self.outcome.idle += now - place.idle_since;
        self.outcome.gaps += now - work.since;
        work.attempts += 1;

        let age = now - node.born;
        let interval = fleet.interval.clone().learn(work.history.clone().or(&place.learned), age);

        let mut random = random::seeded(&[node.seed, place.runs]);
        place.runs += 1;
        let link = node.link;
        let restores = work.progress.is_zero() || random.f64() >= fleet.faults;
        let bits = if work.progress.is_zero() { 0.0 } else { fleet.state as f64 * 8.0 };
        let reading = if restores { seconds(bits / link.down) } else { GIVES_UP };
        let task = Task {
            born: node.born,
            cost: fleet.cost,
            upload: seconds(fleet.state as f64 * 8.0 / link.up) + 2 * link.rtt,
            restore: ROUND_TRIPS * link.rtt + reading,
            restores,
            length: fleet.job,
        };
        let keeper = Keeper::new(&self.queue, now, link.rtt, random);
        let saver = Saver::new(task, interval, now, work.progress);
        if restores && !work.progress.is_zero() {
            self.outcome.received += fleet.state;
        }
        let mut run = Run::new(job, node, keeper, saver, !fleet.every_event);
        if !fleet.every_event {
            // Whoever plays every event plays it in the order of all runs' events.
            while run.next() < fleet.time && run.end.is_none() {
                let next = run.next();
                if run.step().is_some() {
                    self.at(next, Event::Run(at));
                }
            }
        } else {
            self.at(run.next(), Event::Run(at));
        }
        self.places[at].run = Some(run);
    }

    /// Something happens to a run, or it has ended.
    fn runs(&mut self, at: usize, now: Duration) {
        let Some(mut run) = self.places[at].run.take() else { return };
        match run.end.or_else(|| run.step()) {
            Some(end) => self.ended(at, run, end, now),
            None => {
                self.at(run.next(), Event::Run(at));
                self.places[at].run = Some(run);
            }
        }
    }

    fn ended(&mut self, at: usize, mut run: Run, end: End, now: Duration) {
        run.catch_up(now);
        self.outcome.renewals += run.keeper.renewals;
        self.outcome.failed_renewals += run.keeper.failed;
        let (job, rtt, number) = (run.job, run.node.link.rtt, self.places[at].number);
        let visible = match end {
            End::Finished => None,
            End::Died | End::LeaseLost => Some(run.keeper.visible().max(now)),
            End::HandedOver => Some(now + rtt / 2 + self.held_back(&run, Duration::ZERO, now)),
            End::NotRestored => {
                let tries = self.jobs[job].attempts - self.jobs[job].saved;
                let verdict = judge(Err(Error::transient("reading the state")), &format!("job-{job}"), tries, 3);
                let after = match verdict {
                    Verdict::Retry { after, .. } => after,
                    // Not for a fault that passes.
                    Verdict::Done(_) | Verdict::Reject { .. } => Duration::ZERO,
                };
                Some(now + rtt / 2 + self.held_back(&run, after, now))
            }
        };
        if let Some(visible) = visible {
            self.at(visible, Event::Visible(job));
        }
        let zombie = if end == End::Died { run.zombie() } else { None };
        match end {
            End::Died => self.dies(at, now),
            _ => {
                self.places[at].idle_since = now;
                if !run.saver.is_restoring() {
                    self.places[at].learned = run.saver.learned(now);
                }
                self.at(now + rtt, Event::Free(at, number));
            }
        }
        match end {
            End::Finished => {}
            End::HandedOver => {
                self.outcome.hand_overs += 1;
                let written = run.saver.is_written_down() || run.saver.is_restoring();
                self.outcome.unsaved_hand_overs += u64::from(!written);
            }
            End::LeaseLost => self.outcome.leases_lost += 1,
            End::NotRestored => self.outcome.not_restored += 1,
            End::Died => {}
        }
        match zombie {
            Some(zombie) => self.jobs[job].zombie = Some((run, zombie)),
            None => self.left(run, now, end == End::Finished),
        }
        if end == End::Finished {
            self.outcome.finished += 1;
            self.outcome.job_time += now - self.jobs[job].first;
            self.hand_out(now);
        }
    }

    /// The pause that the queue grants.
    fn held_back(&self, run: &Run, after: Duration, now: Duration) -> Duration {
        let origin = self.queue.origin;
        Duration::from_secs(limit::pause(origin + run.keeper.received(), origin + now, after).into())
    }

    /// A job leaves its node: what it did there is counted, and what was not saved is lost.
    fn left(&mut self, mut run: Run, now: Duration, finished: bool) {
        self.count(&mut run, now, finished);
        self.outcome.sent += (run.saver.sent(now) * self.fleet.state as f64) as u64;
    }

    fn count(&mut self, run: &mut Run, now: Duration, keeps: bool) {
        let progress = run.saver.progress(now);
        let work = &mut self.jobs[run.job];
        let before = work.progress;
        if let Some(kept) = run.saver.kept {
            (work.progress, work.history) = (kept.progress, run.saver.history(kept));
            work.saved = work.attempts;
        }
        if keeps {
            work.progress = progress;
        }
        work.since = now;
        let spent = run.saver.spent;
        self.outcome.useful += work.progress - before;
        self.outcome.lost += progress - work.progress;
        self.outcome.overhead += spent.blocked;
        self.outcome.restoring += spent.restoring;
        self.outcome.handing_over += spent.handing_over;
        self.outcome.saves += run.saver.uploads;
    }

    /// Another node claims the job, or the simulation ends: what a zombie stored by now stands, and the rest is refused.
    fn claimed(&mut self, job: usize, now: Duration) {
        let Some((mut run, zombie)) = self.jobs[job].zombie.take() else { return };
        let mut end = zombie.play(&mut run.saver, now);
        self.outcome.zombie_time += end - run.node.dies;
        self.count(&mut run, end, false);
        if end == now
            && let Some(refused) = zombie.is_refused(&mut run.saver, self.fleet.time)
        {
            self.outcome.refused += 1;
            end = refused;
        }
        self.outcome.sent += (run.saver.sent(end) * self.fleet.state as f64) as u64;
    }

    /// Counts what is under way at the end.
    fn close(&mut self, end: Duration) {
        for at in 0..self.places.len() {
            if let Some(node) = self.places[at].node {
                self.outcome.node_time += end - node.born;
                match self.places[at].run.take() {
                    Some(mut run) => {
                        run.catch_up(end);
                        self.outcome.renewals += run.keeper.renewals;
                        self.outcome.failed_renewals += run.keeper.failed;
                        let job = run.job;
                        self.left(run, end, true);
                        self.jobs[job].since = end;
                    }
                    None => self.outcome.idle += end - self.places[at].idle_since,
                }
            }
        }
        for job in 0..self.jobs.len() {
            self.claimed(job, end);
        }
        let unfinished = self.jobs.iter().filter(|work| work.progress < self.fleet.job);
        for work in unfinished {
            self.outcome.job_time += end - work.first;
            self.outcome.gaps += end - work.since;
        }
    }
}
