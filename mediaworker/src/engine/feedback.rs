//! What the clients say of how media arrives, over all streams of the worker:
//! those that are there, and those that were.

use std::time::Duration;

use router::ProducerKey;

use super::{Engine, TransportKey};
use crate::transport::stats::Totals;

/// What streams that are gone have come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gone {
    received: Totals,
    sent: Totals,
}

impl Engine {
    /// The streams of all transports and what was, received and sent. It looks at
    /// each stream, so it is for those who ask now and then.
    pub fn feedback(&self) -> proto::Feedback {
        let live = self.transports.values().map(|it| &it.inner);
        let (received, sent) = live.fold((self.gone.received, self.gone.sent), |sum, it| {
            (
                sum.0.and(it.receiving().totals()),
                sum.1.and(it.sending().totals()),
            )
        });
        proto::Feedback {
            received: Some(direction(received)),
            sent: Some(direction(sent)),
        }
    }

    /// A transport goes with all its streams.
    pub(super) fn keep_feedback(&mut self, received: Totals, sent: Totals) {
        self.gone.received = self.gone.received.and(received.gone());
        self.gone.sent = self.gone.sent.and(sent.gone());
    }

    /// A producer goes, unless its transport is gone already.
    pub(super) fn keep_producer(&mut self, transport: TransportKey, producer: ProducerKey) {
        if let Some(entry) = self.transports.get(transport) {
            let received = entry.inner.receiving().totals_of(producer);
            self.keep_feedback(received, Totals::default());
        }
    }

    /// A consumer goes, unless its transport is gone already.
    pub(super) fn keep_consumer(&mut self, transport: TransportKey, slot: u32) {
        if let Some(entry) = self.transports.get(transport) {
            let sent = entry.inner.sending().totals_of(slot);
            self.keep_feedback(Totals::default(), sent);
        }
    }
}

fn direction(totals: Totals) -> proto::DirectionFeedback {
    let (round_trips, timed) = totals.round_trips;
    let mean = round_trips.checked_div(timed);
    proto::DirectionFeedback {
        packets_lost: totals.lost,
        packets_retransmitted: totals.retransmitted,
        nacks: totals.nacks,
        plis: totals.plis,
        firs: totals.firs,
        expected_lately: totals.lately.0,
        lost_lately: totals.lately.1,
        round_trip_time: mean.as_ref().map(Duration::as_secs_f64).map(|it| it * 1e3),
    }
}
