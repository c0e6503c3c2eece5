//! The cheapest forwarder on this machine: seal a packet with AES-128-GCM and
//! hand it to the kernel, and nothing else. What a server needs for each packet
//! is quoted as a multiple of that.
//!
//! CPU time of the sending thread is what counts, so others on the machine
//! disturb little. Packets go over loopback to a socket that nobody reads (the
//! kernel drops them once it is full), then to one with a reader on the other
//! core: then the kernel's share holds queueing and waking as well.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sendmsg};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::media::{Runs, float};
use crate::process;

/// A packet of the usual video, bytes with header and tag.
pub const PACKET: usize = 1_100;
const HEADER: usize = 20;
const TAG: usize = 16;
/// Packets of one `sendmmsg`.
const BATCH: usize = 16;
/// Packets between two looks at the clock.
const ROUND: usize = 512;
/// Largest aggregate that the kernel takes: 64 segments, 64 KiB.
const MAX_SEGMENTS: usize = 64;
const MAX_AGGREGATE: usize = 65_000;

/// Microseconds for each packet.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Costs {
    /// Sealing alone.
    pub seal: f64,
    /// Sealing and `sendto` for each packet.
    pub sendto: f64,
    /// Sealing and one `sendmmsg` for 16 packets.
    pub sendmmsg: f64,
    /// Sealing and one send for 4 segments.
    pub gso_4: f64,
    /// Sealing and one send for 16 segments.
    pub gso_16: f64,
}

/// The floor of this machine.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Floor {
    /// Nobody reads.
    pub without_reader: Costs,
    /// A thread on the other core reads.
    pub with_reader: Costs,
}

/// The floor at the batch sizes that the server used in this run.
#[derive(Debug, Clone, Serialize)]
pub struct Mix {
    /// Packets that one send carried to one destination, on average.
    pub packets_per_send: f64,
    /// Share of all packets, by the number that their send carried.
    pub shares: BTreeMap<usize, f64>,
    /// Microseconds for each packet, nobody reading.
    pub without_reader: f64,
    /// Microseconds for each packet, with a reader.
    pub with_reader: f64,
}

/// Where and how long the floor is measured.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Core of the sender: that of the server.
    pub sender: Option<usize>,
    /// Core of the reader: that of the rod.
    pub reader: Option<usize>,
    /// For each figure.
    pub time: Duration,
}

/// How packets are handed to the kernel.
#[derive(Debug, Clone, Copy)]
enum Way {
    Nowhere,
    SendTo,
    SendMmsg,
    Gso(usize),
}

/// Measures all ways, without and with a reader.
///
/// # Errors
/// What the kernel or the crypto library refused.
pub fn measure(place: Place) -> Result<Floor, String> {
    Ok(Floor {
        without_reader: costs(place, false)?,
        with_reader: costs(place, true)?,
    })
}

fn costs(place: Place, reader: bool) -> Result<Costs, String> {
    let cost = |way| run(place, reader, |sender| sender.cost(way, PACKET, place.time));
    Ok(Costs {
        seal: cost(Way::Nowhere)?,
        sendto: cost(Way::SendTo)?,
        sendmmsg: cost(Way::SendMmsg)?,
        gso_4: cost(Way::Gso(4))?,
        gso_16: cost(Way::Gso(16))?,
    })
}

/// Prices exactly what the server's sends carried. `None` when none were seen.
///
/// # Errors
/// What the kernel or the crypto library refused.
pub fn measure_mix(place: Place, runs: &BTreeMap<usize, Runs>) -> Result<Option<Mix>, String> {
    let packets_of = |run: usize, runs: &Runs| u64::try_from(run).unwrap_or(0) * runs.sends;
    let packets: u64 = runs.iter().map(|(run, runs)| packets_of(*run, runs)).sum();
    let sends: u64 = runs.values().map(|runs| runs.sends).sum();
    if packets == 0 {
        return Ok(None);
    }
    let mut mix = Mix {
        packets_per_send: float(packets) / float(sends),
        shares: BTreeMap::new(),
        without_reader: 0.0,
        with_reader: 0.0,
    };
    for (&run_length, seen) in runs {
        let own = packets_of(run_length, seen);
        let share = float(own) / float(packets);
        mix.shares.insert(run_length, share);
        let len = usize::try_from(seen.bytes / own.max(1)).unwrap_or(PACKET);
        let way = match run_length {
            1 => Way::SendTo,
            more => Way::Gso(more),
        };
        // What is rare needs no precision.
        let time = place.time.mul_f64(share.clamp(0.05, 1.0));
        let cost = |reader| run(place, reader, |sender| sender.cost(way, len, time));
        mix.without_reader += share * cost(false)?;
        mix.with_reader += share * cost(true)?;
    }
    Ok(Some(mix))
}

fn run(
    place: Place,
    reader: bool,
    measure: impl FnOnce(&mut Sender) -> Result<f64, String>,
) -> Result<f64, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let to = socket.local_addr().map_err(|error| error.to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    let thread = reader.then(|| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || read_until(&socket, &stop, place.reader))
    });
    let result = process::pinned(place.sender, || measure(&mut Sender::new(to)?));
    stop.store(true, Ordering::Relaxed);
    if let Some(thread) = thread {
        let ended = thread.join().map_err(|_| "the reader panicked")?;
        ended?;
    }
    result
}

fn read_until(socket: &UdpSocket, stop: &AtomicBool, core: Option<usize>) -> Result<(), String> {
    core.map_or(Ok(()), process::pin)?;
    let wait = Some(Duration::from_millis(20));
    socket
        .set_read_timeout(wait)
        .map_err(|error| error.to_string())?;
    let mut buffer = [0; 2_048];
    while !stop.load(Ordering::Relaxed) {
        // A time-out is a reason to look at `stop`, nothing else.
        let _ = socket.recv(&mut buffer);
    }
    Ok(())
}

struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
    address: SockaddrIn,
    key: LessSafeKey,
    counter: u128,
    packets: Vec<Vec<u8>>,
    aggregate: Vec<u8>,
    headers: MultiHeaders<SockaddrIn>,
}

impl Sender {
    fn new(to: SocketAddr) -> Result<Self, String> {
        let SocketAddr::V4(v4) = to else {
            return Err("loopback has an IPv4 address".into());
        };
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|error| error.to_string())?;
        Ok(Self {
            socket: UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?,
            to,
            address: v4.into(),
            key: LessSafeKey::new(key),
            counter: 0,
            packets: Vec::new(),
            aggregate: Vec::with_capacity(MAX_AGGREGATE),
            headers: MultiHeaders::preallocate(BATCH, None),
        })
    }

    /// Microseconds of CPU for each packet of a length.
    fn cost(&mut self, way: Way, len: usize, time: Duration) -> Result<f64, String> {
        let len = len.max(HEADER + TAG + 1);
        self.packets = vec![vec![0x5A; len]; ROUND.max(MAX_SEGMENTS)];
        // Warm: caches, branch predictors, the socket's route.
        self.round(way)?;
        let (start, budget) = (cpu_clock()?, u64::try_from(time.as_nanos()).unwrap_or(0));
        let mut sent = 0;
        loop {
            sent += self.round(way)?;
            let used = cpu_clock()?.saturating_sub(start);
            if used >= budget {
                return Ok(float(used) / 1_000.0 / float(sent));
            }
        }
    }

    /// Seals and sends about [`ROUND`] packets; answers how many.
    fn round(&mut self, way: Way) -> Result<u64, String> {
        let mut packets = std::mem::take(&mut self.packets);
        let group = match way {
            Way::Nowhere | Way::SendTo => 1,
            Way::SendMmsg => BATCH,
            Way::Gso(segments) => {
                let len = packets.first().map_or(PACKET, Vec::len);
                segments.clamp(1, MAX_SEGMENTS.min(MAX_AGGREGATE / len))
            }
        };
        let mut sent = 0;
        for chunk in packets.chunks_mut(group).take(ROUND / group) {
            for packet in chunk.iter_mut() {
                self.seal(packet)?;
            }
            self.hand_over(way, chunk)?;
            sent += u64::try_from(chunk.len()).unwrap_or(0);
        }
        self.packets = packets;
        Ok(sent)
    }

    fn seal(&mut self, packet: &mut [u8]) -> Result<(), String> {
        self.counter += 1;
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.counter.to_be_bytes()[4..]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let split = packet.split_at_mut_checked(HEADER);
        let (header, rest) = split.ok_or("a packet without room for its header")?;
        let end = rest.len().saturating_sub(TAG);
        let split = rest.split_at_mut_checked(end);
        let (payload, place) = split.ok_or("a packet without room for its tag")?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*header), payload)
            .map_err(|error| error.to_string())?;
        place.copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn hand_over(&mut self, way: Way, packets: &[Vec<u8>]) -> Result<(), String> {
        let text = |error: nix::Error| format!("send: {error}");
        match way {
            Way::Nowhere => {}
            Way::SendTo => {
                for packet in packets {
                    let sent = self.socket.send_to(packet, self.to);
                    sent.map_err(|error| format!("send: {error}"))?;
                }
            }
            Way::SendMmsg => {
                let slices: Vec<[IoSlice<'_>; 1]> =
                    packets.iter().map(|p| [IoSlice::new(p)]).collect();
                let sent = sendmmsg(
                    self.socket.as_raw_fd(),
                    &mut self.headers,
                    slices.iter(),
                    [Some(self.address); BATCH],
                    [],
                    MsgFlags::empty(),
                );
                sent.map_err(text)?;
            }
            Way::Gso(_) => {
                self.aggregate.clear();
                for packet in packets {
                    self.aggregate.extend_from_slice(packet);
                }
                let len = packets.first().map_or(0, Vec::len);
                let segment = u16::try_from(len).map_err(|error| error.to_string())?;
                sendmsg(
                    self.socket.as_raw_fd(),
                    &[IoSlice::new(&self.aggregate)],
                    &[ControlMessage::UdpGsoSegments(&segment)],
                    MsgFlags::empty(),
                    Some(&self.address),
                )
                .map_err(text)?;
            }
        }
        Ok(())
    }
}

/// CPU time of this thread, nanoseconds.
fn cpu_clock() -> Result<u64, String> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_err(|e| e.to_string())?;
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    Ok(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Place = Place {
        sender: None,
        reader: None,
        time: Duration::from_millis(5),
    };

    #[test]
    fn all_ways_cost_something_and_sealing_the_least() {
        let floor = measure(QUICK).unwrap();
        for costs in [floor.without_reader, floor.with_reader] {
            for cost in [costs.sendto, costs.sendmmsg, costs.gso_4, costs.gso_16] {
                assert!(costs.seal > 0.0 && cost > costs.seal, "{costs:?}");
            }
            assert!(costs.gso_16 < costs.sendto, "{costs:?}");
        }
    }

    #[test]
    fn a_mix_is_priced_by_shares() {
        assert!(measure_mix(QUICK, &BTreeMap::new()).unwrap().is_none());
        let runs = |sends, bytes| Runs { sends, bytes };
        let seen = BTreeMap::from([(1, runs(20, 2_000)), (4, runs(20, 88_000))]);
        let mix = measure_mix(QUICK, &seen).unwrap().unwrap();
        assert!((mix.packets_per_send - 2.5).abs() < 1e-9);
        assert!((mix.shares[&1] - 0.2).abs() < 1e-9 && (mix.shares[&4] - 0.8).abs() < 1e-9);
        assert!(mix.without_reader > 0.0 && mix.with_reader > 0.0);
    }
}
