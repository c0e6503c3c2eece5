//! What is in the clear of an RTP packet, and how much a client can make us send again.

/// SSRC of an RTP packet (RFC 3550 §5.1).
pub fn ssrc(rtp: &[u8]) -> Option<u32> {
    let bytes = rtp.get(8..12)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Sequence number of an RTP packet.
pub fn sequence(rtp: &[u8]) -> Option<u16> {
    let bytes = rtp.get(2..4)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Retransmissions that are saved up for, and that a media packet adds one to.
const RESEND_BURST: u32 = 1024;
/// Retransmissions refused in a row after which a client is taken for hostile.
const MAX_REFUSED: u32 = 8192;

/// Bounds how much a client can make us send again.
#[derive(Debug)]
pub struct ResendBudget {
    left: u32,
    refused: u32,
}

/// What to do with a retransmission.
#[derive(Debug, PartialEq, Eq)]
pub enum Resend {
    /// Send it.
    Send,
    /// Drop it.
    Drop,
    /// The client asks without end: close its transport.
    Close,
}

impl Default for ResendBudget {
    fn default() -> Self {
        Self {
            left: RESEND_BURST,
            refused: 0,
        }
    }
}

impl ResendBudget {
    /// A media packet has been sent.
    pub fn media(&mut self) {
        self.left = (self.left + 1).min(RESEND_BURST);
    }

    /// A retransmission wants to be sent.
    pub fn resend(&mut self) -> Resend {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.refused = 0;
            return Resend::Send;
        }
        self.refused = self.refused.saturating_add(1);
        if self.refused > MAX_REFUSED {
            Resend::Close
        } else {
            Resend::Drop
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resends_are_paid_for_by_media() {
        let mut budget = ResendBudget::default();
        let sent = (0..2000)
            .filter(|_| budget.resend() == Resend::Send)
            .count();
        assert_eq!(sent, 1024);
        budget.media();
        assert_eq!(budget.resend(), Resend::Send);
        assert_eq!(budget.resend(), Resend::Drop);
        let closes = (0..10_000).any(|_| budget.resend() == Resend::Close);
        assert!(closes);
    }
}
