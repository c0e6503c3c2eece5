//! Which worker is in which slot, and which one gets the next room.

use super::placement::Slot;
use super::{Worker, WorkerStatus};

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
    /// Its worker answered when it was asked last.
    answers: bool,
    restarts: u64,
    /// Number of the pick that chose it last.
    last_pick: u64,
}

impl Entry {
    fn is_ready(&self) -> bool {
        self.answers && self.worker.is_some()
    }
}

impl Table {
    /// A table of empty slots.
    pub fn new(slots: &[Slot]) -> Self {
        let entry = |slot: &Slot| Entry {
            slot: *slot,
            pid: None,
            worker: None,
            answers: false,
            restarts: 0,
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
        }
    }

    /// A worker is ready.
    pub fn publish(&mut self, worker: Worker) {
        if let Some(entry) = self.entries.get_mut(worker.index) {
            entry.worker = Some(worker);
            entry.answers = true;
        }
    }

    /// A slot's worker did or did not answer when it was asked.
    pub fn answered(&mut self, index: usize, answers: bool) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.answers = answers;
        }
    }

    /// A slot's process is gone; answers its identity if it was ready.
    pub fn retire(&mut self, index: usize) -> Option<super::WorkerId> {
        let entry = self.entries.get_mut(index)?;
        entry.pid = None;
        entry.worker.take().map(|worker| worker.id)
    }

    /// Of the live workers that answer, the one that was not picked for the
    /// longest time.
    pub fn pick(&mut self) -> Option<Worker> {
        let ready = self.entries.iter_mut().filter(|e| e.is_ready());
        let entry = ready.min_by_key(|entry| entry.last_pick)?;
        self.picks += 1;
        entry.last_pick = self.picks;
        entry.worker.clone()
    }

    /// The live workers, in order of index.
    pub fn live(&self) -> Vec<Worker> {
        let workers = self.entries.iter().filter_map(|e| e.worker.as_ref());
        workers.cloned().collect()
    }

    /// One entry for each slot, in order of index.
    pub fn status(&self) -> Vec<WorkerStatus> {
        let status = |entry: &Entry| WorkerStatus {
            index: entry.slot.index,
            pid: entry.pid,
            cpu: entry.slot.cpu,
            ports: entry.slot.ports,
            ready: entry.is_ready(),
            restarts: entry.restarts,
        };
        self.entries.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;
    use crate::workers::{WorkerClient, WorkerId};

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
            .filter_map(|_| table.pick().map(|worker| worker.id.0))
            .collect()
    }

    #[tokio::test]
    async fn ready_workers_take_turns() {
        let slots: Vec<Slot> = (0..3)
            .map(|index| Slot {
                index,
                cpu: Some(index),
                ports: (1, 4),
            })
            .collect();
        let mut table = Table::new(&slots);
        assert!(table.pick().is_none());
        for index in 0..3 {
            table.spawned(index, Some(100));
            table.publish(worker(index, index as u64));
        }
        assert_eq!(picks(&mut table, 4), [0, 1, 2, 0]);
        assert_eq!(table.retire(1), Some(WorkerId(1)));
        assert_eq!(table.retire(1), None);
        assert_eq!(picks(&mut table, 3), [2, 0, 2]);
        table.restarting(1);
        table.publish(worker(1, 7));
        assert_eq!(picks(&mut table, 3), [7, 0, 2]);
        table.answered(0, false);
        assert_eq!(picks(&mut table, 3), [7, 2, 7]);
        assert!(!table.status()[0].ready);
        table.answered(0, true);
        assert_eq!(picks(&mut table, 1), [0]);

        let status = table.status();
        assert_eq!(status[1].restarts, 1);
        assert_eq!((status[1].ready, status[1].pid), (true, None));
        assert_eq!((status[0].ready, status[0].pid), (true, Some(100)));
        assert_eq!(table.live().len(), 3);
    }
}
