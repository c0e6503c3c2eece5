//! Counting things by their existence.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts its owner for as long as it exists.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many are in calls. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    /// Peers that have joined and not left.
    pub joined: Arc<AtomicUsize>,
    /// They, and rooms that were lost and whose peers are not back yet. It is counted
    /// by itself, so that one look tells whether there is any: what is lost is counted
    /// before its peers go, and until one of them has joined again.
    pub calls: Arc<AtomicUsize>,
}

impl Presence {
    /// Counts a peer that joins.
    pub fn joins(&self) -> [Counted; 2] {
        [Counted::new(&self.joined), Counted::new(&self.calls)]
    }
}
