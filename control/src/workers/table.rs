//! Which worker is in which slot, and which one gets the next room.

use std::time::SystemTime;

use proto::DumpResponse;
use tokio::time::Instant;

use super::load::Meter;
use super::placement::Slot;
use super::{LastExit, Worker, WorkerId, WorkerState, WorkerStatus};

/// The slots and who fills them.
#[derive(Debug)]
pub struct Table {
    entries: Vec<Entry>,
    picks: u64,
}

#[derive(Debug)]
struct Entry {
    slot: Slot,
    pid: Option<u32>,
    worker: Option<Worker>,
    /// Since when there is one.
    ready_since: Option<Instant>,
    /// Its worker answered when it was asked last.
    answers: bool,
    /// It is to get no more rooms.
    draining: bool,
    /// No other process is started for it.
    given_up: bool,
    restarts: u64,
    last_exit: Option<LastExit>,
    meter: Meter,
    /// Number of the pick that chose it last.
    last_pick: u64,
}

impl Entry {
    /// What matters most: a worker that does not answer may be the end of its calls,
    /// also where it drains.
    fn state(&self) -> WorkerState {
        match (&self.worker, self.pid) {
            (Some(_), _) if !self.answers => WorkerState::Stuck,
            (Some(_), _) if self.draining => WorkerState::Draining,
            (Some(_), _) => WorkerState::Ready,
            (None, _) if self.given_up => WorkerState::Failed,
            (None, Some(_)) => WorkerState::Starting,
            (None, None) => WorkerState::Restarting,
        }
    }

    /// Its worker, if it gets new rooms. One that did not answer when it was asked last
    /// may have been busy for a moment: if not, it is killed soon, and its rooms move.
    fn taker(&self) -> Option<&Worker> {
        self.worker.as_ref().filter(|_| !self.draining)
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            index: self.slot.index,
            pid: self.pid,
            cpu: self.slot.cpu,
            ports: self.slot.ports,
            state: self.state(),
            draining: self.worker.is_some() && self.draining,
            ready_for: self.ready_since.map(|since| since.elapsed()),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
            load: self.meter.load().cloned(),
        }
    }

    fn ports(&self) -> u32 {
        let (first, last) = self.slot.ports;
        u32::from(last.saturating_sub(first)) + 1
    }
}

impl Table {
    /// A table of empty slots.
    pub fn new(slots: &[Slot]) -> Self {
        let entry = |slot: &Slot| Entry {
            slot: *slot,
            pid: None,
            worker: None,
            ready_since: None,
            answers: false,
            draining: false,
            given_up: false,
            restarts: 0,
            last_exit: None,
            meter: Meter::default(),
            last_pick: 0,
        };
        Self {
            entries: slots.iter().map(entry).collect(),
            picks: 0,
        }
    }

    /// A process was started for a slot.
    pub fn spawned(&mut self, index: usize, pid: Option<u32>) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.pid = pid;
        }
    }

    /// A slot's process is about to be replaced.
    pub fn restarting(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.restarts += 1;
            entry.given_up = false;
        }
    }

    /// No other process is started for a slot.
    pub fn give_up(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.given_up = true;
        }
    }

    /// A worker is ready.
    pub fn publish(&mut self, worker: Worker) {
        if let Some(entry) = self.entries.get_mut(worker.index) {
            entry.worker = Some(worker);
            entry.ready_since = Some(Instant::now());
            entry.answers = true;
            entry.draining = false;
            entry.meter = Meter::default();
        }
    }

    /// A slot's worker was asked for its numbers, and answered, or did not.
    pub fn answered(&mut self, index: usize, answers: bool, dump: Option<DumpResponse>) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.answers = answers;
            if let Some(dump) = dump {
                entry.meter.sample(Instant::now(), dump);
            }
        }
    }

    /// A slot's worker is to get no more rooms; answers whether there is one.
    pub fn drain(&mut self, index: usize) -> Option<WorkerId> {
        let entry = self.entries.get_mut(index)?;
        let worker = entry.worker.as_ref()?;
        entry.draining = true;
        Some(worker.id)
    }

    /// A slot's process is gone; answers its identity if it was ready.
    pub fn retire(&mut self, index: usize) -> Option<WorkerId> {
        let entry = self.entries.get_mut(index)?;
        entry.pid = None;
        entry.ready_since = None;
        entry.meter = Meter::default();
        entry.worker.take().map(|worker| worker.id)
    }

    /// How a slot's process ended.
    pub fn ended(&mut self, index: usize, reason: String, last_lines: Vec<String>) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.last_exit = Some(LastExit {
                reason,
                last_lines,
                at: SystemTime::now(),
            });
        }
    }

    /// Of the workers that get rooms and that `fits` takes, the one with the lowest
    /// load, but one that does not answer last of all; of several, the one that was not
    /// picked for the longest time.
    pub fn pick(&mut self, fits: &dyn Fn(&Worker) -> bool) -> Option<Worker> {
        let taken = |entry: &&mut Entry| entry.taker().is_some_and(fits);
        let takers = self.entries.iter_mut().filter(taken);
        let entry = takers.min_by(|a, b| {
            let by_answer = b.answers.cmp(&a.answers);
            let by_cost = a.meter.cost(a.ports()).total_cmp(&b.meter.cost(b.ports()));
            by_answer.then(by_cost).then(a.last_pick.cmp(&b.last_pick))
        })?;
        self.picks += 1;
        entry.last_pick = self.picks;
        entry.meter.placed();
        entry.worker.clone()
    }

    /// The live workers, in order of index.
    pub fn live(&self) -> Vec<Worker> {
        let workers = self.entries.iter().filter_map(|e| e.worker.as_ref());
        workers.cloned().collect()
    }

    /// The workers that get new rooms.
    pub fn takers(&self) -> Vec<WorkerId> {
        let takers = self.entries.iter().filter_map(Entry::taker);
        takers.map(|worker| worker.id).collect()
    }

    /// The state of each slot, in order of index.
    pub fn states(&self) -> Vec<WorkerState> {
        self.entries.iter().map(Entry::state).collect()
    }

    /// One entry for each slot, in order of index.
    pub fn status(&self) -> Vec<WorkerStatus> {
        self.entries.iter().map(Entry::status).collect()
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;
    use crate::workers::WorkerClient;

    fn worker(index: usize, id: u64) -> Worker {
        let channel = Endpoint::from_static("http://nowhere").connect_lazy();
        Worker {
            id: WorkerId(id),
            index,
            client: WorkerClient::new(channel),
        }
    }

    fn picks(table: &mut Table, count: usize) -> Vec<u64> {
        (0..count)
            .filter_map(|_| table.pick(&|_| true).map(|worker| worker.id.0))
            .collect()
    }

    fn table_of(workers: usize) -> Table {
        let slots: Vec<Slot> = (0..workers)
            .map(|index| Slot {
                index,
                cpu: Some(index),
                ports: (1, 4),
            })
            .collect();
        let mut table = Table::new(&slots);
        assert!(table.pick(&|_| true).is_none());
        for index in 0..workers {
            table.spawned(index, Some(100));
            table.publish(worker(index, index as u64));
        }
        table
    }

    #[tokio::test]
    async fn idle_workers_take_turns() {
        let mut table = table_of(3);
        assert_eq!(picks(&mut table, 4), [0, 1, 2, 0]);
        assert_eq!(table.retire(1), Some(WorkerId(1)));
        assert_eq!(table.retire(1), None);
        assert_eq!(picks(&mut table, 3), [2, 0, 2]);
        table.restarting(1);
        table.publish(worker(1, 7));
        // Nothing was placed on it yet.
        assert_eq!(picks(&mut table, 3), [7, 7, 7]);
        table.answered(0, false, None);
        assert_eq!(picks(&mut table, 3), [2, 7, 2]);
        assert_eq!(table.states()[0], WorkerState::Stuck);
        table.answered(0, true, None);
        assert_eq!(picks(&mut table, 1), [0]);

        let status = table.status();
        assert_eq!(status[1].restarts, 1);
        assert_eq!((status[1].state, status[1].pid), (WorkerState::Ready, None));
        assert_eq!(status[0].pid, Some(100));
        assert_eq!(table.live().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_busiest_worker_comes_last() {
        let mut table = table_of(3);
        let mut tell = async |cpu: [u64; 3]| {
            for (index, cpu_user_us) in cpu.into_iter().enumerate() {
                let dump = DumpResponse {
                    cpu_user_us,
                    ..DumpResponse::default()
                };
                table.answered(index, true, Some(dump));
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        };
        tell([0, 0, 0]).await;
        tell([900_000, 100_000, 150_000]).await;
        assert_eq!(picks(&mut table, 5), [1, 1, 1, 2, 1]);
        // One that is out of the question is not counted as picked.
        let only = |id| move |worker: &Worker| worker.id == WorkerId(id);
        assert_eq!(table.pick(&only(0)).unwrap().index, 0);
        assert!(table.pick(&only(9)).is_none());
    }

    #[tokio::test]
    async fn states() {
        let mut table = table_of(1);
        let state = |table: &Table| table.status()[0].state;
        assert_eq!(state(&table), WorkerState::Ready);
        // It may only be busy: where there is no other, it gets rooms.
        table.answered(0, false, None);
        assert_eq!(state(&table), WorkerState::Stuck);
        assert_eq!(table.takers(), [WorkerId(0)]);
        assert_eq!(picks(&mut table, 1), [0]);
        table.answered(0, true, None);
        assert_eq!(state(&table), WorkerState::Ready);
        assert_eq!(table.drain(0), Some(WorkerId(0)));
        assert_eq!(state(&table), WorkerState::Draining);
        assert!(picks(&mut table, 1).is_empty());
        assert!(table.takers().is_empty());
        assert_eq!(table.live().len(), 1);
        // Not to answer is worse, and does not hide that it drains.
        table.answered(0, false, None);
        assert_eq!(state(&table), WorkerState::Stuck);
        assert!(table.status()[0].draining);
        assert!(picks(&mut table, 1).is_empty());
        table.ended(0, "signal: 9".into(), vec!["bye".into()]);
        assert!(table.retire(0).is_some());
        assert_eq!(state(&table), WorkerState::Restarting);
        assert!(!table.status()[0].draining);
        assert_eq!(table.drain(0), None);
        table.spawned(0, Some(7));
        assert_eq!(state(&table), WorkerState::Starting);
        table.publish(worker(0, 1));
        assert_eq!(state(&table), WorkerState::Ready);
        let exit = table.status()[0].last_exit.clone().unwrap();
        assert_eq!(
            (exit.reason.as_str(), exit.last_lines.len()),
            ("signal: 9", 1)
        );
        table.retire(0);
        table.give_up(0);
        assert_eq!(state(&table), WorkerState::Failed);
        table.restarting(0);
        assert_eq!(state(&table), WorkerState::Restarting);
        assert_eq!(table.drain(3), None);
    }
}
