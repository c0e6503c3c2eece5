//! The two ways in which clients spell the protocol: the seed's, which is the
//! default and the server's own, and that of the newest mediasoup-demo. Pure.
//!
//! Rooms know the seed's words only. Where the newest dialect tells more than
//! the seed's, rooms say it too, and it is taken out for clients of the seed.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::message::Request;

/// How a client spells methods and fields; chosen by `dialect=` in its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Mediasoup-demo as the seed has it.
    #[default]
    Seed,
    /// Mediasoup-demo as it is today: results are wrapped, ids are called by
    /// what they name, and actions are notifications.
    Newest,
}

/// What only the newest dialect tells, by the message that carries it.
const NEWEST_ONLY: [(&str, &[&str]); 4] = [
    ("activeSpeaker", &["peerVolumes", "dominantPeerId"]),
    ("newConsumer", &["transportId", "consumerScore"]),
    ("newDataConsumer", &["transportId"]),
    ("newPeer", &["remoteAddress"]),
];

/// What clients of the newest dialect ask for by a notification.
const ACTIONS: [&str; 9] = [
    "closeProducer",
    "pauseProducer",
    "resumeProducer",
    "pauseConsumer",
    "resumeConsumer",
    "setConsumerPreferredLayers",
    "setConsumerPriority",
    "requestConsumerKeyFrame",
    "changeDisplayName",
];

/// Time that clients of the newest dialect have to join, at most.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds without a connectivity check after which ICE of the newest dialect's
/// clients counts as disconnected; the worker's default is that of the seed.
const ICE_CONSENT_TIMEOUT: u32 = 20;

impl Dialect {
    /// The dialect of that name: `seed` or `newest`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "seed" => Some(Self::Seed),
            "newest" => Some(Self::Newest),
            _ => None,
        }
    }

    /// Time between the WebSocket and its `join`, at most: what is configured, or
    /// less where clients of this dialect know of a shorter one.
    pub fn join_timeout(self, configured: Duration) -> Duration {
        match self {
            Self::Seed => configured,
            Self::Newest => configured.min(JOIN_TIMEOUT),
        }
    }

    /// Seconds without ICE consent after which the worker takes a client for
    /// disconnected; `None` leaves it to the worker.
    pub fn ice_consent_timeout(self) -> Option<u32> {
        match self {
            Self::Seed => None,
            Self::Newest => Some(ICE_CONSENT_TIMEOUT),
        }
    }

    /// Whether a client ends with any of its transports, as in the newest
    /// mediasoup-demo: it is told of neither state, so it would wait for media that
    /// never comes, where a fresh session brings it back.
    pub fn ends_with_its_transports(self) -> bool {
        self == Self::Newest
    }

    /// A client's request in the seed's words.
    pub fn request(self, request: Request) -> Request {
        if self == Self::Seed {
            return request;
        }
        let Request { id, method, data } = request;
        let (method, data) = match method.as_str() {
            "createWebRtcTransport" => (method, directed(data)),
            "produceData" => (method, labelled(data)),
            "applyNetworkThrottle" => (method, throttled(data)),
            "stopNetworkThrottle" => ("resetNetworkThrottle".to_owned(), data),
            _ => (method, data),
        };
        Request { id, method, data }
    }

    /// Whether a notification of a client is a wish to be carried out.
    pub fn is_action(self, method: &str) -> bool {
        self == Self::Newest && ACTIONS.contains(&method)
    }

    /// The answer to a client's request, which `method` names in the seed's
    /// words.
    pub fn response<'a>(self, method: &str, data: &'a Value) -> Cow<'a, Value> {
        match (self, method) {
            (Self::Seed, "join") => Cow::Owned(map_peers(data, |peer| without("newPeer", peer))),
            (Self::Seed, _) => Cow::Borrowed(data),
            (_, "getRouterRtpCapabilities") => wrapped("routerRtpCapabilities", data),
            (_, "restartIce") => wrapped("iceParameters", data),
            (_, "createWebRtcTransport") => Cow::Owned(renamed(data, "id", "transportId")),
            (_, "produce") => Cow::Owned(renamed(data, "id", "producerId")),
            (_, "produceData") => Cow::Owned(renamed(data, "id", "dataProducerId")),
            (_, "join") => Cow::Owned(map_peers(data, |peer| renamed(peer, "id", "peerId"))),
            (_, method) if method.starts_with("get") && method.ends_with("Stats") => {
                wrapped("stats", data)
            }
            _ => Cow::Borrowed(data),
        }
    }

    /// A request of the server.
    pub fn server_request<'a>(self, method: &str, data: &'a Value) -> Cow<'a, Value> {
        match (self, method) {
            (Self::Seed, _) => Cow::Owned(without(method, data)),
            (_, "newConsumer") => Cow::Owned(renamed(data, "id", "consumerId")),
            (_, "newDataConsumer") => Cow::Owned(data_offer(data)),
            _ => Cow::Borrowed(data),
        }
    }

    /// A notification of the server: the notifications that it stands for.
    pub fn notifications<'a>(
        self,
        method: &'a str,
        data: &'a Value,
    ) -> Vec<(&'a str, Cow<'a, Value>)> {
        let one = |data| vec![(method, data)];
        match (self, method) {
            (Self::Seed, "mediasoupVersion") => Vec::new(),
            // It knows no other word for a peer that is gone.
            (Self::Newest, "peerLeft") => vec![("peerClosed", Cow::Borrowed(data))],
            (Self::Seed, _) => one(Cow::Owned(without(method, data))),
            (_, "newPeer") => one(Cow::Owned(json!({ "peer": renamed(data, "id", "peerId") }))),
            (_, "consumerLayersChanged") => one(Cow::Owned(layers(data))),
            (_, "activeSpeaker") => {
                let (active, speaking) = speakers(data);
                vec![
                    ("speakingPeers", Cow::Owned(speaking)),
                    ("activeSpeaker", Cow::Owned(active)),
                ]
            }
            _ => one(Cow::Borrowed(data)),
        }
    }
}

/// The fields of an object; none of anything else, which is then refused for
/// what it lacks.
fn fields(data: &Value) -> Map<String, Value> {
    data.as_object().cloned().unwrap_or_default()
}

fn wrapped<'a>(name: &str, data: &Value) -> Cow<'a, Value> {
    Cow::Owned(json!({ name: data }))
}

fn renamed(data: &Value, from: &str, to: &str) -> Value {
    let mut fields = fields(data);
    if let Some(value) = fields.remove(from) {
        fields.insert(to.to_owned(), value);
    }
    Value::Object(fields)
}

/// A message without what only the newest dialect tells.
fn without(method: &str, data: &Value) -> Value {
    let names = NEWEST_ONLY.iter().find(|(name, _)| *name == method);
    let names = names.map_or(&[][..], |(_, names)| *names);
    match data {
        Value::Object(fields) if names.iter().any(|name| fields.contains_key(*name)) => {
            let mut fields = fields.clone();
            fields.retain(|name, _| !names.contains(&name.as_str()));
            Value::Object(fields)
        }
        data => data.clone(),
    }
}

fn map_peers(data: &Value, map: impl Fn(&Value) -> Value) -> Value {
    let peers = data.get("peers").and_then(Value::as_array);
    let peers: Vec<Value> = peers.into_iter().flatten().map(map).collect();
    let mut fields = fields(data);
    fields.insert("peers".to_owned(), peers.into());
    Value::Object(fields)
}

/// `appData.direction` as the seed's two flags. Flags that are there win.
fn directed(data: Value) -> Value {
    let Value::Object(mut fields) = data else {
        return data;
    };
    let direction = fields.get("appData").and_then(|it| it.get("direction"));
    let flag = match direction.and_then(Value::as_str) {
        Some("producer") => "producing",
        Some("consumer") => "consuming",
        _ => return Value::Object(fields),
    };
    fields.entry(flag).or_insert(Value::Bool(true));
    Value::Object(fields)
}

/// What a data channel is for: its label in the seed's words, `appData.channel`
/// in the newest ones. The client's label stays where it says the same.
fn labelled(data: Value) -> Value {
    let Value::Object(mut fields) = data else {
        return data;
    };
    let channel = fields.get("appData").and_then(|it| it.get("channel"));
    if let Some(channel @ ("chat" | "bot")) = channel.and_then(Value::as_str) {
        let label = Value::from(channel);
        fields.insert("label".to_owned(), label);
    }
    Value::Object(fields)
}

/// `newDataConsumer`: the bot's has no peer, and every one of them says what it
/// is for.
fn data_offer(data: &Value) -> Value {
    let Value::Object(mut fields) = renamed(data, "id", "dataConsumerId") else {
        return data.clone();
    };
    if fields.get("peerId").is_some_and(Value::is_null) {
        fields.remove("peerId");
    }
    if let Some(label) = fields.get("label").cloned()
        && let Some(Value::Object(app_data)) = fields.get_mut("appData")
    {
        app_data.entry("channel").or_insert(label);
    }
    Value::Object(fields)
}

/// What is in `options` beside the secret, the bitrates under the seed's names:
/// the newest ones are those of sitespeed.io's throttle, which the original
/// server hands them to.
fn throttled(data: Value) -> Value {
    let Value::Object(mut fields) = data else {
        return data;
    };
    let mut options = match fields.remove("options") {
        Some(Value::Object(options)) => options,
        // Refused by name where it is read.
        Some(other) => Map::from_iter([("options".to_owned(), other)]),
        None => Map::new(),
    };
    for (newest, seed) in [("up", "uplink"), ("down", "downlink")] {
        if let Some(bitrate) = options.remove(newest) {
            options.entry(seed).or_insert(bitrate);
        }
    }
    fields.extend(options);
    Value::Object(fields)
}

fn layers(data: &Value) -> Value {
    let mut fields = fields(data);
    let spatial = fields.remove("spatialLayer").unwrap_or_default();
    let temporal = fields.remove("temporalLayer").unwrap_or_default();
    if !spatial.is_null() {
        let layers = json!({ "spatialLayer": spatial, "temporalLayer": temporal });
        fields.insert("layers".to_owned(), layers);
    }
    Value::Object(fields)
}

/// `activeSpeaker` and `speakingPeers` of the newest dialect.
fn speakers(data: &Value) -> (Value, Value) {
    let leader = data.get("dominantPeerId").or_else(|| data.get("peerId"));
    let active = match leader.filter(|peer| !peer.is_null()) {
        Some(peer) => json!({ "peerId": peer }),
        None => json!({}),
    };
    let volumes = data.get("peerVolumes").cloned();
    let volumes = volumes.unwrap_or_else(|| json!([]));
    (active, json!({ "peerVolumes": volumes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dialect: Dialect, method: &str, data: Value) -> (String, Value) {
        let method = method.to_owned();
        let request = dialect.request(Request {
            id: 7,
            method,
            data,
        });
        assert_eq!(request.id, 7);
        (request.method, request.data)
    }

    #[test]
    fn names() {
        assert_eq!(Dialect::parse("seed"), Some(Dialect::Seed));
        assert_eq!(Dialect::parse("newest"), Some(Dialect::Newest));
        assert_eq!(Dialect::parse("Seed"), None);
        assert_eq!(Dialect::parse(""), None);
    }

    #[test]
    fn requests_in_the_seeds_words() {
        let table = [
            (
                (
                    "createWebRtcTransport",
                    json!({"appData": {"direction": "producer"}}),
                ),
                (
                    "createWebRtcTransport",
                    json!({"appData": {"direction": "producer"}, "producing": true}),
                ),
            ),
            (
                (
                    "createWebRtcTransport",
                    json!({"appData": {"direction": "consumer"}, "forceTcp": true}),
                ),
                (
                    "createWebRtcTransport",
                    json!({"appData": {"direction": "consumer"}, "forceTcp": true, "consuming": true}),
                ),
            ),
            (
                (
                    "createWebRtcTransport",
                    json!({"appData": {"direction": 7}}),
                ),
                (
                    "createWebRtcTransport",
                    json!({"appData": {"direction": 7}}),
                ),
            ),
            (
                (
                    "applyNetworkThrottle",
                    json!({"secret": "s", "options": {"up": 1, "down": 3, "rtt": 2}}),
                ),
                (
                    "applyNetworkThrottle",
                    json!({"secret": "s", "uplink": 1, "downlink": 3, "rtt": 2}),
                ),
            ),
            (
                (
                    "applyNetworkThrottle",
                    json!({"secret": "s", "options": {"uplink": 1, "up": 2}}),
                ),
                ("applyNetworkThrottle", json!({"secret": "s", "uplink": 1})),
            ),
            (
                ("applyNetworkThrottle", json!({"secret": "s"})),
                ("applyNetworkThrottle", json!({"secret": "s"})),
            ),
            (
                ("applyNetworkThrottle", json!({"secret": "s", "options": 1})),
                ("applyNetworkThrottle", json!({"secret": "s", "options": 1})),
            ),
            (
                ("stopNetworkThrottle", json!({"secret": "s"})),
                ("resetNetworkThrottle", json!({"secret": "s"})),
            ),
            (
                ("produceData", json!({"appData": {"channel": "chat"}})),
                (
                    "produceData",
                    json!({"appData": {"channel": "chat"}, "label": "chat"}),
                ),
            ),
            (
                (
                    "produceData",
                    json!({"appData": {"channel": "bot"}, "label": "my-bot"}),
                ),
                (
                    "produceData",
                    json!({"appData": {"channel": "bot"}, "label": "bot"}),
                ),
            ),
            (
                (
                    "produceData",
                    json!({"appData": {"channel": "x"}, "label": "chat"}),
                ),
                (
                    "produceData",
                    json!({"appData": {"channel": "x"}, "label": "chat"}),
                ),
            ),
            (("produceData", json!([])), ("produceData", json!([]))),
            (("produce", json!([1])), ("produce", json!([1]))),
            (
                ("createWebRtcTransport", json!("x")),
                ("createWebRtcTransport", json!("x")),
            ),
        ];
        for ((method, data), (seed_method, seed_data)) in table {
            let translated = request(Dialect::Newest, method, data.clone());
            assert_eq!(translated, (seed_method.to_owned(), seed_data));
            let same = request(Dialect::Seed, method, data.clone());
            assert_eq!(same, (method.to_owned(), data));
        }
    }

    #[test]
    fn results_are_wrapped() {
        let table = [
            (
                "getRouterRtpCapabilities",
                json!({"codecs": []}),
                json!({"routerRtpCapabilities": {"codecs": []}}),
            ),
            (
                "restartIce",
                json!({"password": "p"}),
                json!({"iceParameters": {"password": "p"}}),
            ),
            (
                "createWebRtcTransport",
                json!({"id": "t", "iceLite": 1}),
                json!({"transportId": "t", "iceLite": 1}),
            ),
            ("produce", json!({"id": "p"}), json!({"producerId": "p"})),
            (
                "produceData",
                json!({"id": "d"}),
                json!({"dataProducerId": "d"}),
            ),
            ("getConsumerStats", json!([{}]), json!({"stats": [{}]})),
            ("getTransportStats", json!([]), json!({"stats": []})),
            ("closeProducer", json!({}), json!({})),
            (
                "join",
                json!({"peers": [{"id": "a", "remoteAddress": "192.0.2.1"}]}),
                json!({"peers": [{"peerId": "a", "remoteAddress": "192.0.2.1"}]}),
            ),
        ];
        for (method, data, newest) in table {
            assert_eq!(*Dialect::Newest.response(method, &data), newest);
        }
        let peers = json!({"peers": [{"id": "a", "remoteAddress": "192.0.2.1"}]});
        let seed = json!({"peers": [{"id": "a"}]});
        assert_eq!(*Dialect::Seed.response("join", &peers), seed);
    }

    #[test]
    fn offers() {
        let data = json!({"id": "c", "peerId": "a", "transportId": "t", "consumerScore": {}});
        let newest =
            json!({"consumerId": "c", "peerId": "a", "transportId": "t", "consumerScore": {}});
        assert_eq!(
            *Dialect::Newest.server_request("newConsumer", &data),
            newest
        );
        let seed = json!({"id": "c", "peerId": "a"});
        assert_eq!(*Dialect::Seed.server_request("newConsumer", &data), seed);
        let data = json!({"id": "d", "peerId": null, "transportId": "t", "label": "bot",
            "appData": {}});
        let newest = json!({"dataConsumerId": "d", "transportId": "t", "label": "bot",
            "appData": {"channel": "bot"}});
        assert_eq!(
            *Dialect::Newest.server_request("newDataConsumer", &data),
            newest
        );
        let seed = json!({"id": "d", "peerId": null, "label": "bot", "appData": {}});
        assert_eq!(
            *Dialect::Seed.server_request("newDataConsumer", &data),
            seed
        );
        let data = json!({"id": "d", "peerId": "a", "label": "chat", "appData": {"channel": 1}});
        let newest = json!({"dataConsumerId": "d", "peerId": "a", "label": "chat",
            "appData": {"channel": 1}});
        assert_eq!(
            *Dialect::Newest.server_request("newDataConsumer", &data),
            newest
        );
    }

    #[test]
    fn what_the_clients_know_of_time() {
        let configured = Duration::from_secs(30);
        assert_eq!(Dialect::Seed.join_timeout(configured), configured);
        assert_eq!(
            Dialect::Newest.join_timeout(configured),
            Duration::from_secs(10)
        );
        let short = Duration::from_secs(7);
        assert_eq!(Dialect::Newest.join_timeout(short), short);
        assert_eq!(Dialect::Seed.ice_consent_timeout(), None);
        assert_eq!(Dialect::Newest.ice_consent_timeout(), Some(20));
    }

    #[test]
    fn notifications() {
        let table = [
            (
                "newPeer",
                json!({"id": "a", "remoteAddress": "192.0.2.1"}),
                vec![("newPeer", json!({"id": "a"}))],
                vec![(
                    "newPeer",
                    json!({"peer": {"peerId": "a", "remoteAddress": "192.0.2.1"}}),
                )],
            ),
            (
                "consumerLayersChanged",
                json!({"consumerId": "c", "spatialLayer": 1, "temporalLayer": 0}),
                vec![(
                    "consumerLayersChanged",
                    json!({"consumerId": "c", "spatialLayer": 1, "temporalLayer": 0}),
                )],
                vec![(
                    "consumerLayersChanged",
                    json!({"consumerId": "c", "layers": {"spatialLayer": 1, "temporalLayer": 0}}),
                )],
            ),
            (
                "consumerLayersChanged",
                json!({"consumerId": "c", "spatialLayer": null, "temporalLayer": null}),
                vec![(
                    "consumerLayersChanged",
                    json!({"consumerId": "c", "spatialLayer": null, "temporalLayer": null}),
                )],
                vec![("consumerLayersChanged", json!({"consumerId": "c"}))],
            ),
            (
                "activeSpeaker",
                json!({"peerId": "a", "volume": -30, "peerVolumes": [
                    {"peerId": "a", "volume": -30}, {"peerId": "b", "volume": -31},
                ], "dominantPeerId": "b"}),
                vec![("activeSpeaker", json!({"peerId": "a", "volume": -30}))],
                vec![
                    (
                        "speakingPeers",
                        json!({"peerVolumes": [
                            {"peerId": "a", "volume": -30}, {"peerId": "b", "volume": -31},
                        ]}),
                    ),
                    ("activeSpeaker", json!({"peerId": "b"})),
                ],
            ),
            (
                "activeSpeaker",
                json!({"peerId": null}),
                vec![("activeSpeaker", json!({"peerId": null}))],
                vec![
                    ("speakingPeers", json!({"peerVolumes": []})),
                    ("activeSpeaker", json!({})),
                ],
            ),
            (
                "peerLeft",
                json!({"peerId": "a"}),
                vec![("peerLeft", json!({"peerId": "a"}))],
                vec![("peerClosed", json!({"peerId": "a"}))],
            ),
            (
                "mediasoupVersion",
                json!({"version": "1"}),
                vec![],
                vec![("mediasoupVersion", json!({"version": "1"}))],
            ),
            (
                "peerClosed",
                json!({"peerId": "a"}),
                vec![("peerClosed", json!({"peerId": "a"}))],
                vec![("peerClosed", json!({"peerId": "a"}))],
            ),
        ];
        for (method, data, seed, newest) in table {
            for (dialect, expected) in [(Dialect::Seed, seed), (Dialect::Newest, newest)] {
                let told = dialect.notifications(method, &data);
                let told: Vec<_> = told.into_iter().map(|(m, d)| (m, d.into_owned())).collect();
                assert_eq!(told, expected, "{method}");
            }
        }
    }

    #[test]
    fn actions_are_of_the_newest_dialect_only() {
        assert!(Dialect::Newest.is_action("pauseProducer"));
        assert!(!Dialect::Seed.is_action("pauseProducer"));
        assert!(!Dialect::Newest.is_action("join"));
    }
}
