//! The SCTP stream ids of one transport: which are taken, by data channels of
//! either direction, and which is the next to take. A negotiated data channel
//! uses its id both ways, so the two directions share one table.

use std::collections::HashSet;

/// The stream ids of a transport.
#[derive(Debug)]
pub(super) struct StreamIds {
    taken: HashSet<u16>,
    /// Ids that the client may use are below this.
    limit: u16,
    /// Ids that are handed out are below this.
    incoming_limit: u16,
    /// The next one to hand out, if it is free.
    next: u16,
}

impl StreamIds {
    /// For a client that opens up to `outgoing` streams and takes up to
    /// `incoming`.
    pub fn new(outgoing: u16, incoming: u16) -> Self {
        Self {
            taken: HashSet::new(),
            limit: outgoing.max(incoming),
            incoming_limit: incoming,
            next: 0,
        }
    }

    /// Ids are below this.
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// Takes this id; false when it is taken already.
    pub fn take(&mut self, id: u16) -> bool {
        self.taken.insert(id)
    }

    /// Takes the next id that is free, from 0 up and round again: one that was
    /// just given back may still be closing at the client, which would refuse
    /// it. `None` when there is none below what the client takes.
    pub fn take_next(&mut self) -> Option<u16> {
        let mut round = (self.next..self.incoming_limit).chain(0..self.next);
        let id = round.find(|id| *id < self.incoming_limit && !self.taken.contains(id))?;
        self.taken.insert(id);
        self.next = id.saturating_add(1);
        Some(id)
    }

    /// Gives an id back.
    pub fn free(&mut self, id: u16) {
        self.taken.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_that_is_free() {
        let mut ids = StreamIds::new(2, 4);
        assert_eq!(ids.limit(), 4);
        assert!(ids.take(1));
        assert!(!ids.take(1));
        assert_eq!(ids.take_next(), Some(0));
        assert_eq!(ids.take_next(), Some(2));
        assert!(!ids.take(2));
        // What is given back has its turn last.
        ids.free(0);
        assert_eq!(ids.take_next(), Some(3));
        assert_eq!(ids.take_next(), Some(0));
        assert_eq!(ids.take_next(), None);
        ids.free(2);
        assert_eq!(ids.take_next(), Some(2));
    }

    #[test]
    fn a_client_may_use_more_than_it_takes() {
        let mut ids = StreamIds::new(8, 1);
        assert_eq!(ids.limit(), 8);
        assert!(ids.take(7));
        assert_eq!(ids.take_next(), Some(0));
        assert_eq!(ids.take_next(), None);
    }
}
