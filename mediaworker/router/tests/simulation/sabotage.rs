//! Faults put between the router and the model, to see that the model finds them.

use router::{Action, Forward, Payload};

use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A packet is not forwarded.
    Swallow,
    /// A packet is forwarded twice.
    Repeat,
    /// A number is left out, from then on.
    LeaveOut,
    /// A packet gets the number of the one before.
    ReuseNumber,
    /// Timestamps jump, from then on.
    ShiftTime,
    /// One timestamp is a tick off.
    OneTick,
    /// The marker is lost.
    LoseMarker,
    /// Two consumers' packets are mixed up.
    WrongConsumer,
    /// A keyframe is asked for that nobody wants, or too early.
    AskTwice,
    /// Nobody is asked for keyframes.
    AskNobody,
    /// Nobody is told which layer is forwarded.
    TellNobody,
    /// Pictures keep the numbers of their source.
    KeepNumbers,
    /// What came too late to be left out is not emptied.
    KeepPayload,
}

impl Sabotage {
    pub const ALL: [Self; 13] = [
        Self::Swallow,
        Self::Repeat,
        Self::LeaveOut,
        Self::ReuseNumber,
        Self::ShiftTime,
        Self::OneTick,
        Self::LoseMarker,
        Self::WrongConsumer,
        Self::AskTwice,
        Self::AskNobody,
        Self::TellNobody,
        Self::KeepNumbers,
        Self::KeepPayload,
    ];

    /// Falsifies what was forwarded, once in a while. What lasts is kept in `lasting`.
    pub fn falsify(self, random: &mut Random, lasting: &mut bool, out: &mut Vec<Forward>) {
        for forward in out.iter_mut() {
            match (self, forward.payload) {
                (Self::KeepNumbers, Payload::Patched(_)) | (Self::KeepPayload, Payload::Empty) => {
                    forward.payload = Payload::Same;
                }
                (Self::KeepNumbers, _) => forward.frame_number = None,
                _ => {}
            }
        }
        let now = random.percent(1);
        *lasting |= now && !out.is_empty();
        let lasting = *lasting;
        let spare = out.iter().rev().nth(1).copied();
        let Some(last) = out.last_mut() else {
            return;
        };
        match self {
            Self::LeaveOut if lasting => last.sequence += 1,
            Self::ShiftTime if lasting => last.timestamp = last.timestamp.wrapping_add(3000),
            Self::ReuseNumber if now => last.sequence = last.sequence.saturating_sub(1),
            Self::OneTick if now => last.timestamp = last.timestamp.wrapping_sub(1),
            Self::LoseMarker if now => last.marker = !last.marker,
            Self::WrongConsumer => {
                if let Some(spare) = spare {
                    last.consumer = spare.consumer;
                }
            }
            Self::Repeat if now => {
                let last = *last;
                out.push(last);
            }
            Self::Swallow if now => {
                out.pop();
            }
            _ => {}
        }
    }

    pub fn falsify_actions(self, actions: &mut Vec<Action>) {
        match self {
            Self::AskTwice => actions.extend(actions.clone()),
            Self::AskNobody => {
                actions.retain(|action| !matches!(action, Action::RequestKeyFrame { .. }));
            }
            Self::TellNobody => {
                actions.retain(|action| !matches!(action, Action::TellLayer { .. }));
            }
            _ => {}
        }
    }
}
