//! What a worker may have made although it did not answer in time. The room
//! has forgotten it, so nothing else would ever close it.

use tracing::debug;

use super::room::Room;
use crate::workers::WorkerError;

/// What the worker was asked to make.
#[derive(Debug)]
pub(super) enum Made {
    /// A transport.
    Transport(String),
    /// A producer.
    Producer(String),
    /// Consumers.
    Consumers(Vec<String>),
    /// A data producer.
    DataProducer(String),
    /// Data consumers.
    DataConsumers(Vec<String>),
}

impl Room {
    /// After a call that failed: closes what it may have made all the same, as
    /// well as that can be done. In the background, for the room has waited
    /// for this worker long enough.
    pub fn undo(&self, made: Made, error: &WorkerError) {
        if *error != WorkerError::Gone {
            // A worker that refuses makes nothing.
            return;
        }
        let (client, room) = (self.worker.client.clone(), self.id.clone());
        tokio::spawn(async move {
            let undone = match made {
                Made::Transport(transport_id) => {
                    let request = proto::CloseTransportRequest { transport_id };
                    client.close_transport(request).await.map(drop)
                }
                Made::Producer(producer_id) => {
                    let request = proto::CloseProducerRequest { producer_id };
                    client.close_producer(request).await.map(drop)
                }
                Made::Consumers(consumer_ids) => {
                    let mut undone = Ok(());
                    for consumer_id in consumer_ids {
                        let request = proto::CloseConsumerRequest { consumer_id };
                        // The others may be there, though this one is not.
                        undone = undone.and(client.close_consumer(request).await.map(drop));
                    }
                    undone
                }
                Made::DataProducer(data_producer_id) => {
                    let request = proto::CloseDataProducerRequest { data_producer_id };
                    client.close_data_producer(request).await.map(drop)
                }
                Made::DataConsumers(data_consumer_ids) => {
                    let mut undone = Ok(());
                    for data_consumer_id in data_consumer_ids {
                        let request = proto::CloseDataConsumerRequest { data_consumer_id };
                        undone = undone.and(client.close_data_consumer(request).await.map(drop));
                    }
                    undone
                }
            };
            if let Err(error) = undone {
                // It may well not exist.
                debug!(%room, %error, "cannot close what may have been made");
            }
        });
    }
}
