//! Data producers and data consumers: what control can ask for, the way of a
//! message, and how they end.
//!
//! A message goes to every data consumer of its data producer in the tick in
//! which it comes. What cannot be taken by a data consumer now (its channel is
//! not open, its client is too slow) is dropped for that one and counted; none
//! waits for another.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proto::event::Event;
use proto::produce_data_request::On;
use slotmap::SlotMap;
use str0m::channel::Reliability;

use super::commands::{exists, limit, not_found};
use super::{CommandError, Engine, MAX_EVENTS, RouterKey, TransportKey};
use crate::transport::TransportError;
use crate::transport::data::{
    DataConsumerKey, DataProducerKey, DataReceived, DataSent, DataUser, MAX_MESSAGE_SIZE,
    SctpLimits, StreamParameters,
};

/// Most data producers, and data consumers, of one worker.
const MAX_DATA: usize = 500_000;
/// Longest label and protocol, bytes (RFC 8832 §5.1).
const MAX_LABEL: usize = 65_535;
/// Time over which the two limits below count.
const TOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Messages of one data producer that are told to control in that time; more are
/// not told. Data consumers get them all the same.
const MAX_TOLD: u32 = 100;
/// Bytes of these messages; a message that would exceed them is not told.
const MAX_TOLD_BYTES: usize = 1 << 20;
/// Bytes of messages that wait for control, of all data producers, and the share
/// of the event queue that they may take. What does not fit is not told: a room
/// that chats must not end a worker.
const MAX_TOLD_WAITING: usize = 16 << 20;
const MAX_TOLD_EVENTS: usize = MAX_EVENTS / 4;

type Result<T> = std::result::Result<T, CommandError>;

/// What is told to control, counted per [`TOLD_INTERVAL`].
#[derive(Debug)]
struct Told {
    since: Instant,
    messages: u32,
    bytes: usize,
}

impl Told {
    /// Whether a message of this length may be told now, which counts it.
    fn admits(&mut self, now: Instant, len: usize) -> bool {
        if now.saturating_duration_since(self.since) >= TOLD_INTERVAL {
            *self = Self {
                since: now,
                messages: 0,
                bytes: 0,
            };
        }
        if self.messages >= MAX_TOLD || self.bytes + len > MAX_TOLD_BYTES {
            return false;
        }
        self.messages += 1;
        self.bytes += len;
        true
    }
}

struct DataProducerEntry {
    id: String,
    router: RouterKey,
    /// Its transport and SCTP stream; `None` for a direct one.
    on: Option<(TransportKey, u16)>,
    label: Rc<str>,
    protocol: Rc<str>,
    told: Option<Told>,
    consumers: Vec<DataConsumerKey>,
    messages: u64,
    bytes: u64,
}

struct DataConsumerEntry {
    id: String,
    producer: DataProducerKey,
    transport: TransportKey,
    stream: u16,
    label: Rc<str>,
    protocol: Rc<str>,
    messages: u64,
    bytes: u64,
}

/// The tables of data producers and data consumers.
#[derive(Default)]
pub(super) struct Data {
    producers: SlotMap<DataProducerKey, DataProducerEntry>,
    consumers: SlotMap<DataConsumerKey, DataConsumerEntry>,
    producer_ids: HashMap<String, DataProducerKey>,
    consumer_ids: HashMap<String, DataConsumerKey>,
    /// Bytes of messages in the event queue.
    told_waiting: usize,
    told_events: usize,
}

impl Data {
    /// Numbers of data producers and data consumers.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.producer_ids.len(), self.consumer_ids.len())
    }

    /// Notes that an event has left the queue.
    pub(super) fn note_polled(&mut self, event: &proto::Event) {
        if let Some(Event::DataMessage(message)) = &event.event {
            self.told_waiting = self.told_waiting.saturating_sub(message.payload.len());
            self.told_events = self.told_events.saturating_sub(1);
        }
    }
}

/// Most streams of a transport, as browsers have them. str0m looks at each one
/// that was used for every packet that comes.
const MAX_STREAMS: u16 = 1024;

/// The limits of a transport, checked.
pub(super) fn sctp_limits(
    options: Option<&proto::SctpOptions>,
) -> std::result::Result<Option<SctpLimits>, TransportError> {
    let Some(options) = options else {
        return Ok(None);
    };
    let num_streams = u16::try_from(options.num_streams)
        .ok()
        .filter(|n| (1..=MAX_STREAMS).contains(n))
        .ok_or_else(|| {
            TransportError::Invalid(format!(
                "sctp.num_streams: {} is not in 1..={MAX_STREAMS}",
                options.num_streams
            ))
        })?;
    let max_message_size = options.max_message_size;
    if !(1..=MAX_MESSAGE_SIZE).contains(&max_message_size) {
        return Err(TransportError::Invalid(format!(
            "sctp.max_message_size: {max_message_size} is not in 1..={MAX_MESSAGE_SIZE}"
        )));
    }
    Ok(Some(SctpLimits {
        num_streams,
        max_message_size,
    }))
}

fn stream_parameters(
    stream: Option<&proto::SctpStreamParameters>,
) -> std::result::Result<StreamParameters, TransportError> {
    let invalid = |text: String| Err(TransportError::Invalid(text));
    let Some(stream) = stream else {
        return invalid("stream: missing".into());
    };
    let short = |field: &str, value: u32| {
        u16::try_from(value).map_err(|_| {
            TransportError::Invalid(format!("stream.{field}: {value} is not in 0..=65535"))
        })
    };
    let reliability = match (stream.max_packet_life_time, stream.max_retransmits) {
        (Some(_), Some(_)) => {
            return invalid(
                "stream.max_packet_life_time: cannot be given together with max_retransmits".into(),
            );
        }
        (Some(lifetime), None) => Reliability::MaxPacketLifetime {
            lifetime: short("max_packet_life_time", lifetime)?,
        },
        (None, Some(retransmits)) => Reliability::MaxRetransmits {
            retransmits: short("max_retransmits", retransmits)?,
        },
        (None, None) => Reliability::Reliable,
    };
    if stream.ordered && reliability != Reliability::Reliable {
        return invalid(
            "stream.ordered: cannot be ordered with max_packet_life_time or max_retransmits".into(),
        );
    }
    Ok(StreamParameters {
        id: short("stream_id", stream.stream_id)?,
        ordered: stream.ordered,
        reliability,
    })
}

fn check_text(field: &str, text: &str) -> std::result::Result<(), TransportError> {
    if text.len() > MAX_LABEL {
        return Err(TransportError::Invalid(format!(
            "{field}: {} bytes, more than {MAX_LABEL}",
            text.len()
        )));
    }
    Ok(())
}

impl Engine {
    /// Creates a data producer, on a transport or directly on a router.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn produce_data(
        &mut self,
        now: Instant,
        request: &proto::ProduceDataRequest,
    ) -> Result<()> {
        let id = &request.data_producer_id;
        if self.data.producer_ids.contains_key(id) {
            return Err(exists("data producer", id));
        }
        if self.data.producers.len() >= MAX_DATA {
            return Err(limit("data producers", MAX_DATA));
        }
        check_text("label", &request.label)?;
        check_text("protocol", &request.protocol)?;
        let (router, place) = match &request.on {
            Some(On::TransportId(transport)) => {
                let key = self.transport(transport)?;
                let stream = stream_parameters(request.stream.as_ref())?;
                let Some(entry) = self.transports.get_mut(key) else {
                    return Err(not_found("transport", transport));
                };
                entry.inner.data().check(&stream)?;
                (entry.router, Some((key, stream)))
            }
            Some(On::RouterId(router)) if request.stream.is_none() => (self.router(router)?, None),
            Some(On::RouterId(_)) => {
                return Err(TransportError::Invalid(
                    "stream: a direct data producer has none".into(),
                )
                .into());
            }
            None => {
                return Err(TransportError::Invalid(
                    "on: either transport_id or router_id is needed".into(),
                )
                .into());
            }
        };
        let producer = self.data.producers.insert(DataProducerEntry {
            id: id.clone(),
            router,
            on: place.map(|(transport, stream)| (transport, stream.id)),
            label: request.label.as_str().into(),
            protocol: request.protocol.as_str().into(),
            told: request.tell.then_some(Told {
                since: now,
                messages: 0,
                bytes: 0,
            }),
            consumers: Vec::new(),
            messages: 0,
            bytes: 0,
        });
        self.data.producer_ids.insert(id.clone(), producer);
        if let Some((transport, stream)) = place {
            self.call(transport, |t| {
                t.data().add(DataUser::Producer(producer), stream);
            });
            self.mark_dirty(transport);
        }
        Ok(())
    }

    /// Closes a data producer with its data consumers.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn close_data_producer(&mut self, id: &str) -> Result<()> {
        let producer = self.data_producer(id)?;
        self.remove_data_producer(producer);
        Ok(())
    }

    /// Creates data consumers; each has its own result.
    pub fn consume_data(
        &mut self,
        request: &proto::ConsumeDataRequest,
    ) -> proto::ConsumeDataResponse {
        let results = request
            .data_consumers
            .iter()
            .map(|spec| proto::ConsumeDataResult {
                data_consumer_id: spec.data_consumer_id.clone(),
                error: match self.consume_data_one(spec) {
                    Ok(()) => String::new(),
                    Err(error) => error.to_string(),
                },
            })
            .collect();
        proto::ConsumeDataResponse { results }
    }

    fn consume_data_one(&mut self, spec: &proto::DataConsumerSpec) -> Result<()> {
        let key = self.transport(&spec.transport_id)?;
        let producer = self.data_producer(&spec.data_producer_id)?;
        if self.data.consumer_ids.contains_key(&spec.data_consumer_id) {
            return Err(exists("data consumer", &spec.data_consumer_id));
        }
        if self.data.consumers.len() >= MAX_DATA {
            return Err(limit("data consumers", MAX_DATA));
        }
        let stream = stream_parameters(spec.stream.as_ref())?;
        let (Some(source), Some(entry)) = (
            self.data.producers.get_mut(producer),
            self.transports.get_mut(key),
        ) else {
            return Err(not_found("data producer", &spec.data_producer_id));
        };
        if entry.router != source.router {
            return Err(TransportError::Invalid(
                "transport_id: on another router than the data producer".into(),
            )
            .into());
        }
        entry.inner.data().check(&stream)?;
        let consumer = self.data.consumers.insert(DataConsumerEntry {
            id: spec.data_consumer_id.clone(),
            producer,
            transport: key,
            stream: stream.id,
            label: Rc::clone(&source.label),
            protocol: Rc::clone(&source.protocol),
            messages: 0,
            bytes: 0,
        });
        source.consumers.push(consumer);
        self.data
            .consumer_ids
            .insert(spec.data_consumer_id.clone(), consumer);
        self.call(key, |t| {
            t.data().add(DataUser::Consumer(consumer), stream);
        });
        self.mark_dirty(key);
        Ok(())
    }

    /// Closes a data consumer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn close_data_consumer(&mut self, id: &str) -> Result<()> {
        let consumer = self.data_consumer(id)?;
        self.remove_data_consumer(consumer);
        Ok(())
    }

    /// Sends a message as a direct data producer. A data consumer whose channel
    /// is not open yet does not get it.
    ///
    /// # Errors
    /// [`CommandError`], naming the field or id.
    pub fn send_data_message(
        &mut self,
        now: Instant,
        request: &proto::SendDataMessageRequest,
    ) -> Result<()> {
        let producer = self.data_producer(&request.data_producer_id)?;
        let payload = &request.payload;
        if u32::try_from(payload.len()).map_or(true, |len| len > MAX_MESSAGE_SIZE) {
            return Err(TransportError::Invalid(format!(
                "payload: {} bytes, more than {MAX_MESSAGE_SIZE}",
                payload.len()
            ))
            .into());
        }
        let entry = self.data.producers.get(producer);
        if entry.is_some_and(|entry| entry.on.is_some()) {
            return Err(TransportError::State(format!(
                "data producer with id {:?} is its client's, not a direct one",
                request.data_producer_id
            ))
            .into());
        }
        let only = match request.data_consumer_id.as_str() {
            "" => None,
            id => {
                let consumer = self.data_consumer(id)?;
                let entry = self.data.consumers.get(consumer);
                if entry.is_none_or(|entry| entry.producer != producer) {
                    return Err(TransportError::Invalid(format!(
                        "data_consumer_id: {id:?} is of another data producer"
                    ))
                    .into());
                }
                Some(consumer)
            }
        };
        self.fan_out(now, producer, only, request.binary, payload);
        Ok(())
    }

    /// Statistics of a data producer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn data_producer_stats(&self, id: &str) -> Result<proto::DataProducerStats> {
        let producer = self.data_producer(id)?;
        let entry = self.data.producers.get(producer);
        let entry = entry.ok_or_else(|| not_found("data producer", id))?;
        Ok(proto::DataProducerStats {
            label: entry.label.to_string(),
            protocol: entry.protocol.to_string(),
            messages_received: entry.messages,
            bytes_received: entry.bytes,
        })
    }

    /// Statistics of a data consumer.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub fn data_consumer_stats(&mut self, id: &str) -> Result<proto::DataConsumerStats> {
        let consumer = self.data_consumer(id)?;
        let entry = self.data.consumers.get(consumer);
        let entry = entry.ok_or_else(|| not_found("data consumer", id))?;
        let (transport, stream) = (entry.transport, entry.stream);
        let stats = proto::DataConsumerStats {
            label: entry.label.to_string(),
            protocol: entry.protocol.to_string(),
            messages_sent: entry.messages,
            bytes_sent: entry.bytes,
            buffered_amount: 0,
        };
        let held = self.call(transport, |t| t.data_buffered(stream));
        Ok(proto::DataConsumerStats {
            buffered_amount: held.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            ..stats
        })
    }

    /// Gives a client's message to everyone who wants it.
    pub(super) fn forward_data(&mut self, now: Instant, received: &DataReceived) {
        self.fan_out(
            now,
            received.producer,
            None,
            received.binary,
            &received.payload,
        );
        let entry = self.data.producers.get(received.producer);
        if let Some((transport, consumers)) =
            entry.and_then(|entry| Some((entry.on?.0, entry.consumers.len())))
        {
            let len = received.payload.len();
            self.call(transport, |t| t.data().charge(now, len, consumers));
        }
    }

    /// Sends a message to all data consumers of a data producer, or to one.
    fn fan_out(
        &mut self,
        now: Instant,
        producer: DataProducerKey,
        only: Option<DataConsumerKey>,
        binary: bool,
        payload: &[u8],
    ) {
        let Some(entry) = self.data.producers.get_mut(producer) else {
            return;
        };
        entry.messages += 1;
        entry.bytes += u64::try_from(payload.len()).unwrap_or(0);
        match only {
            Some(consumer) => self.send_to(consumer, binary, payload),
            None => {
                // Nobody comes or goes meanwhile.
                let consumers = std::mem::take(&mut entry.consumers);
                for consumer in &consumers {
                    self.send_to(*consumer, binary, payload);
                }
                if let Some(entry) = self.data.producers.get_mut(producer) {
                    entry.consumers = consumers;
                }
            }
        }
        self.tell(now, producer, binary, payload);
    }

    fn send_to(&mut self, consumer: DataConsumerKey, binary: bool, payload: &[u8]) {
        let Some(entry) = self.data.consumers.get(consumer) else {
            return;
        };
        let (transport, stream) = (entry.transport, entry.stream);
        let sent = self.call(transport, |t| t.send_data(stream, binary, payload));
        let Some(entry) = self.data.consumers.get_mut(consumer) else {
            return;
        };
        if sent == Some(DataSent::Queued) {
            entry.messages += 1;
            entry.bytes += u64::try_from(payload.len()).unwrap_or(0);
            self.mark_dirty(transport);
        } else {
            tracing::debug!(data_consumer = %entry.id, why = ?sent, "message dropped");
            self.counters.data_dropped += 1;
        }
    }

    /// Tells control a message, if its data producer wants that.
    fn tell(&mut self, now: Instant, producer: DataProducerKey, binary: bool, payload: &[u8]) {
        let Some(entry) = self.data.producers.get_mut(producer) else {
            return;
        };
        let Some(told) = &mut entry.told else { return };
        let fits = self.data.told_waiting + payload.len() <= MAX_TOLD_WAITING
            && self.data.told_events < MAX_TOLD_EVENTS;
        if !fits || !told.admits(now, payload.len()) {
            tracing::debug!(data_producer = %entry.id, "message not told");
            self.counters.data_dropped += 1;
            return;
        }
        let (router, data_producer_id) = (entry.router, entry.id.clone());
        self.data.told_waiting += payload.len();
        self.data.told_events += 1;
        self.event(
            router,
            Event::DataMessage(proto::DataMessage {
                data_producer_id,
                binary,
                payload: payload.to_vec(),
            }),
        );
    }

    /// Closes what a transport that is out of its table has had. Answers the ids
    /// of data consumers on other transports that ended with it.
    pub(super) fn remove_data_of(&mut self, users: Vec<DataUser>) -> Vec<String> {
        let (mut producers, mut orphans) = (Vec::new(), Vec::new());
        for user in users {
            match user {
                DataUser::Consumer(consumer) => {
                    self.remove_data_consumer(consumer);
                }
                DataUser::Producer(producer) => producers.push(producer),
            }
        }
        for producer in producers {
            orphans.extend(self.remove_data_producer(producer));
        }
        orphans
    }

    /// Closes the direct data producers of a router whose transports are gone.
    pub(super) fn remove_direct_data(&mut self, router: RouterKey) {
        let direct: Vec<DataProducerKey> = self
            .data
            .producers
            .iter()
            .filter(|(_, entry)| entry.router == router)
            .map(|(key, _)| key)
            .collect();
        for producer in direct {
            self.remove_data_producer(producer);
        }
    }

    /// Takes a data producer out of every table, with its data consumers, whose
    /// ids it answers.
    fn remove_data_producer(&mut self, producer: DataProducerKey) -> Vec<String> {
        let Some(entry) = self.data.producers.remove(producer) else {
            return Vec::new();
        };
        self.data.producer_ids.remove(&entry.id);
        if let Some((transport, stream)) = entry.on {
            self.call(transport, |t| t.close_data(stream));
            self.mark_dirty(transport);
        }
        entry
            .consumers
            .into_iter()
            .filter_map(|consumer| self.remove_data_consumer(consumer))
            .collect()
    }

    fn remove_data_consumer(&mut self, consumer: DataConsumerKey) -> Option<String> {
        let entry = self.data.consumers.remove(consumer)?;
        self.data.consumer_ids.remove(&entry.id);
        if let Some(producer) = self.data.producers.get_mut(entry.producer) {
            producer.consumers.retain(|key| *key != consumer);
        }
        self.call(entry.transport, |t| t.close_data(entry.stream));
        self.mark_dirty(entry.transport);
        Some(entry.id)
    }

    fn data_producer(&self, id: &str) -> Result<DataProducerKey> {
        let key = self.data.producer_ids.get(id).copied();
        key.ok_or_else(|| not_found("data producer", id))
    }

    fn data_consumer(&self, id: &str) -> Result<DataConsumerKey> {
        let key = self.data.consumer_ids.get(id).copied();
        key.ok_or_else(|| not_found("data consumer", id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_messages_are_limited_in_number_and_bytes() {
        let start = Instant::now();
        let mut told = Told {
            since: start,
            messages: 0,
            bytes: 0,
        };
        let count = (0..1000).filter(|_| told.admits(start, 1)).count();
        assert_eq!(count, 100);
        let later = start + TOLD_INTERVAL;
        let count = (0..1000).filter(|_| told.admits(later, 262_144)).count();
        assert_eq!(count, 4);
        assert!(!told.admits(later + TOLD_INTERVAL / 2, 1));
        assert!(told.admits(later + TOLD_INTERVAL, 1));
    }
}
