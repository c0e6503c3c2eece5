//! Why a video consumer gets the layers that it gets.

use std::time::Instant;

use proto::video_consumer::{Limit, Wait};
use router::allocation::Reason;
use router::{ConsumerKey, Layers, Waiting};
use str0m::media::MediaKind;

use super::bandwidth::{Sharing, highest};
use super::{CommandError, ConsumerEntry, Engine, RouterEntry};

impl Engine {
    /// Says of every video consumer of a router what it gets and why not more.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn explain_consumers(
        &self,
        now: Instant,
        router_id: &str,
    ) -> Result<proto::ExplainConsumersResponse, CommandError> {
        let key = self.router(router_id)?;
        let room = self.routers.get(key);
        let consumers = room.into_iter().flat_map(|room| {
            let consumers = room.consumers.iter();
            consumers.filter_map(move |(key, entry)| self.explain(now, room, key, entry))
        });
        Ok(proto::ExplainConsumersResponse {
            consumers: consumers.collect(),
        })
    }

    fn explain(
        &self,
        now: Instant,
        room: &RouterEntry,
        key: ConsumerKey,
        entry: &ConsumerEntry,
    ) -> Option<proto::VideoConsumer> {
        let producer = room.producers.get(entry.producer)?;
        if producer.kind != MediaKind::Video {
            return None;
        }
        let transport = self.transports.get(entry.transport)?;
        let state = room.graph.layer_state(now, key)?;
        let sharing = transport.sharing.as_deref();
        let allocation = sharing.and_then(|sharing| sharing.of(key));
        let available = transport.available_bitrate(now);
        let for_video = sharing.and_then(Sharing::available);
        // What is needed is known without audio.
        let audio = available
            .unwrap_or(0)
            .saturating_sub(for_video.unwrap_or(0));
        let is_paused = matches!(
            state.waiting,
            Some(Waiting::Resume | Waiting::ProducerResume)
        );
        Some(proto::VideoConsumer {
            consumer_id: entry.id.clone(),
            producer_id: producer.id.clone(),
            transport_id: transport.id.clone(),
            priority: room.graph.priority(key)?.get().into(),
            preferred: Some(layers(highest(state.preferred))),
            target: state.target.map(layers),
            current: state.current.map(layers),
            bitrate: allocation.map_or(0, |one| one.bitrate),
            available,
            available_for_video: for_video,
            limit: Some(match allocation {
                _ if is_paused => Limit::Paused(proto::Empty {}),
                Some(one) => limit(now, audio, one.reason),
                None => Limit::Unlimited(proto::Empty {}),
            }),
            wait: state.waiting.and_then(|waiting| wait(now, waiting)),
        })
    }
}

fn limit(now: Instant, audio: u64, reason: Reason) -> Limit {
    let step = |next: Option<Layers>, needs: u64, until: Instant| proto::NextStep {
        layers: next.map(layers),
        needs: needs + audio,
        in_ms: millis(now, until),
    };
    match reason {
        Reason::Preferred => Limit::PreferredReached(proto::Empty {}),
        Reason::NotFlowing => Limit::NotFlowing(proto::Empty {}),
        Reason::Bandwidth { next, needs } => Limit::Bandwidth(step(Some(next), needs, now)),
        Reason::Hold { next, until } => Limit::Hold(step(Some(next), 0, until)),
        Reason::LastLayer { needs, until } => Limit::LastLayer(step(None, needs, until)),
    }
}

fn wait(now: Instant, waiting: Waiting) -> Option<Wait> {
    match waiting {
        // These are limits.
        Waiting::Resume | Waiting::ProducerResume | Waiting::Bandwidth => None,
        Waiting::Media => Some(Wait::Media(proto::Empty {})),
        Waiting::KeyFrame {
            spatial,
            since,
            requests,
        } => Some(Wait::KeyFrame(proto::KeyFrameWait {
            spatial_layer: spatial.into(),
            since_ms: millis(since, now),
            requests,
        })),
        Waiting::SwitchPoint { temporal } => Some(Wait::TemporalSwitch(temporal.into())),
    }
}

fn layers(layers: Layers) -> proto::Layers {
    proto::Layers {
        spatial_layer: layers.spatial.into(),
        temporal_layer: Some(layers.temporal.into()),
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    let time = to.saturating_duration_since(from);
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
