//! Random damage to what real clients send: never a panic, and whatever is
//! accepted keeps the promises that the worker and other clients rely on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use super::*;
use crate::ortc::promises::{check_consumer, check_producer, check_text};

/// A failure prints its seed; put it here to see that one alone.
const ONLY_SEED: Option<u64> = None;
const SEEDS: u64 = 6_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// JSON pointers to every value below `value`.
fn pointers(value: &Value, path: &str, found: &mut Vec<String>) {
    let mut visit = |key: &str, inner: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        let path = format!("{path}/{key}");
        found.push(path.clone());
        pointers(inner, &path, found);
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, inner)| visit(key, inner)),
        Value::Array(array) => {
            let entries = array.iter().enumerate();
            entries.for_each(|(index, inner)| visit(&index.to_string(), inner));
        }
        _ => {}
    }
}

/// Values that go wrong somewhere.
fn odd_value(random: &mut Random) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(14),
        json!(72),
        json!(96),
        json!(97),
        json!(127),
        json!(255),
        json!(48_000),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("0"),
        json!("x\r\na=evil"),
        json!("ü"),
        json!("\u{0}"),
        json!("x".repeat(1000)),
        json!("L3T3_KEY"),
        json!("L9"),
        json!("640032"),
        json!(640_032),
        json!("video/rtx"),
        json!("video/H264"),
        json!("audio/multiopus"),
        json!([]),
        json!({}),
        json!([null]),
        json!([[[[[[]]]]]]),
        json!({"ssrc": 1}),
        json!({"apt": 96}),
    ];
    odd[random.below(odd.len())].clone()
}

/// Drops, replaces, doubles or swaps one value.
fn damage(value: &mut Value, random: &mut Random) {
    let mut found = Vec::new();
    pointers(value, "", &mut found);
    if found.is_empty() {
        return;
    }
    let pointer = found[random.below(found.len())].clone();
    let other = found[random.below(found.len())].clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let new = match random.below(4) {
        0 => None,
        1 => value.pointer(&other).cloned(),
        _ => Some(odd_value(random)),
    };
    match (value.pointer_mut(parent).unwrap(), new) {
        (Value::Object(object), None) => {
            object.remove(key);
        }
        (Value::Object(object), Some(new)) => {
            object.insert(key.to_owned(), new);
        }
        (Value::Array(array), None) => {
            array.remove(key.parse().unwrap());
        }
        (Value::Array(array), Some(new)) => {
            let index: usize = key.parse().unwrap();
            if random.below(2) == 0 {
                array[index] = new;
            } else {
                let twin = array[index].clone();
                array.insert(index, twin);
            }
        }
        (other, _) => panic!("{pointer} is in {other}"),
    }
}

/// What is damaged.
struct Recorded {
    requests: Vec<Value>,
    clients: Vec<Value>,
    connect: Value,
}

/// One damaged producer, consumed by one damaged client. Says whether each was
/// accepted.
fn story(seed: u64, router: &RtpCapabilities, recorded: &Recorded) -> (bool, bool) {
    let random = &mut Random(seed);
    let mut request = recorded.requests[random.below(recorded.requests.len())].clone();
    let mut client = recorded.clients[random.below(recorded.clients.len())].clone();
    let mut connect = recorded.connect.clone();
    for _ in 0..random.below(4) {
        damage(&mut request, random);
        damage(&mut client, random);
        damage(&mut connect, random);
    }
    if let Ok(dtls) = parse_dtls_parameters(&connect["dtlsParameters"]) {
        assert!(dtls.fingerprint.value.len() >= 59);
    }
    let producer = produce(&request, router);
    let remote = parse_rtp_capabilities(&client);
    if let Err(error) = &producer {
        assert!(!error.to_string().chars().any(char::is_control));
    }
    let Ok(producer) = producer else {
        return (false, false);
    };
    check_producer(&producer, router);
    check_text(&to_json(&pipe_consumer_rtp_parameters(
        &producer.consumable,
        1,
        true,
    )));
    let Ok(remote) = remote else {
        return (true, false);
    };
    let consumer = consumer_rtp_parameters(&producer.consumable, &remote, &options(MAX_SSRC));
    assert_eq!(consumer.is_ok(), can_consume(&producer.consumable, &remote));
    match consumer {
        Ok(consumer) => check_consumer(&consumer),
        Err(_) => return (true, false),
    }
    (true, true)
}

#[test]
fn damaged_messages_never_panic() {
    let router = wide_router();
    let clients = [
        "chromium-device-recvRtpCapabilities",
        "firefox-device-recvRtpCapabilities",
        "pymediasoup-rtpCapabilities",
    ];
    let recorded = Recorded {
        requests: produce_fixtures().map(fixture).collect(),
        clients: clients.map(fixture).to_vec(),
        connect: fixture("pymediasoup-connect"),
    };
    let seeds = ONLY_SEED.map_or(0..SEEDS, |seed| seed..seed + 1);
    let (mut produced, mut consumed) = (0, 0);
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| story(seed, &router, &recorded)));
        let (producer, consumer) = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        produced += u64::from(producer);
        consumed += u64::from(consumer);
    }
    // The damage must leave enough alive to test what comes after it.
    if ONLY_SEED.is_none() {
        assert!(produced > SEEDS / 4 && produced < SEEDS, "{produced}");
        assert!(consumed > SEEDS / 10 && consumed < produced, "{consumed}");
    }
}
