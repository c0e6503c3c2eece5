//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::signaling::Video;

/// Bitrates of the layers of a simulcast below the best one, as shares of it.
const LOWER_LAYERS: [u32; 2] = [10, 3];

/// Measures an SFU with synthetic clients (ICE, DTLS, SRTP, the seed dialect of
/// protoo), and quotes it against the cheapest forwarder that this machine can
/// run.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Rooms in which everybody sends and receives
    Meeting {
        /// Rooms
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rooms: u32,
        /// Peers of each room
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=1_000))]
        peers: u32,
        /// Server, traffic and measurement
        #[command(flatten)]
        options: Options,
    },
    /// One sender, many viewers
    Broadcast {
        /// Viewers
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        viewers: u32,
        /// Server, traffic and measurement
        #[command(flatten)]
        options: Options,
    },
    /// Meetings in which the oldest peer leaves whenever a new one joins
    Churn {
        /// Rooms
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rooms: u32,
        /// Peers of each room
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1_000))]
        peers: u32,
        /// Joins, and as many leaves, each second
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        rate: u32,
        /// Producers are there, but send nothing: what is measured is joining
        #[arg(long)]
        silent: bool,
        /// Server, traffic and measurement
        #[command(flatten)]
        options: Options,
    },
    /// One sender, more and more viewers until loss exceeds 1 % or p99 of latency
    /// 100 ms
    Ramp {
        /// Viewers that each step adds
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        step: u32,
        /// Viewers to stop at all the same
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Server, traffic and measurement
        #[command(flatten)]
        options: Options,
    },
    /// Memory of transports and consumers on which nothing is sent
    Idle {
        /// Transports that are connected and have neither producers nor consumers
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        transports: u32,
        /// Peers that receive what all senders have
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        viewers: u32,
        /// Peers with producers that send nothing
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=1_000))]
        senders: u32,
        /// Server and kinds of media
        #[command(flatten)]
        options: Options,
    },
    /// Time from the start of our own server until it is ready
    Start {
        /// How often
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        times: u32,
        /// Its binary; webrtc-server beside this program when absent
        #[arg(long, value_name = "FILE")]
        server_binary: Option<PathBuf>,
        /// Core that it has, all of it
        #[arg(long, value_name = "CORE", default_value_t = 0)]
        server_core: usize,
        /// Also write the figures to a file as JSON; `-` is standard output
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// The cheapest forwarder on this machine, without any server
    Floor {
        /// Core of the sender
        #[arg(long, value_name = "CORE", default_value_t = 0)]
        server_core: usize,
        /// Core of the reader
        #[arg(long, value_name = "CORE", default_value_t = 1)]
        generator_core: usize,
        /// Also write the figures to a file as JSON; `-` is standard output
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

impl Command {
    /// Where the JSON goes.
    pub fn json(&self) -> Option<&PathBuf> {
        match self {
            Self::Meeting { options, .. }
            | Self::Broadcast { options, .. }
            | Self::Churn { options, .. }
            | Self::Idle { options, .. }
            | Self::Ramp { options, .. } => options.json.as_ref(),
            Self::Start { json, .. } | Self::Floor { json, .. } => json.as_ref(),
        }
    }
}

/// The video of each sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VideoKind {
    /// Audio only
    None,
    /// One stream
    Single,
    /// Three layers: a tenth and a third of the bitrate, and all of it
    Simulcast,
}

/// What all scenarios share.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Server under test, for example wss://127.0.0.1:4443; any certificate is
    /// accepted
    #[arg(long, value_name = "URL", required_unless_present = "start")]
    pub server: Option<String>,
    /// Start our own server for the run: one worker, all of it on the server's core
    #[arg(long, conflicts_with_all = ["server", "pid"])]
    pub start: bool,
    /// Binary for --start; webrtc-server beside this program when absent
    #[arg(long, value_name = "FILE", requires = "start")]
    pub server_binary: Option<PathBuf>,
    /// Process of the server's control plane; its children are the workers. Without
    /// it, there are no figures of CPU and memory
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// How long to measure, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How long to let things settle before, seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub settle: u64,
    /// Received packets that are decrypted, percent; every packet is read and counted
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(5..=100))]
    pub sample: u8,
    /// Video of each sender, beside audio
    #[arg(long, value_enum, default_value_t = VideoKind::Single)]
    pub video: VideoKind,
    /// Bitrate of the video, bits per second
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=50_000_000))]
    pub bitrate: u32,
    /// Peers that join at the same time while rooms are filled
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub joins: u32,
    /// Core of the server: what --start pins it to, and where the floor is measured
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub server_core: usize,
    /// Core of this program
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    pub generator_core: usize,
    /// Pin nothing to a core
    #[arg(long)]
    pub no_pin: bool,
    /// Do not measure the floor; there are no ratios then
    #[arg(long)]
    pub no_floor: bool,
    /// CPU time that each figure of the floor takes, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub floor_time: u64,
    /// Also write the report to a file as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    /// Where the server runs.
    pub fn server_core(&self) -> Option<usize> {
        (!self.no_pin).then_some(self.server_core)
    }

    /// Where the rod runs.
    pub fn generator_core(&self) -> Option<usize> {
        (!self.no_pin).then_some(self.generator_core)
    }

    /// How long to measure.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// What each sender sends beside audio.
    pub fn video(&self) -> Video {
        match self.video {
            VideoKind::None => Video::None,
            VideoKind::Single => Video::Layers(vec![self.bitrate]),
            VideoKind::Simulcast => {
                let lower = LOWER_LAYERS.map(|share| self.bitrate / share);
                Video::Layers(lower.into_iter().chain([self.bitrate]).collect())
            }
        }
    }

    /// True where the server's processes are not known.
    pub fn no_memory(&self) -> bool {
        !self.start && self.pid.is_none()
    }

    /// Streams of each sender, as others receive them.
    pub fn producers(&self) -> u32 {
        match self.video {
            VideoKind::None => 1,
            VideoKind::Single | VideoKind::Simulcast => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["bench"].into_iter().chain(line.split(' ')))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        for (line, ok) in [
            ("meeting --server wss://h:1", true),
            ("meeting --start --rooms 4 --peers 4", true),
            ("broadcast --viewers 20 --server wss://h:1 --pid 7", true),
            ("ramp --start --step 10 --video simulcast", true),
            ("churn --start --rate 100 --silent", true),
            ("idle --start --viewers 10 --senders 3", true),
            ("idle --viewers 10", false),
            ("start --times 3", true),
            ("start --times 0", false),
            ("floor", true),
            ("meeting", false),
            ("meeting --start --server wss://h:1", false),
            ("meeting --start --sample 4", false),
            ("meeting --start --peers 1", false),
            ("broadcast --server wss://h:1 --pid 0", false),
        ] {
            let parsed = parse(line);
            assert_eq!(parsed.is_ok(), ok, "{line}: {parsed:?}");
        }
    }

    #[test]
    fn simulcast_has_three_layers() {
        let Command::Meeting { options, .. } =
            parse("meeting --start --video simulcast").unwrap().command
        else {
            panic!("a meeting");
        };
        let layers = Video::Layers(vec![100_000, 333_333, 1_000_000]);
        assert_eq!(options.video(), layers);
        assert_eq!(options.producers(), 2);
    }
}
