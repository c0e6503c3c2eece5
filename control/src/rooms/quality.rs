//! What the worker reports of quality and of who speaks, told to the clients
//! that it concerns. Reports of something unknown are late: it was closed
//! meanwhile. Who has not joined is told nothing.

use proto::{
    ActiveSpeaker, ConsumerLayersChanged, ConsumerScoreChanged, DownlinkBwe, ProducerScoreChanged,
    ProducerVolume,
};
use serde_json::Value;

use super::messages;
use super::peer::Peer;
use super::room::Room;
use crate::protoo::connection::Notification;

impl Room {
    /// Tells the producer's client.
    pub fn on_producer_score(&self, changed: &ProducerScoreChanged) {
        let Some(peer) = self.producing_peer(&changed.producer_id) else {
            return;
        };
        let data = messages::producer_score(&changed.producer_id, &changed.scores);
        tell(peer, "producerScore", &data);
    }

    /// Tells the consumer's client.
    pub fn on_consumer_score(&self, changed: &ConsumerScoreChanged) {
        let (Some(peer), Some(score)) = (self.consuming_peer(&changed.consumer_id), &changed.score)
        else {
            return;
        };
        let data = messages::consumer_score(&changed.consumer_id, score);
        tell(peer, "consumerScore", &data);
    }

    /// Tells the consumer's client.
    pub fn on_consumer_layers(&mut self, changed: &ConsumerLayersChanged) {
        let consumers = self.peers.values_mut();
        let mut consumers = consumers.filter_map(|it| it.consumers.get_mut(&changed.consumer_id));
        if let Some(consumer) = consumers.next() {
            consumer.layers = changed.layers;
        }
        if let Some(peer) = self.consuming_peer(&changed.consumer_id) {
            let data = messages::consumer_layers_changed(changed);
            tell(peer, "consumerLayersChanged", &data);
        }
    }

    /// Tells the transport's client.
    pub fn on_downlink_bwe(&self, bwe: &DownlinkBwe) {
        let has_it = |peer: &&Peer| peer.transports.iter().any(|t| t.id == bwe.transport_id);
        if let Some(peer) = self.peers.values().find(has_it) {
            tell(peer, "downlinkBwe", &messages::downlink_bwe(bwe));
        }
    }

    /// Tells everybody, the speakers too.
    pub fn on_active_speaker(&self, speaker: &ActiveSpeaker) {
        let data = match &speaker.producer_id {
            None => messages::silence(),
            Some(producer_id) => match self.producing_peer(producer_id) {
                Some(peer) => {
                    let volumes = self.peer_volumes(&speaker.volumes);
                    let leader = self.dominant.as_deref();
                    let leader = leader.and_then(|id| self.producing_peer(id));
                    let leader = leader.unwrap_or(peer).id.as_str();
                    messages::active_speaker(peer.id.as_str(), speaker.volume, &volumes, leader)
                }
                None => return,
            },
        };
        let notification = Notification::new("activeSpeaker", &data);
        for peer in self.peers.values().filter(|peer| peer.joined.is_some()) {
            peer.connection.notify(&notification);
        }
    }

    /// How loud each speaking peer is: as loud as the loudest of its producers.
    fn peer_volumes(&self, volumes: &[ProducerVolume]) -> Vec<(&str, i32)> {
        let mut peers: Vec<(&str, i32)> = Vec::with_capacity(volumes.len());
        for volume in volumes {
            if let Some(peer) = self.producing_peer(&volume.producer_id)
                && !peers.iter().any(|(id, _)| *id == peer.id.as_str())
            {
                peers.push((peer.id.as_str(), volume.volume));
            }
        }
        peers
    }

    fn producing_peer(&self, producer_id: &str) -> Option<&Peer> {
        let has_it = |peer: &&Peer| peer.producers.iter().any(|it| it.id == producer_id);
        self.peers.values().find(has_it)
    }

    fn consuming_peer(&self, consumer_id: &str) -> Option<&Peer> {
        let mut peers = self.peers.values();
        peers.find(|peer| peer.consumers.contains_key(consumer_id))
    }
}

fn tell(peer: &Peer, method: &str, data: &Value) {
    if peer.joined.is_some() {
        peer.connection.notify(&Notification::new(method, data));
    }
}
