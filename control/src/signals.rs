//! The signals that the server listens to. The first one that ends it asks for
//! a graceful end, a second one for an immediate one; what that means is up to
//! the caller. SIGHUP asks for files to be read again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that ends the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSignal {
    /// SIGINT, for example Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// Listens for the signals. From its making on they no longer end the process
/// by themselves, also when it is dropped.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Installs the handlers; wants a tokio runtime.
    ///
    /// # Errors
    /// The kernel's, when a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal. Safe to drop while it waits.
    pub async fn recv(&mut self) -> EndSignal {
        tokio::select! {
            _ = self.interrupt.recv() => EndSignal::Interrupt,
            _ = self.terminate.recv() => EndSignal::Terminate,
        }
    }
}

/// Listens for SIGHUP, which from its making on no longer ends the process,
/// also when it is dropped. Several that come at once may be told as one.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Installs the handler; wants a tokio runtime.
    ///
    /// # Errors
    /// The kernel's, when the handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next SIGHUP. Safe to drop while it waits.
    pub async fn recv(&mut self) {
        // The stream of a signal has no end.
        self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::Signal as Kill;
    use nix::sys::signal::raise;

    use super::*;

    #[tokio::test]
    async fn each_signal_is_told() {
        let mut signals = Signals::new().unwrap();
        for (kill, want) in [
            (Kill::SIGTERM, EndSignal::Terminate),
            (Kill::SIGINT, EndSignal::Interrupt),
            (Kill::SIGINT, EndSignal::Interrupt),
        ] {
            raise(kill).unwrap();
            let got = tokio::time::timeout(Duration::from_secs(5), signals.recv()).await;
            assert_eq!(got.unwrap(), want);
        }
    }
}
