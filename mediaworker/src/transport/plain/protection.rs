//! SRTP of a plain transport: our keys, and those that signaling tells of the remote.

use aws_lc_rs::rand;
use proto::{SrtpCryptoSuite, SrtpParameters};

use crate::transport::srtp::{Opener, Sealer, Suite};
use crate::transport::{PacketKind, TransportError};

/// Both directions of one transport, with one suite.
pub struct Protection {
    suite: SrtpCryptoSuite,
    /// Our master key and salt.
    material: Vec<u8>,
    sealer: Sealer,
    /// Once the remote's keys are known.
    opener: Option<Opener>,
    /// What was opened last.
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No keys in logs.
        let mut shown = f.debug_struct("Protection");
        shown.field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Protection {
    /// With keys of our own, newly made.
    ///
    /// # Errors
    /// [`TransportError`], naming the field.
    pub fn new(suite: SrtpCryptoSuite) -> Result<Self, TransportError> {
        let kind = Suite::of(suite)?;
        let mut material = vec![0; kind.material_len()];
        rand::fill(&mut material)
            .map_err(|_| TransportError::Internal("no random numbers".into()))?;
        Ok(Self {
            suite,
            sealer: Sealer::new(kind, &material)?,
            material,
            opener: None,
            buffer: Vec::new(),
        })
    }

    /// How we encrypt.
    pub fn ours(&self) -> SrtpParameters {
        SrtpParameters {
            crypto_suite: self.suite.into(),
            key: self.material.clone(),
        }
    }

    /// Takes in how the remote encrypts.
    ///
    /// # Errors
    /// [`TransportError::Invalid`], naming the field; nothing has changed then.
    pub fn set_remote(&mut self, remote: &SrtpParameters) -> Result<(), TransportError> {
        if remote.crypto_suite() != self.suite {
            let text = "srtpParameters.cryptoSuite: is not that of the transport";
            return Err(TransportError::Invalid(text.into()));
        }
        self.opener = Some(Opener::new(Suite::of(self.suite)?, &remote.key)?);
        Ok(())
    }

    /// Keys of both sides are known.
    pub fn is_ready(&self) -> bool {
        self.opener.is_some()
    }

    /// Decrypts a datagram. `None`: it is not authentic, came before, or the remote's
    /// keys are not known yet.
    pub fn open(&mut self, kind: PacketKind, datagram: &[u8]) -> Option<&[u8]> {
        let opener = self.opener.as_mut()?;
        self.buffer.clear();
        self.buffer.extend_from_slice(datagram);
        match kind {
            PacketKind::Rtp => opener.rtp(&mut self.buffer)?,
            _ => opener.rtcp(&mut self.buffer)?,
        }
        Some(&self.buffer)
    }

    /// Encrypts an RTP packet with this extended sequence number. False: it cannot be.
    pub fn seal_rtp(&self, packet: &mut Vec<u8>, index: u64) -> bool {
        self.sealer.rtp(packet, index).is_some()
    }

    /// Encrypts a compound RTCP packet. False: it cannot be.
    pub fn seal_rtcp(&mut self, packet: &mut Vec<u8>) -> bool {
        self.sealer.rtcp(packet).is_some()
    }
}
