//! The clients' media: real ICE, DTLS and SRTP over real sockets, all on one
//! thread.

mod engine;
mod payload;
mod receiving;
mod rtcp;
mod rtp;
mod sending;
mod session;
mod srtp;
mod udp;
mod window;

pub use engine::{Command, Counts, Media, TransportId};
pub use receiving::ReceiveSpec;
pub use sending::{Kind, SendSpec, ids};
pub use session::{Remote, Waiting};
pub use window::{Runs, Times, Window, float, ratio};
