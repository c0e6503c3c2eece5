//! What a consumer got of the pictures of one run, and what it had to get.

use std::collections::{BTreeMap, BTreeSet};

use router::{Codec, DROP_HISTORY, Forward, Layers, Payload};

use crate::client::Packet;
use crate::encoder::{Frame, Layout, Name, read_numbers};

type Checked = Result<(), String>;

/// The numbers that a consumer's next run goes on with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Next {
    picture: Option<u64>,
    tl0: Option<u64>,
}

pub struct Pictures {
    layout: Layout,
    first: u64,
    first_out: u64,
    highest: u64,
    /// VP8: those that were left out.
    dropped: BTreeSet<u64>,
    tl0_offset: u64,
    newest_tl0: u64,
    /// Whether a frame was let through.
    decided: BTreeMap<Name, bool>,
    /// What frames that were let through need.
    relied_on: BTreeSet<Name>,
    /// The highest layers that were allowed when the first packet of a picture came.
    allowed: BTreeMap<u64, Layers>,
    /// The frame that ended last, without a marker.
    open: Option<Name>,
    /// The newest frame that something was let through of.
    newest: Name,
}

impl Pictures {
    /// Starts a run at a keyframe.
    pub fn start(layout: Layout, frame: &Frame, next: Next) -> Self {
        let tl0 = frame.tl0.unwrap_or(0);
        Self {
            layout,
            first: frame.number,
            first_out: next.picture.unwrap_or(frame.number),
            highest: frame.number,
            dropped: BTreeSet::new(),
            tl0_offset: next.tl0.unwrap_or(tl0).wrapping_sub(tl0),
            newest_tl0: tl0,
            decided: BTreeMap::new(),
            relied_on: BTreeSet::new(),
            allowed: BTreeMap::new(),
            open: None,
            newest: 0,
        }
    }

    pub fn next(&self, before: Next) -> Next {
        let tl0 = self.newest_tl0.wrapping_add(self.tl0_offset);
        Next {
            picture: Some(self.out(self.highest + 1)),
            tl0: if self.layout.codec == Codec::Av1 {
                before.tl0
            } else {
                Some(tl0 + 1)
            },
        }
    }

    fn out(&self, number: u64) -> u64 {
        self.first_out + (number - self.first) - self.dropped.range(..number).count() as u64
    }

    /// Checks a packet. `actual`: what was forwarded of it, if anything.
    pub fn packet(
        &mut self,
        packet: &Packet,
        frame: &Frame,
        newest: bool,
        cap: Layers,
        actual: Option<&Forward>,
    ) -> Checked {
        let actual = actual.filter(|forward| forward.payload != Payload::Empty);
        let allowed = *self.allowed.entry(frame.picture()).or_insert(cap);
        match self.decided.get(&frame.name) {
            Some(known) if *known == actual.is_some() => {}
            Some(true) if self.is_forgotten(frame) => return Ok(()),
            Some(_) => return Err("half a frame".into()),
            None if actual.is_some() => self.check_let_through(frame, newest, allowed, cap)?,
            None => self.check_left_out(frame, newest)?,
        }
        self.decided.insert(frame.name, actual.is_some());
        match actual {
            Some(actual) => {
                self.highest = self.highest.max(frame.number);
                self.newest = self.newest.max(frame.name);
                self.newest_tl0 = self.newest_tl0.max(frame.tl0.unwrap_or(0));
                self.check_patch(packet, frame, actual)?;
                self.check_marker(packet, frame, actual)
            }
            None => {
                if self.layout.codec == Codec::Vp8 && frame.number > self.highest {
                    self.dropped.insert(frame.number);
                    self.highest = frame.number;
                }
                Ok(())
            }
        }
    }

    /// Checks a packet of which nobody can say what it is. It may seem to refer to a structure that
    /// is older than the one that is missing, so that it is taken for something that it is not.
    pub fn unreadable(
        &mut self,
        packet: &Packet,
        frame: &Frame,
        actual: Option<&Forward>,
    ) -> Checked {
        let Some(actual) = actual.filter(|forward| forward.payload != Payload::Empty) else {
            return Ok(());
        };
        self.highest = self.highest.max(frame.number);
        self.check_patch(packet, frame, actual)
    }

    /// Whether so much was left out since that nothing is known of a frame.
    fn is_forgotten(&self, frame: &Frame) -> bool {
        let above = self.dropped.range(frame.number..);
        above.filter(|n| !self.dropped.contains(&(**n - 1))).count() > DROP_HISTORY
    }

    fn check_let_through(
        &mut self,
        frame: &Frame,
        newest: bool,
        allowed: Layers,
        cap: Layers,
    ) -> Checked {
        let is_missing = |need: &&Name| self.decided.get(need) == Some(&false);
        if let Some(missing) = frame.needs.iter().find(is_missing) {
            return Err(format!("needs {missing}, which was left out"));
        }
        self.relied_on.extend(&frame.needs);
        if !newest || self.layout.codec == Codec::Av1 {
            return Ok(());
        }
        if frame.temporal > allowed.temporal.max(cap.temporal) {
            return Err(format!("above {allowed:?}"));
        }
        let may_wait = self.layout.independent && !frame.key_picture;
        let highest = allowed.spatial.max(cap.spatial);
        if self.layout.spatial > 1 && frame.spatial() > highest && !may_wait {
            return Err(format!("above {allowed:?}"));
        }
        Ok(())
    }

    fn check_left_out(&mut self, frame: &Frame, newest: bool) -> Checked {
        if self.relied_on.contains(&frame.name) {
            return Err("others need it".into());
        }
        let is_lowest = frame.spatial() == 0 && frame.temporal == 0;
        let always = self.layout.spatial == 1 || !self.layout.independent;
        if newest && is_lowest && always {
            return Err("the lowest layer was left out".into());
        }
        match self.open {
            Some(open) if newest && open == self.newest && open + 1 == frame.name => {
                Err("the picture was not ended".into())
            }
            _ => Ok(()),
        }
    }

    fn check_patch(&self, packet: &Packet, frame: &Frame, actual: &Forward) -> Checked {
        let number = self.out(frame.number);
        if self.layout.codec == Codec::Av1 {
            let out = actual.frame_number.unwrap_or(frame.number as u16);
            return if out == number as u16 && actual.payload == Payload::Same {
                Ok(())
            } else {
                Err(format!("frame number {out}, not {}", number as u16))
            };
        }
        let mut payload = packet.payload.to_vec();
        if let Payload::Patched(patch) = actual.payload {
            patch.apply(&mut payload);
            let told = (patch.picture_id, patch.tl0_picture.unwrap_or(0));
            if payload == *packet.payload || told != read_numbers(self.layout.codec, &payload) {
                return Err(format!("{patch:?} of {:02x?}", packet.payload));
            }
        }
        let tl0 = frame.tl0.unwrap_or(0).wrapping_add(self.tl0_offset);
        let expected = ((number % (1 << frame.bits)) as u16, tl0 as u8);
        let actual = read_numbers(self.layout.codec, &payload);
        if actual != expected {
            return Err(format!("picture {actual:?}, not {expected:?}"));
        }
        // Nothing else may change.
        let differs = payload.iter().zip(&*packet.payload).filter(|(a, b)| a != b);
        if differs.count() > 3 || payload.len() != packet.payload.len() {
            return Err("the payload is another one".into());
        }
        Ok(())
    }

    fn check_marker(&mut self, packet: &Packet, frame: &Frame, actual: &Forward) -> Checked {
        let own = frame.ends && self.layout.spatial > 1;
        if actual.marker != packet.marker && !(own && actual.marker) {
            return Err("another marker".into());
        }
        if frame.ends {
            self.open = (!actual.marker).then_some(frame.name);
        }
        Ok(())
    }
}
