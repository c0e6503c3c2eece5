//! A call of two, with sound and pictures both ways, that knows what was lost.

use serde_json::json;
use test_peer::str0m::media::MediaKind;

use crate::client::{Client, MediaSender};
use crate::server::{Server, wait_until};

/// What each peer sends.
const AUDIO: u32 = 1000;
const VIDEO: u32 = 2000;

/// Most packets of a stream that are still under way at a time: half a second's.
const UNDER_WAY: u64 = 40;

/// Somebody in a call: sends sound and pictures, and receives the other's.
struct Member {
    /// Before the client, which would wait for their end.
    audio: MediaSender,
    video: MediaSender,
    client: Client,
    /// SSRCs of the other's, sound and picture.
    from_other: [u64; 2],
}

impl Member {
    async fn enter(server: &Server, room: &str, id: &str) -> (Client, [MediaSender; 2]) {
        let mut client = Client::join(server.address(), room, id).await;
        let mut senders = Vec::new();
        for (kind, ssrc) in [(MediaKind::Audio, AUDIO), (MediaKind::Video, VIDEO)] {
            client.produce(kind, ssrc).await;
            senders.push(client.start_sending(kind, ssrc));
        }
        (client, senders.try_into().ok().unwrap())
    }

    async fn hear_the_other((mut client, senders): (Client, [MediaSender; 2])) -> Self {
        let mut from_other = [0; 2];
        for _ in 0..2 {
            let consumer = client.accept_consumer().await;
            from_other[usize::from(consumer.kind == "video")] = consumer.ssrc;
        }
        let [audio, video] = senders;
        Self {
            audio,
            video,
            client,
            from_other,
        }
    }

    /// For each stream of the other's, how many packets have come and how many are
    /// missing among them.
    fn received(&self) -> [(u64, u64); 2] {
        self.from_other.map(|ssrc| {
            let packets = self.client.receive.packets(ssrc);
            let mut numbers: Vec<u64> = packets.iter().map(|it| it.sequence).collect();
            numbers.sort_unstable();
            numbers.dedup();
            let count = numbers.len() as u64;
            let span = numbers.last().zip(numbers.first());
            let span = span.map_or(0, |(last, first)| last - first + 1);
            (count, span - count)
        })
    }
}

/// A room with two in it.
pub struct Call {
    pub room: String,
    members: [Member; 2],
}

impl Call {
    pub async fn start(server: &Server, room: &str) -> Self {
        let alice = Member::enter(server, room, "alice").await;
        let bob = Member::enter(server, room, "bob").await;
        let call = Self {
            room: room.to_owned(),
            members: [
                Member::hear_the_other(alice).await,
                Member::hear_the_other(bob).await,
            ],
        };
        call.flows(10);
        call
    }

    /// Waits for so many more packets of each of the four streams.
    pub fn flows(&self, more: u64) {
        let counts = || {
            let both = self.members.iter().flat_map(Member::received);
            both.map(|(count, _)| count).collect::<Vec<_>>()
        };
        let before = counts();
        wait_until("media both ways", || {
            let pairs = counts().into_iter().zip(&before);
            pairs.into_iter().all(|(now, before)| now >= before + more)
        });
    }

    /// Fails when a packet of any of the four streams is missing; answers how many
    /// have come.
    pub fn lost_nothing(&self) -> u64 {
        let mut total = 0;
        for member in &self.members {
            for (count, missing) in member.received() {
                assert_eq!(missing, 0, "of {count} packets in {}", self.room);
                total += count;
            }
        }
        total
    }

    /// For each of the four streams, how many packets were sent, and how many of
    /// their numbers have passed.
    pub fn progress(&self) -> Vec<(u64, u64)> {
        let [alice, bob] = &self.members;
        let directions = [(alice, bob), (bob, alice)].into_iter();
        let progress = directions.flat_map(|(from, to)| {
            let sent = [from.audio.sent(), from.video.sent()];
            sent.into_iter().zip(to.received())
        });
        progress
            .map(|(sent, (count, missing))| (sent, count + missing))
            .collect()
    }

    /// Fails when a packet is missing, or when what was sent since `before` is not
    /// there too, but for what is under way; answers how many have come.
    pub fn arrived_since(&self, before: &[(u64, u64)]) -> u64 {
        for (now, before) in self.progress().iter().zip(before) {
            let (sent, arrived) = (now.0 - before.0, now.1 - before.1);
            assert!(sent > UNDER_WAY, "{sent} in {}", self.room);
            let under_way = sent.saturating_sub(arrived);
            assert!(
                under_way <= UNDER_WAY,
                "{arrived} of {sent} in {}",
                self.room
            );
        }
        self.lost_nothing()
    }

    /// A request and its answer for each of them: both sockets are open.
    pub async fn is_served(&mut self) {
        for member in &mut self.members {
            let answer = member
                .client
                .protoo
                .request("getRouterRtpCapabilities", json!({}));
            answer.await.unwrap();
        }
    }

    /// Waits until both sockets are closed; fails unless it is with 1012.
    pub async fn closed(self) {
        for Member {
            audio,
            video,
            client,
            ..
        } in self.members
        {
            drop((audio, video));
            assert_eq!(client.protoo.closed().await, Some(1012), "{}", self.room);
        }
    }

    pub async fn leave(mut self) {
        for member in &mut self.members {
            let left = member.client.protoo.request("leaveRoom", json!({}));
            left.await.unwrap();
        }
    }
}
