//! The bot of a room: whatever text a peer sends to it on a data channel with
//! the label `bot`, it repeats to everybody on a data channel of its own. That
//! one is made when the first peer can hear it, and ends with the room.

use std::time::Duration;

use proto::produce_data_request::On;
use proto::{DataMessage, ProduceDataRequest, SctpStreamParameters, SendDataMessageRequest};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, warn};
use uuid::Uuid;

use super::data::{DataProducer, MAX_MESSAGE_SIZE, Reach, Sender};
use super::peer::Peer;
use super::room::Room;
use super::undo::Made;

/// Label of the bot's own data channel, and of those that lead to it.
const LABEL: &str = "bot";

/// Longest answer, bytes of UTF-8: more than this fits no message. A text that
/// makes a longer one is cut.
const MAX_ANSWER: usize = MAX_MESSAGE_SIZE as usize;

/// Least time that one answer costs: so many there are in the long run.
const INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of answers in the long run, a second. Everybody gets each.
const BYTES_PER_SECOND: usize = 2 * MAX_ANSWER;

/// Time that answers may cost at once: twenty short ones, or four of the
/// longest. Messages above that are dropped.
const ALLOWANCE: Duration = Duration::from_secs(2);

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

    /// Whether the bot may answer a text of so many bytes now.
    fn may_answer(&mut self, now: Instant, bytes: usize) -> bool {
        let rested_at = self.rested_at.unwrap_or(now).max(now);
        if rested_at.duration_since(now) >= ALLOWANCE {
            return false;
        }
        self.rested_at = Some(rested_at + cost(bytes));
        true
    }
}

/// How long the bot has to rest after a text of so many bytes.
fn cost(bytes: usize) -> Duration {
    let micros = bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND;
    let by_length = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
    by_length.max(INTERVAL)
}

impl Room {
    /// Gives the bot its voice, unless it has it, and lets everybody hear it. A
    /// room in which nobody can hear it makes no data producer for it.
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
            // The next who comes or turns to it tries again.
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
        if message.binary || !self.bot.may_answer(Instant::now(), text.len()) {
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

/// What the bot makes of a text: all of it, if the answer fits a message.
fn answer(name: &str, text: &str) -> String {
    let whole = format!("{name} said me: \"{text}\"");
    if whole.len() <= MAX_ANSWER {
        return whole;
    }
    let end = "…\"";
    let kept = whole.floor_char_boundary(MAX_ANSWER.saturating_sub(end.len()));
    let (kept, _) = whole.split_at_checked(kept).unwrap_or_default();
    format!("{kept}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(answer("Ann", "hello"), "Ann said me: \"hello\"");
        assert_eq!(answer("Ann", ""), "Ann said me: \"\"");
        let around = "A said me: \"\"".len();
        let longest = "x".repeat(MAX_ANSWER - around);
        assert_eq!(answer("A", &longest), format!("A said me: \"{longest}\""));
        // "…" is three bytes long, and "é" is two.
        let kept = "x".repeat(MAX_ANSWER - around - 3);
        let cut = format!("A said me: \"{kept}…\"");
        assert_eq!(cut.len(), MAX_ANSWER);
        for more in ["xxxx", "éxx", "éé"] {
            assert_eq!(answer("A", &format!("{kept}{more}")), cut, "{more}");
        }
        let kept = "x".repeat(MAX_ANSWER - around - 4);
        let cut = format!("A said me: \"{kept}…\"");
        assert_eq!(answer("A", &format!("{kept}ééé")), cut);
        assert!(answer("A", &"é".repeat(MAX_ANSWER / 2)).len() <= MAX_ANSWER);
    }

    #[test]
    fn ten_answers_a_second_after_a_burst() {
        let mut bot = Bot::default();
        let mut now = Instant::now();
        let mut answers = |now| (0..100).filter(|_| bot.may_answer(now, 5)).count();
        assert_eq!(answers(now), 20);
        now += INTERVAL;
        assert_eq!(answers(now), 1);
        now += Duration::from_secs(60);
        assert_eq!(answers(now), 20);
    }

    #[test]
    fn two_of_the_longest_answers_a_second_after_a_burst() {
        let mut bot = Bot::default();
        let mut now = Instant::now();
        let mut answers = |now| (0..100).filter(|_| bot.may_answer(now, MAX_ANSWER)).count();
        assert_eq!(answers(now), 4);
        let later = (0..60).map(|_| {
            now += Duration::from_secs(1);
            answers(now)
        });
        assert_eq!(later.sum::<usize>(), 120);
    }
}
