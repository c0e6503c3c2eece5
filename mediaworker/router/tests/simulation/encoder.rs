//! Encoders with layers: which frames need which, and what their packets say about it.

use router::Codec;

use crate::random::Random;

/// Names a frame of a source: its picture, and its spatial layer in the lowest 3 bits.
pub type Name = u64;

/// What the model knows of the frame that a packet belongs to.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Number of the picture (AV1: of the frame) that never wraps.
    pub number: u64,
    /// Bits of it that are sent.
    pub bits: u32,
    /// TL0PICIDX that never wraps, if it is sent.
    pub tl0: Option<u64>,
    pub name: Name,
    pub temporal: u8,
    /// Frames that it cannot be decoded without.
    pub needs: Vec<Name>,
    pub key_picture: bool,
    /// The packet is the last one of the frame.
    pub ends: bool,
    /// AV1: the structure that the packet refers to, and whether it brings it.
    pub structure: (u8, bool),
}

impl Frame {
    pub fn spatial(&self) -> u8 {
        (self.name & 7) as u8
    }

    pub fn picture(&self) -> u64 {
        self.name >> 3
    }
}

/// How an encoder arranges its layers.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub codec: Codec,
    pub spatial: u8,
    pub temporal: u8,
    /// Spatial layers need each other in key pictures only.
    pub independent: bool,
    /// Bits of picture ids, 0 when pictures are not numbered.
    pub bits: u32,
}

/// The part of a picture in one spatial layer.
pub struct Coded {
    frame: Frame,
    joins: bool,
    opens: bool,
    inter_picture: bool,
    inter_layer: bool,
    /// What it needs, with frame numbers.
    references: Vec<(Name, u64)>,
    /// Highest spatial layer that is sent.
    highest: u8,
}

impl Coded {
    pub fn is_key_picture(&self) -> bool {
        self.frame.key_picture
    }
}

pub struct Encoder {
    pub layout: Layout,
    /// Spatial layers that are to be sent.
    pub wanted: u8,
    /// Spatial layers that are sent.
    active: u8,
    picture: u64,
    number: u64,
    tl0: u64,
    position: usize,
    /// The last frame of each spatial and temporal layer that others may need, with its number.
    last: [[Option<(Name, u64)>; 3]; 3],
    template_offset: u8,
    /// Pictures for which it still says which decode targets are sent.
    announce: u32,
    /// Whether it ever does.
    announces: bool,
}

impl Encoder {
    pub fn new(random: &mut Random, layout: Layout) -> Self {
        let end = 1u64 << layout.bits;
        Self {
            layout,
            wanted: layout.spatial,
            active: layout.spatial,
            // Often shortly before they wrap around.
            picture: end + random.range(end.saturating_sub(40), end + 40),
            number: (1 << 17) - random.range(0, 100),
            tl0: 256 + random.range(0, 256),
            position: 0,
            last: Default::default(),
            template_offset: random.range(0, 64) as u8,
            announce: 0,
            announces: random.percent(50),
        }
    }

    fn pattern(&self) -> &'static [u8] {
        match self.layout.temporal {
            1 => &[0],
            2 => &[0, 1],
            _ => &[0, 2, 1, 2],
        }
    }

    /// The frames of the next picture, one for each spatial layer that is sent.
    pub fn encode(&mut self, random: &mut Random, key: bool) -> Vec<Coded> {
        let mut key = key;
        let mut begin_position = self.position % self.pattern().len();
        if key {
            begin_position = 0;
        }
        let before = self.active;
        if begin_position == 0 && self.active != self.wanted {
            key |= self.wanted > self.active && (self.layout.independent || random.percent(50));
            self.active = self.wanted;
            self.announce = 10;
        }
        if key {
            self.last = Default::default();
            self.announce = 10;
            self.template_offset = (self.template_offset + 18) % 64;
        }
        self.announce = self.announce.saturating_sub(1);
        if !self.announces {
            self.announce = 0;
        }
        let temporal = self.pattern()[begin_position];
        self.position = begin_position + 1;
        self.picture += 1;
        self.tl0 += u64::from(temporal == 0);
        let joins = random.percent(40);
        let opens = self.layout.codec == Codec::Av1
            || self.layout.codec == Codec::Vp9 && random.percent(50);
        let mut coded = Vec::new();
        for spatial in 0..self.active {
            let is_fresh = key || spatial >= before;
            if is_fresh {
                self.last[usize::from(spatial)] = Default::default();
            }
            let mut frame = self.frame(spatial, temporal, !is_fresh, joins, opens);
            frame.frame.key_picture = key;
            coded.push(frame);
        }
        for frame in &coded {
            let (name, number) = (frame.frame.name, frame.frame.number);
            let row = &mut self.last[usize::from(frame.frame.spatial())];
            row[usize::from(temporal)] = Some((name, number));
            if opens {
                row[usize::from(temporal) + 1..].fill(None);
            }
        }
        coded
    }

    fn frame(
        &mut self,
        spatial: u8,
        temporal: u8,
        inter_picture: bool,
        joins: bool,
        opens: bool,
    ) -> Coded {
        let Layout {
            codec,
            independent,
            bits,
            ..
        } = self.layout;
        self.number += 1;
        let name = self.picture << 3 | u64::from(spatial);
        let row = &self.last[usize::from(spatial)];
        let inter_layer = spatial > 0 && (!independent || !inter_picture);
        let mut needs: Vec<(Name, u64)> = Vec::new();
        if inter_picture {
            let up_to = if joins && codec == Codec::Vp8 {
                0
            } else {
                temporal
            };
            needs.extend(row[..=usize::from(up_to)].iter().flatten());
        }
        if inter_layer {
            needs.push((name - 1, self.number - 1));
        }
        Coded {
            frame: Frame {
                number: if codec == Codec::Av1 {
                    self.number
                } else {
                    self.picture
                },
                bits: if codec == Codec::Av1 { 16 } else { bits },
                tl0: (codec != Codec::Av1).then_some(self.tl0),
                name,
                temporal,
                needs: needs.iter().map(|(name, _)| *name).collect(),
                key_picture: false,
                ends: false,
                structure: (self.template_offset, false),
            },
            joins,
            opens,
            inter_picture,
            inter_layer,
            references: needs,
            highest: self.active - 1,
        }
    }

    /// The payload and the header extension of one packet of a frame, and what the model is to
    /// know of it.
    pub fn packet(
        &self,
        coded: &Coded,
        begins: bool,
        ends: bool,
    ) -> (Vec<u8>, Option<Vec<u8>>, Option<Frame>) {
        let brings = begins && coded.frame.key_picture && coded.frame.spatial() == 0;
        let frame = Frame {
            ends,
            structure: (coded.frame.structure.0, brings),
            ..coded.frame.clone()
        };
        match self.layout.codec {
            Codec::Vp8 => {
                let payload = vp8(coded, begins, self.layout.bits);
                (payload, None, (self.layout.bits > 0).then_some(frame))
            }
            Codec::Vp9 => {
                let payload = vp9(coded, begins, ends, self.layout.bits);
                (payload, None, (self.layout.bits > 0).then_some(frame))
            }
            _ => {
                let is_start = begins && coded.frame.key_picture && coded.frame.spatial() == 0;
                let payload: &[u8] = if is_start {
                    &[0x28, 0x0b, 0x08, 0x00]
                } else {
                    &[0x10, 0x30, 0x00]
                };
                let extension = self.dependency_descriptor(coded, begins, ends);
                (payload.to_vec(), Some(extension), Some(frame))
            }
        }
    }

    fn dependency_descriptor(&self, coded: &Coded, begins: bool, ends: bool) -> Vec<u8> {
        let frame = &coded.frame;
        let mut bits = Bits::default();
        bits.put(begins.into(), 1);
        bits.put(ends.into(), 1);
        let has_structure = frame.key_picture && frame.spatial() == 0 && begins;
        let delta = u8::from(!frame.key_picture);
        let index = (frame.spatial() * self.layout.temporal + frame.temporal) * 2 + delta;
        bits.put(u64::from((self.template_offset + index) % 64), 6);
        bits.put(frame.number & 0xffff, 16);
        let own_references = !frame.needs.is_empty();
        if !has_structure && self.announce == 0 && !own_references {
            return bits.bytes;
        }
        bits.put(has_structure.into(), 1);
        bits.put((self.announce > 0).into(), 1);
        bits.put(0, 1);
        bits.put(own_references.into(), 1);
        bits.put(0, 1);
        let (spatial, temporal) = (self.layout.spatial, self.layout.temporal);
        if has_structure {
            self.structure(&mut bits);
        }
        if self.announce > 0 {
            for target in (0..spatial * temporal).rev() {
                bits.put((target / temporal <= coded.highest).into(), 1);
            }
        }
        if own_references {
            for (_, number) in &coded.references {
                let back = frame.number - number;
                let size = if back <= 16 { 1 } else { 2 };
                bits.put(size, 2);
                bits.put(back - 1, 4 * size as u32);
            }
            bits.put(0, 2);
        }
        bits.bytes
    }

    /// For each layer a template for key pictures and one for others.
    fn structure(&self, bits: &mut Bits) {
        let (spatial, temporal) = (self.layout.spatial, self.layout.temporal);
        let targets = spatial * temporal;
        bits.put(self.template_offset.into(), 6);
        bits.put(u64::from(targets) - 1, 5);
        let all = || {
            let layers = (0..spatial).flat_map(move |s| (0..temporal).map(move |t| (s, t)));
            layers.flat_map(|(s, t)| [(s, t, true), (s, t, false)])
        };
        for (s, t, is_key) in all() {
            let next = match (is_key, t + 1 < temporal, s + 1 < spatial) {
                (true, _, _) => 0,
                (false, true, _) => 1,
                (false, false, true) => 2,
                (false, false, false) => 3,
            };
            bits.put(next, 2);
        }
        for (s, t, is_key) in all() {
            for target in 0..targets {
                bits.put(self.indication((s, t, is_key), target), 2);
            }
        }
        for _ in all() {
            bits.put(0, 1);
        }
        // One chain for each spatial layer.
        bits.put_non_symmetric(spatial.into(), u64::from(targets) + 1);
        for target in 0..targets {
            bits.put_non_symmetric((target / temporal).into(), spatial.into());
        }
        for _ in all() {
            bits.put(1, 4 * u32::from(spatial));
        }
        bits.put(1, 1);
        for _ in 0..spatial {
            bits.put(1280 << 16 | 720, 32);
        }
    }

    fn indication(&self, (s, t, is_key): (u8, u8, bool), target: u8) -> u64 {
        const NOT_PRESENT: u64 = 0;
        const DISCARDABLE: u64 = 1;
        const SWITCH: u64 = 2;
        const REQUIRED: u64 = 3;
        let (spatial, temporal) = (target / self.layout.temporal, target % self.layout.temporal);
        if spatial < s || temporal < t {
            NOT_PRESENT
        } else if spatial == s {
            if t > 0 && temporal == t {
                DISCARDABLE
            } else {
                SWITCH
            }
        } else if is_key {
            SWITCH
        } else if self.layout.independent {
            NOT_PRESENT
        } else {
            REQUIRED
        }
    }
}

fn picture_id(number: u64, bits: u32) -> Vec<u8> {
    match bits {
        0 => Vec::new(),
        7 => vec![(number & 0x7f) as u8],
        _ => vec![0x80 | (number >> 8) as u8, number as u8],
    }
}

fn vp8(coded: &Coded, begins: bool, bits: u32) -> Vec<u8> {
    let frame = &coded.frame;
    let mut payload = vec![
        if begins { 0x90 } else { 0x80 },
        if bits > 0 { 0xf0 } else { 0x70 },
    ];
    payload.extend(picture_id(frame.number, bits));
    payload.push(frame.tl0.unwrap_or(0) as u8);
    payload.push(frame.temporal << 6 | u8::from(coded.joins) << 5);
    payload.extend([if frame.key_picture { 0x10 } else { 0x11 }, 0x02, 0x00]);
    payload
}

fn vp9(coded: &Coded, begins: bool, ends: bool, bits: u32) -> Vec<u8> {
    let frame = &coded.frame;
    let tells = begins && frame.key_picture && frame.spatial() == 0;
    let mut first = 0x20;
    for (flag, bit) in [
        (bits > 0, 0x80),
        (coded.inter_picture, 0x40),
        (begins, 0x08),
        (ends, 0x04),
        (tells, 0x02),
    ] {
        first |= if flag { bit } else { 0 };
    }
    let mut payload = vec![first];
    payload.extend(picture_id(frame.number, bits));
    let flags = u8::from(coded.opens) << 4 | u8::from(coded.inter_layer);
    payload.push(frame.temporal << 5 | frame.spatial() << 1 | flags);
    payload.push(frame.tl0.unwrap_or(0) as u8);
    if tells {
        payload.push(coded.highest << 5);
    }
    payload.push(0x82);
    payload
}

/// The picture id and TL0PICIDX of a payload of VP8 or VP9 that has both.
pub fn read_numbers(codec: Codec, payload: &[u8]) -> (u16, u8) {
    let at = if codec == Codec::Vp8 { 2 } else { 1 };
    let (id, next) = if payload[at] & 0x80 != 0 {
        let id = u16::from_be_bytes([payload[at] & 0x7f, payload[at + 1]]);
        (id, at + 2)
    } else {
        (payload[at].into(), at + 1)
    };
    (id, payload[next + usize::from(codec == Codec::Vp9)])
}

/// Writes bits, the highest of each byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    free: u32,
}

impl Bits {
    fn put(&mut self, value: u64, count: u32) {
        for bit in (0..count).rev() {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            self.free -= 1;
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << self.free;
        }
    }

    fn put_non_symmetric(&mut self, value: u64, n: u64) {
        let width = n.ilog2() + 1;
        let short = (1 << width) - n;
        if value < short {
            self.put(value, width - 1);
        } else {
            self.put(value + short, width);
        }
    }
}
