//! The bot of a room: whatever text a peer sends to it on a data channel with
//! the label `bot`, it repeats to everybody on a data channel of its own. That
//! one is made when the first peer turns to it, and ends with the room.

use std::time::Duration;

use proto::produce_data_request::On;
use proto::{DataMessage, ProduceDataRequest, SctpStreamParameters, SendDataMessageRequest};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use super::data::{DataProducer, Reach, Sender};
use super::peer::Peer;
use super::room::Room;
use super::undo::Made;

/// Label of the bot's own data channel, and of those that lead to it.
const LABEL: &str = "bot";

/// Longest text that the bot repeats, bytes of UTF-8; what is longer is cut.
/// Everybody gets the answer, so a long text would be multiplied.
const MAX_TEXT: usize = 4096;

/// Time between two answers in the long run. Everybody gets each.
const INTERVAL: Duration = Duration::from_millis(100);

/// Answers that may come at once before the interval counts; messages above
/// that are dropped.
const BURST: u32 = 20;

/// The bot of one room.
#[derive(Debug, Default)]
pub(super) struct Bot {
    /// What it speaks with; `None` until somebody turned to it.
    producer: Option<DataProducer>,
    /// When it would be rested, if its answers had been evenly spaced.
    rested_at: Option<Instant>,
}

impl Bot {
    /// What it speaks with.
    pub fn producer(&self) -> Option<&DataProducer> {
        self.producer.as_ref()
    }

    /// See [`Bot::producer`].
    pub fn producer_mut(&mut self) -> Option<&mut DataProducer> {
        self.producer.as_mut()
    }

    /// Whether the bot may answer once more now.
    fn may_answer(&mut self, now: Instant) -> bool {
        let rested_at = self.rested_at.unwrap_or(now).max(now);
        if rested_at.duration_since(now) >= INTERVAL * BURST {
            return false;
        }
        self.rested_at = Some(rested_at + INTERVAL);
        true
    }
}

impl Room {
    /// Gives the bot its voice, unless it has it, and lets everybody hear it.
    pub async fn wake_bot(&mut self) {
        if self.bot.producer.is_some() {
            return;
        }
        let id = Uuid::new_v4().to_string();
        self.bot.producer = Some(DataProducer {
            id: id.clone(),
            transport_id: None,
            stream: SctpStreamParameters {
                ordered: true,
                ..SctpStreamParameters::default()
            },
            label: LABEL.into(),
            protocol: String::new(),
            app_data: json!({}),
            reach: Reach::Everybody,
            consumers: Vec::new(),
        });
        let request = ProduceDataRequest {
            data_producer_id: id.clone(),
            on: Some(On::RouterId(self.router_id.clone())),
            stream: None,
            label: LABEL.into(),
            protocol: String::new(),
            tell: false,
        };
        if let Err(error) = self.worker.client.produce_data(request).await {
            // The next who turns to it tries again.
            warn!(room = %self.id, %error, "the bot stays silent");
            self.bot.producer = None;
            return self.undo(Made::DataProducer(id), &error);
        }
        let wanted = self.wanting_data(Sender::Bot, &id);
        self.consume_data(wanted).await;
    }

    /// A message to the bot. Binary ones mean nothing to it.
    pub async fn on_data_message(&mut self, message: DataMessage) {
        let Some(name) = self.name_of_who_said(&message) else {
            return;
        };
        let Ok(text) = std::str::from_utf8(&message.payload) else {
            return;
        };
        if message.binary || !self.bot.may_answer(Instant::now()) {
            debug!(room = %self.id, binary = message.binary, "no answer of the bot");
            return;
        }
        self.wake_bot().await;
        let Some(producer) = &self.bot.producer else {
            return;
        };
        let request = SendDataMessageRequest {
            data_producer_id: producer.id.clone(),
            binary: false,
            payload: answer(&name, text).into_bytes(),
            data_consumer_id: String::new(),
        };
        if let Err(error) = self.worker.client.send_data_message(request).await {
            warn!(room = %self.id, %error, "the bot cannot answer");
        }
    }

    /// Display name of the peer that sent a message to the bot.
    fn name_of_who_said(&self, message: &DataMessage) -> Option<String> {
        let sent_it =
            |it: &DataProducer| it.id == message.data_producer_id && it.reach == Reach::Bot;
        let has_it = |peer: &&Peer| peer.data_producers.iter().any(sent_it);
        let peer = self.peers.values().find(has_it)?;
        Some(peer.joined.as_ref()?.display_name.clone())
    }
}

/// What the bot makes of a text.
fn answer(name: &str, text: &str) -> String {
    let cut = text.floor_char_boundary(MAX_TEXT);
    let (kept, rest) = text.split_at_checked(cut).unwrap_or((text, ""));
    let dots = if rest.is_empty() { "" } else { "…" };
    format!("{name} said me: \"{kept}{dots}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(answer("Ann", "hello"), "Ann said me: \"hello\"");
        assert_eq!(answer("Ann", ""), "Ann said me: \"\"");
        let longest = "x".repeat(MAX_TEXT);
        assert_eq!(answer("A", &longest), format!("A said me: \"{longest}\""));
        let kept = "x".repeat(MAX_TEXT - 1);
        assert_eq!(
            answer("A", &format!("{kept}éé")),
            format!("A said me: \"{kept}…\"")
        );
    }

    #[test]
    fn ten_answers_a_second_after_a_burst() {
        let mut bot = Bot::default();
        let mut now = Instant::now();
        let burst = (0..100).filter(|_| bot.may_answer(now)).count();
        assert_eq!(burst, 20);
        now += INTERVAL;
        assert!(bot.may_answer(now));
        assert!(!bot.may_answer(now));
        now += Duration::from_secs(60);
        assert_eq!((0..100).filter(|_| bot.may_answer(now)).count(), 20);
    }
}
