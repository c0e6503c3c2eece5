//! The dependency descriptor, AV1 RTP payload format 1.0, appendix A: which layers a frame belongs
//! to, what it needs, and for whom decoding can begin with it.
//!
//! Most descriptors only name a template; the templates come with keyframes. So what is read here
//! depends on the last [`Structure`].

use crate::layers::{Layers, MAX_TEMPORAL_LAYERS};
use crate::rates::MAX_SPATIAL_LAYERS;

/// Decode targets have 5 bits, templates 6 (section A.8).
const MAX_TARGETS: usize = 32;
const MAX_TEMPLATES: usize = 64;

/// Frames that a frame needs directly. Encoders have at most seven to choose from; who says more
/// is not followed.
const MAX_REFERENCES: usize = 8;

/// What a frame is to a decode target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Indication {
    NotPresent,
    Discardable,
    /// Who has what this frame needs can decode the target from here on.
    Switch,
    Required,
}

/// Indications of all decode targets, two bits each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indications(u64);

impl Indications {
    fn read(bits: &mut Bits<'_>, targets: usize) -> Option<Self> {
        let mut all = 0;
        for target in 0..targets {
            all |= bits.take(2)? << (2 * target);
        }
        Some(Self(all))
    }

    pub(crate) fn of(self, target: u8) -> Indication {
        if usize::from(target) >= MAX_TARGETS {
            return Indication::NotPresent;
        }
        match (self.0 >> (2 * target)) & 3 {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        }
    }
}

/// How many frames back those are that a frame needs directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    back: [u16; MAX_REFERENCES],
    count: u8,
}

impl References {
    /// `None` when there are too many.
    fn push(&mut self, back: u64) -> Option<()> {
        *self.back.get_mut(usize::from(self.count))? = u16::try_from(back).ok()?;
        self.count += 1;
        Some(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.back.iter().take(usize::from(self.count)).copied()
    }
}

/// The decode targets of a stream: the choices that it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    /// The highest layers of each; the first `count` are there.
    layers: [Layers; MAX_TARGETS],
    count: u8,
    /// Bit by bit, which ones are sent now.
    active: u32,
}

impl Targets {
    pub(crate) fn layers(&self, target: u8) -> Option<Layers> {
        let exists = target < self.count;
        self.layers
            .get(usize::from(target))
            .copied()
            .filter(|_| exists)
    }

    /// The best that is sent and not above `cap`, else the lowest that is sent: by spatial, then by
    /// temporal layer.
    pub(crate) fn best(&self, cap: Layers) -> Option<u8> {
        let sent = || {
            (0..self.count)
                .filter(|target| self.active & (1 << target) != 0)
                .filter_map(|target| Some((self.layers(target)?, target)))
        };
        let is_within =
            |layers: &Layers| layers.spatial <= cap.spatial && layers.temporal <= cap.temporal;
        let best = sent().filter(|(layers, _)| is_within(layers)).max();
        best.or_else(|| sent().min()).map(|(_, target)| target)
    }
}

#[derive(Clone, Copy, Debug)]
struct Template {
    layers: Layers,
    indications: Indications,
    references: References,
}

/// What the descriptors that follow refer to.
#[derive(Clone, Debug)]
pub(crate) struct Structure {
    id_offset: u8,
    templates: Vec<Template>,
    pub(crate) targets: Targets,
}

/// What a descriptor says about the frame of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) begins: bool,
    pub(crate) ends: bool,
    pub(crate) layers: Layers,
    pub(crate) indications: Indications,
    pub(crate) references: References,
}

/// A descriptor as it was read.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) frame: Frame,
    /// The structure that it brings.
    pub(crate) structure: Option<Structure>,
    /// Which decode targets are sent from here on, where it says so.
    pub(crate) active: Option<u32>,
}

impl Structure {
    /// Which decode targets are sent now.
    pub(crate) fn set_active(&mut self, active: u32) {
        self.targets.active = active;
    }
}

/// The number of a packet's frame, which every descriptor has.
pub(crate) fn frame_number(bytes: &[u8]) -> Option<u16> {
    let number = bytes.get(1..3)?.first_chunk()?;
    Some(u16::from_be_bytes(*number))
}

/// Reads a descriptor, given the last structure. `None` when it is malformed, or refers to a
/// structure that is not there.
pub(crate) fn parse(bytes: &[u8], last: Option<&Structure>) -> Option<Parsed> {
    let mut bits = Bits { bytes, at: 0 };
    let (begins, ends) = (bits.flag()?, bits.flag()?);
    let template = u8::try_from(bits.take(6)?).ok()?;
    bits.take(16)?;
    let mut flags = [false; 5];
    if bytes.len() > 3 {
        for flag in &mut flags {
            *flag = bits.flag()?;
        }
    }
    // Own chains come last, and are of no use here.
    let [
        has_structure,
        has_active,
        own_indications,
        own_references,
        _,
    ] = flags;
    let brought = if has_structure {
        Some(Structure::read(&mut bits)?)
    } else {
        None
    };
    let structure = brought.as_ref().or(last)?;
    let targets = usize::from(structure.targets.count);
    let active = if has_active {
        Some(u32::try_from(bits.take(targets)?).ok()?)
    } else {
        None
    };
    let index = (template + 64 - structure.id_offset) % 64;
    let template = structure.templates.get(usize::from(index))?;
    let mut frame = Frame {
        begins,
        ends,
        layers: template.layers,
        indications: template.indications,
        references: template.references,
    };
    if own_indications {
        frame.indications = Indications::read(&mut bits, targets)?;
    }
    if own_references {
        frame.references = References::default();
        loop {
            let size = usize::try_from(bits.take(2)?).ok()?;
            if size == 0 {
                break;
            }
            frame.references.push(bits.take(4 * size)? + 1)?;
        }
    }
    Some(Parsed {
        frame,
        structure: brought,
        active,
    })
}

impl Structure {
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let id_offset = u8::try_from(bits.take(6)?).ok()?;
        let count = u8::try_from(bits.take(5)? + 1).ok()?;
        let mut templates = read_layers(bits)?;
        for template in &mut templates {
            template.indications = Indications::read(bits, count.into())?;
        }
        for template in &mut templates {
            while bits.flag()? {
                template.references.push(bits.take(4)? + 1)?;
            }
        }
        let chains = bits.non_symmetric(u64::from(count) + 1)?;
        if chains > 0 {
            for _ in 0..count {
                bits.non_symmetric(chains)?;
            }
            for _ in 0..templates.len() {
                for _ in 0..chains {
                    bits.take(4)?;
                }
            }
        }
        if bits.flag()? {
            let highest = templates.iter().map(|t| t.layers.spatial).max()?;
            for _ in 0..=highest {
                bits.take(32)?;
            }
        }
        Some(Self {
            id_offset,
            targets: Targets {
                layers: target_layers(&templates, count),
                count,
                active: u32::MAX >> (32 - u32::from(count)),
            },
            templates,
        })
    }
}

/// The layers of each template.
fn read_layers(bits: &mut Bits<'_>) -> Option<Vec<Template>> {
    let mut layers = Layers::default();
    let mut templates = Vec::new();
    loop {
        let in_range = usize::from(layers.spatial) < MAX_SPATIAL_LAYERS
            && usize::from(layers.temporal) < MAX_TEMPORAL_LAYERS;
        if templates.len() == MAX_TEMPLATES || !in_range {
            return None;
        }
        templates.push(Template {
            layers,
            indications: Indications::default(),
            references: References::default(),
        });
        match bits.take(2)? {
            0 => {}
            1 => layers.temporal += 1,
            2 => layers = Layers::new(layers.spatial + 1, 0),
            _ => return Some(templates),
        }
    }
}

/// The highest layers that each decode target has.
fn target_layers(templates: &[Template], count: u8) -> [Layers; MAX_TARGETS] {
    let mut all = [Layers::default(); MAX_TARGETS];
    for (target, layers) in (0..count).zip(&mut all) {
        for template in templates {
            if template.indications.of(target) != Indication::NotPresent {
                layers.spatial = layers.spatial.max(template.layers.spatial);
                layers.temporal = layers.temporal.max(template.layers.temporal);
            }
        }
    }
    all
}

/// Reads bits, the highest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits, at most 64; `None` at the end.
    fn take(&mut self, count: usize) -> Option<u64> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u64::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.take(1)? == 1)
    }

    /// A number below `n`, which is at least 1 (section A.8.1, `ns(n)`).
    fn non_symmetric(&mut self, n: u64) -> Option<u64> {
        let width = n.checked_ilog2()? as usize + 1;
        let short = (1u64 << width) - n;
        let value = self.take(width - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + self.take(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits as text; spaces and line ends do not count.
    fn bytes(text: &str) -> Vec<u8> {
        let bits: Vec<u8> = text.bytes().filter(|c| b"01".contains(c)).collect();
        let byte = |bits: &[u8]| {
            (0..8).fold(0, |byte, bit| {
                byte << 1 | u8::from(bits.get(bit) == Some(&b'1'))
            })
        };
        bits.chunks(8).map(byte).collect()
    }

    /// L2T2_KEY: templates 60 to 63 and 0 are a keyframe, S0T0, S0T1, S1T0 and S1T1.
    const STRUCTURE: &str = "111100 00011 \
        00 01 10 01 11 \
        10101010 10100000 00010000 00001010 00000001 \
        0 10001 0 10001 0 10000 0 10000 10001 0 \
        10 0 0 1 1 \
        0000 0001 0010 0011 0100 0101 0110 0111 1000 1001 \
        1 0000001111111111 0000000111111111 0000011111111111 0000001111111111";

    fn with_structure(flags: &str, rest: &str) -> Vec<u8> {
        bytes(&format!(
            "1 0 111100 0001001000110100 1 {flags} {STRUCTURE} {rest}"
        ))
    }

    #[test]
    fn a_structure_is_read_and_referred_to() {
        let parsed = parse(&with_structure("1 000", "0011"), None).unwrap();
        assert_eq!(parsed.active, Some(0b0011));
        let frame = parsed.frame;
        assert_eq!((frame.begins, frame.ends), (true, false));
        assert_eq!(frame.layers, Layers::new(0, 0));
        assert_eq!(frame.references.iter().count(), 0);
        let mut structure = parsed.structure.unwrap();
        let targets = &structure.targets;
        let layers: Vec<_> = (0..5).map(|target| targets.layers(target)).collect();
        let expected = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(s, t)| Some(Layers::new(s, t)));
        assert_eq!((&layers[..4], layers[4]), (&expected[..], None));

        // Template 63: S1T0.
        let delta = bytes("0 1 111111 0001001000111000");
        let frame = parse(&delta, Some(&structure)).unwrap().frame;
        assert_eq!((frame.begins, frame.ends), (false, true));
        assert_eq!(frame.layers, Layers::new(1, 0));
        assert_eq!(frame.references.iter().collect::<Vec<_>>(), [1]);
        let of = |target| frame.indications.of(target);
        assert_eq!(of(0), Indication::NotPresent);
        assert_eq!(of(2), Indication::Switch);
        assert_eq!(
            (of(3), of(40)),
            (Indication::Switch, Indication::NotPresent)
        );
        // Template 0 is the fifth; template 1 does not exist.
        let fifth = bytes("1 1 000000 0000000000000001");
        let frame = parse(&fifth, Some(&structure)).unwrap().frame;
        assert_eq!(frame.layers, Layers::new(1, 1));
        assert_eq!(frame.references.iter().collect::<Vec<_>>(), [1, 2]);
        assert!(parse(&bytes("11 000001 0000000000000001"), Some(&structure)).is_none());
        assert!(parse(&fifth, None).is_none());
        assert_eq!(frame_number(&delta), Some(0x1238));

        // Own indications and references.
        let own = bytes(
            "11 111100 0000000000000001 0 0 1 1 0 01101110 01 0001 10 00010000 11 000000000001 00",
        );
        let frame = parse(&own, Some(&structure)).unwrap().frame;
        let found: Vec<_> = (0..4).map(|target| frame.indications.of(target)).collect();
        use Indication::{Discardable, Required, Switch};
        assert_eq!(found, [Discardable, Switch, Required, Switch]);
        assert_eq!(frame.references.iter().collect::<Vec<_>>(), [2, 17, 2]);

        // The choice: what is sent, within the limits.
        let best = |structure: &Structure, s, t| structure.targets.best(Layers::new(s, t));
        assert_eq!(best(&structure, 9, 9), Some(3));
        assert_eq!(best(&structure, 0, 9), Some(1));
        structure.set_active(0b0011);
        assert_eq!(best(&structure, 9, 9), Some(1));
        structure.set_active(0b1100);
        assert_eq!(best(&structure, 0, 0), Some(2), "the lowest there is");
        structure.set_active(0);
        assert_eq!(best(&structure, 0, 0), None);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = with_structure("1 000", "0011");
        for len in 0..whole.len() {
            assert!(parse(&whole[..len], None).is_none(), "{len}");
        }
        assert_eq!(frame_number(&whole[..2]), None);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        // More than eight spatial layers, and more than 64 templates.
        for next in ["10", "00"] {
            let head = "11 000000 0000000000000000 10000 000000 00000";
            let text = format!("{head} {}", next.repeat(200));
            assert!(parse(&bytes(&text), None).is_none());
        }
        // Nine references.
        let structure = parse(&with_structure("0 000", ""), None).unwrap().structure;
        let many = format!(
            "11 111100 0000000000000001 0 0 0 1 0 {} 00",
            "01 0000".repeat(9)
        );
        assert!(parse(&bytes(&many), structure.as_ref()).is_none());
    }

    #[test]
    fn no_bytes_panic() {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let mut structure = parse(&with_structure("0 000", ""), None).unwrap().structure;
        let mut read = 0;
        for round in 0..200_000 {
            let mut bytes: Vec<u8> = (0..random() % 60).map(|_| random()).collect();
            // Half of them are a good one with a few changes.
            if round % 2 == 0 {
                bytes = with_structure("1 000", "0011");
                for _ in 0..=random() % 3 {
                    let at = usize::from(random()) % bytes.len();
                    bytes[at] = random();
                }
            }
            let Some(parsed) = parse(&bytes, structure.as_ref()) else {
                continue;
            };
            read += 1;
            let Layers { spatial, temporal } = parsed.frame.layers;
            assert!(spatial < 8 && temporal < 8);
            structure = parsed.structure.or(structure);
        }
        assert!(read > 10_000, "{read}");
    }
}
