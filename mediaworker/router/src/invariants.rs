//! What must hold between the parts of a router after every call.

use crate::Router;

pub(crate) fn check(router: &Router) -> Result<(), String> {
    for (key, producer) in &router.producers {
        for (index, consumer) in producer.consumers.iter().enumerate() {
            if router.consumers.get(*consumer).map(|c| c.producer()) != Some(key) {
                return Err(format!("{key:?} lists {consumer:?}, which is not its own"));
            }
            if producer
                .consumers
                .iter()
                .skip(index + 1)
                .any(|other| other == consumer)
            {
                return Err(format!("{key:?} lists {consumer:?} twice"));
            }
        }
        for stream in 0..producer.stream_count() {
            let entries = router
                .waiting
                .iter()
                .filter(|entry| **entry == (key, stream))
                .count();
            let expected = producer
                .request(stream)
                .is_some_and(|request| request.waiting);
            if entries != usize::from(expected) {
                return Err(format!("{key:?} stream {stream} waits {entries} times"));
            }
        }
    }
    for (key, consumer) in &router.consumers {
        let Some(producer) = router.producers.get(consumer.producer()) else {
            return Err(format!("{key:?} has no producer"));
        };
        if !producer.consumers.contains(&key) {
            return Err(format!("{key:?} is not listed by its producer"));
        }
        match consumer.current_stream() {
            Some(_) if producer.is_paused() => {
                return Err(format!("{key:?} gets a stream of a paused producer"));
            }
            Some(stream) if stream >= producer.stream_count() => {
                return Err(format!(
                    "{key:?} gets stream {stream}, which does not exist"
                ));
            }
            _ => {}
        }
        consumer
            .check()
            .map_err(|reason| format!("{key:?}: {reason}"))?;
    }
    Ok(())
}
