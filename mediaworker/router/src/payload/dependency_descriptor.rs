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
