//! Events on their way from the media thread to the control plane: bounded by
//! number and, as one may carry a message of a data channel, by bytes.
//!
//! What does not fit waits in the engine, in its order, until the control plane
//! has read something; there messages have limits of their own, and too many
//! events end the worker.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use proto::event::Event;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::Stream;
use tonic::Status;

/// Events under way.
const MAX_EVENTS: usize = 1024;
/// Bytes of messages in them. One message is let through whatever its length
/// while no other is under way.
const MAX_BYTES: usize = 4 << 20;

/// Makes a channel: the media thread's end, and the one that gRPC reads.
pub fn channel() -> (EventSender, EventStream) {
    let (sender, receiver) = mpsc::channel(MAX_EVENTS);
    let bytes = Arc::<AtomicUsize>::default();
    let sender = EventSender {
        sender,
        bytes: Arc::clone(&bytes),
    };
    (sender, EventStream { receiver, bytes })
}

/// Why an event was not sent; it is given back.
#[derive(Debug)]
pub enum NotSent {
    /// It has to wait until others have been read.
    Full(proto::Event),
    /// Nobody reads any more.
    Closed(proto::Event),
}

/// The media thread's end.
#[derive(Debug)]
pub struct EventSender {
    sender: mpsc::Sender<proto::Event>,
    /// Bytes of messages under way.
    bytes: Arc<AtomicUsize>,
}

impl EventSender {
    /// Events that were not read yet.
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    /// Sends an event, if there is room for it.
    ///
    /// # Errors
    /// [`NotSent`], with the event.
    pub fn try_send(&self, event: proto::Event) -> Result<(), NotSent> {
        if self.sender.is_closed() {
            return Err(NotSent::Closed(event));
        }
        let len = message_len(&event);
        let before = self.bytes.fetch_add(len, Ordering::AcqRel);
        let fits = len == 0 || before == 0 || before + len <= MAX_BYTES;
        let sent = if fits {
            self.sender.try_send(event)
        } else {
            Err(TrySendError::Full(event))
        };
        sent.map_err(|error| {
            self.bytes.fetch_sub(len, Ordering::AcqRel);
            match error {
                TrySendError::Full(event) => NotSent::Full(event),
                TrySendError::Closed(event) => NotSent::Closed(event),
            }
        })
    }
}

/// The end that gRPC reads.
#[derive(Debug)]
pub struct EventStream {
    receiver: mpsc::Receiver<proto::Event>,
    bytes: Arc<AtomicUsize>,
}

impl Stream for EventStream {
    type Item = Result<proto::Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.receiver.poll_recv(context);
        if let Poll::Ready(Some(event)) = &next {
            self.bytes.fetch_sub(message_len(event), Ordering::AcqRel);
        }
        next.map(|event| event.map(Ok))
    }
}

/// Bytes of the message that an event carries.
fn message_len(event: &proto::Event) -> usize {
    match &event.event {
        Some(Event::DataMessage(message)) => message.payload.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;
    use crate::transport::data::MAX_MESSAGE_SIZE;

    fn message(len: usize) -> proto::Event {
        proto::Event {
            router_id: "room".into(),
            event: Some(Event::DataMessage(proto::DataMessage {
                payload: vec![1; len],
                ..Default::default()
            })),
        }
    }

    /// Sends as many as there is room for.
    fn fill(sender: &EventSender, event: &proto::Event) -> usize {
        (0..10_000)
            .take_while(|_| sender.try_send(event.clone()).is_ok())
            .count()
    }

    #[tokio::test]
    async fn number_and_bytes_are_bounded_and_reading_makes_room() {
        let longest = usize::try_from(MAX_MESSAGE_SIZE).unwrap();
        // (length, events under way at most, those with no message besides)
        for (len, room, other) in [
            (0, MAX_EVENTS, 0),
            (1, MAX_EVENTS, 0),
            (
                longest,
                MAX_BYTES / longest,
                MAX_EVENTS - MAX_BYTES / longest,
            ),
            (MAX_BYTES + 1, 1, MAX_EVENTS - 1),
        ] {
            let (sender, mut stream) = channel();
            assert_eq!(fill(&sender, &message(len)), room, "{len}");
            assert_eq!(fill(&sender, &proto::Event::default()), other, "{len}");
            assert_eq!(sender.waiting(), room + other, "{len}");
            for _ in 0..room {
                let event = stream.next().await.unwrap().unwrap();
                assert_eq!(message_len(&event), len);
            }
            assert_eq!(fill(&sender, &message(len)), room, "{len}, once more");
            drop(stream);
            let error = sender.try_send(message(len)).unwrap_err();
            assert!(matches!(error, NotSent::Closed(_)), "{len}: {error:?}");
        }
    }

    #[test]
    fn what_is_refused_is_given_back_and_does_not_count() {
        let (sender, stream) = channel();
        assert_eq!(fill(&sender, &message(MAX_BYTES)), 1);
        for _ in 0..3 {
            let error = sender.try_send(message(7)).unwrap_err();
            assert!(matches!(error, NotSent::Full(event) if event == message(7)));
        }
        assert_eq!(sender.bytes.load(Ordering::Acquire), MAX_BYTES);
        drop(stream);
        let error = sender.try_send(message(0)).unwrap_err();
        assert!(matches!(error, NotSent::Closed(_)));
    }
}
