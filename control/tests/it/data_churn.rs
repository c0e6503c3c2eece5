//! Peers come, go, chat and lose transports in a random order that its seed
//! decides; after every step each has exactly the data consumers that it
//! should have, on streams of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use control::rooms::Timings;
use proto::event::Event;
use proto::{ActiveSpeaker, TransportClosed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::client::Client;
use crate::server::{TestServer, config};

const SEEDS: u64 = 4;
const STEPS: usize = 60;
const NAMES: [&str; 4] = ["anchor", "ann", "ben", "cas"];

/// Most chats of one peer; each goes to everybody.
const MAX_CHATS: usize = 5;

struct Member {
    client: Client,
    send: Option<String>,
    recv: Option<String>,
    chats: BTreeSet<String>,
    next_stream: u16,
    /// Data consumers by id: the data producer's id, and the stream.
    received: HashMap<String, (String, u64)>,
}

struct World {
    server: TestServer,
    members: BTreeMap<&'static str, Member>,
    /// The bot's data producer, once somebody turned to it.
    bot: Option<String>,
}

impl World {
    async fn step(&mut self, random: &mut StdRng) -> String {
        let name = NAMES[random.random_range(0..NAMES.len())];
        let action = random.random_range(0..9);
        let Some(member) = self.members.get_mut(name) else {
            let client = self.server.connect("room", name).await;
            self.join(name, client).await;
            return format!("{name} joins");
        };
        match action {
            0..=2 if member.chats.len() < MAX_CHATS => {
                member.produce("chat").await;
                format!("{name} chats")
            }
            3 if member.next_stream < 20 => {
                member.produce("bot").await;
                format!("{name} turns to the bot")
            }
            4 if member.recv.is_none() => {
                member.recv = Some(member.client.recv_transport().await);
                format!("{name} receives")
            }
            5 => {
                let gone = member.recv.take();
                self.lose(gone).await;
                format!("{name} loses the transport to receive on")
            }
            6 => {
                let gone = member.send.take();
                member.chats.clear();
                self.lose(gone).await;
                format!("{name} loses the transport to send on")
            }
            7 => {
                let client = self.server.connect("room", name).await;
                self.join(name, client).await;
                format!("{name} comes again")
            }
            // The room must not end.
            8 if name != "anchor" => {
                member.client.ok("leaveRoom", json!({})).await;
                self.members.remove(name);
                format!("{name} leaves")
            }
            _ => "nothing".into(),
        }
    }

    async fn join(&mut self, name: &'static str, mut client: Client) {
        // Before or after the join makes no difference.
        let early = client.recv_transport().await;
        client.join(name).await;
        let member = Member {
            client,
            send: None,
            recv: Some(early),
            chats: BTreeSet::new(),
            next_stream: 0,
            received: HashMap::new(),
        };
        self.members.insert(name, member);
    }

    /// The worker closes a transport, and everybody has heard what follows.
    async fn lose(&mut self, transport_id: Option<String>) {
        let Some(transport_id) = transport_id else {
            return;
        };
        let closed = TransportClosed {
            transport_id,
            reason: "DTLS closed".into(),
        };
        self.server
            .worker_says(Event::TransportClosed(closed))
            .await;
        let silence = Event::ActiveSpeaker(ActiveSpeaker::default());
        self.server.worker_says(silence).await;
        for member in self.members.values_mut() {
            member.client.notified("activeSpeaker").await;
        }
    }

    async fn check(&mut self, story: &[String]) {
        for member in self.members.values_mut() {
            let bot = member.hear(story).await;
            self.bot = self.bot.take().or(bot);
        }
        for (name, member) in &self.members {
            let others = self.members.iter().filter(|(other, _)| *other != name);
            let chats = others.flat_map(|(_, other)| other.chats.iter());
            let wanted: BTreeSet<&String> = match member.recv {
                Some(_) => chats.chain(&self.bot).collect(),
                None => BTreeSet::new(),
            };
            let received = member.received.values().map(|(producer, _)| producer);
            let received: Vec<&String> = received.collect();
            assert_eq!(received.len(), wanted.len(), "{name} {story:#?}");
            let received: BTreeSet<&String> = received.into_iter().collect();
            assert_eq!(received, wanted, "{name} {story:#?}");
        }
    }
}

impl Member {
    async fn produce(&mut self, label: &str) {
        let send = match self.send.take() {
            Some(send) => send,
            None => {
                self.next_stream = 0;
                self.client.send_transport().await
            }
        };
        let id = self
            .client
            .produce_data(&send, label, self.next_stream)
            .await;
        self.next_stream += 1;
        self.send = Some(send);
        if label == "chat" {
            self.chats.insert(id);
        }
    }

    /// Takes in what the server said; the bot's data producer, if it is new.
    async fn hear(&mut self, story: &[String]) -> Option<String> {
        let mut bot = None;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for message in self.client.drain().await {
            let data = &message["data"];
            match message["method"].as_str() {
                Some("newDataConsumer") => {
                    let stream = data["sctpStreamParameters"]["streamId"].as_u64().unwrap();
                    let taken = self.received.values().any(|(_, other)| *other == stream);
                    assert!(!taken, "stream {stream} twice: {story:#?}");
                    let producer = text(&data["dataProducerId"]);
                    if data["peerId"].is_null() {
                        bot = Some(producer.clone());
                    }
                    self.received.insert(text(&data["id"]), (producer, stream));
                    self.client.accept(message["id"].as_u64().unwrap()).await;
                }
                Some("dataConsumerClosed") => {
                    let known = self.received.remove(&text(&data["dataConsumerId"]));
                    assert!(known.is_some(), "closed twice: {story:#?}");
                }
                _ => {}
            }
        }
        bot
    }
}

#[tokio::test]
async fn everybody_hears_exactly_the_others() {
    for seed in 0..SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut config = config();
        config.room_max_peers = 10;
        let mut world = World {
            server: TestServer::start_with(config, Timings::default()).await,
            members: BTreeMap::new(),
            bot: None,
        };
        let anchor = world.server.connect("room", NAMES[0]).await;
        world.join(NAMES[0], anchor).await;
        let mut story = vec![format!("seed {seed}")];
        for _ in 0..STEPS {
            story.push(world.step(&mut random).await);
            world.check(&story).await;
        }
        // The last one closes the room with all that was in it.
        world.members.clear();
        let closed = |call: &crate::fake_worker::Call| {
            matches!(call, crate::fake_worker::Call::CloseRouter(_)).then_some(())
        };
        world.server.worker.wait_for(closed).await;
        assert_eq!(world.server.rooms.joined_peers(), 0);
    }
}
