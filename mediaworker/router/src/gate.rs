//! Which pictures of the stream that a consumer gets are let through, by their layers.
//!
//! What is decided for a picture holds for all of its packets, also for those that arrive late: the
//! gate remembers from which picture on which layers pass ([`MAX_CHANGES`] of these).
//!
//! *Temporal layers* are left out from the next picture on. They are added where the stream allows
//! it: VP8 one layer at a time, with a picture of it that needs none before it (Y); VP9 after a
//! picture that says so for the layers above it (U); with any keyframe. Nobody has to say so, so a
//! keyframe is asked for after [`PATIENCE`].
//!
//! *Spatial layers* within a stream: of full SVC, higher ones are left out from the next picture on
//! and added with a frame that needs no earlier picture; where the layers depend on each other in
//! key pictures only, every change waits for one, and between them only the highest layer passes.
//!
//! *AV1*: the dependency descriptor names decode targets, to which a frame belongs or not. Another
//! one is taken at a frame where that can be decoded on, provided that all that this frame needs
//! was let through.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::layers::Layers;
use crate::payload::Descriptor;
use crate::payload::dependency_descriptor::{Indication, References};
use crate::picture::{Dependencies, Picture};
use crate::rates::Flowing;
use crate::types::SpatialDependency;

/// Changes of layers that a gate remembers. Packets of pictures from before the oldest of them are
/// too old to be let through.
const MAX_CHANGES: usize = 32;

/// How long a temporal layer is waited for before a keyframe is asked for in order to add it.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Pictures in a row without the layer that is let through, after which it counts as gone.
const STARVED: u32 = 3;

/// What passes from a picture on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    from: u64,
    /// The highest layers.
    layers: Layers,
    /// AV1: the decode target.
    target: Option<u8>,
}

#[derive(Debug)]
pub(crate) struct Gate {
    dependency: SpatialDependency,
    /// Oldest first. The last one may be about the next picture.
    changes: VecDeque<Change>,
    newest: u64,
    /// AV1: which of the frames up to the newest passed, that one in the lowest bit.
    passed: u128,
    /// Since when temporal layers that flow and may pass do not.
    short_since: Option<Instant>,
    /// See [`STARVED`].
    starved: u32,
    /// AV1: the highest spatial layer that comes, as far as that is not told.
    coming: u8,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Through {
        /// It ends the last frame of its picture that passes.
        ends_picture: bool,
    },
    LeftOut,
    /// Left out; a keyframe is needed to get this spatial layer, which may pass.
    NeedsKeyFrame(u8),
}

/// What a gate needs to know about a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) now: Instant,
    pub(crate) picture: &'a Picture,
    pub(crate) descriptor: &'a Descriptor,
    pub(crate) marker: bool,
    /// No newer packet of the stream was there before.
    pub(crate) newest: bool,
    pub(crate) flowing: Flowing,
    /// How many spatial layers the stream is said to have.
    pub(crate) spatial_layers: u8,
}

impl Gate {
    /// A gate that nothing passes before [`Gate::open`].
    pub(crate) fn new(dependency: SpatialDependency) -> Self {
        Self {
            dependency,
            changes: VecDeque::new(),
            newest: 0,
            passed: 0,
            short_since: None,
            starved: 0,
            coming: u8::MAX,
        }
    }

    /// Starts a run at a keyframe.
    pub(crate) fn open(&mut self, seen: &Seen<'_>, cap: Layers) {
        self.changes.clear();
        self.newest = seen.picture.id;
        self.passed = 1;
        self.short_since = None;
        self.starved = 0;
        self.coming = u8::MAX;
        let mut change = Change {
            from: seen.picture.id,
            layers: cap,
            target: None,
        };
        match &seen.picture.dependencies {
            Some(dependencies) => choose(&mut change, dependencies, cap),
            None => change.layers.spatial = self.at_key_picture(seen, cap),
        }
        self.changes.push_back(change);
    }

    /// Ends a run, or starts one of a stream whose pictures are not numbered: everything passes.
    pub(crate) fn close(&mut self) {
        self.changes.clear();
    }

    /// The highest layers that pass; `None` when everything does.
    pub(crate) fn layers(&self) -> Option<Layers> {
        self.changes.back().map(|change| change.layers)
    }

    /// Decides about a packet of the stream.
    pub(crate) fn decide(&mut self, seen: &Seen<'_>, cap: Layers) -> Pass {
        if self.changes.is_empty() {
            return Pass::Through {
                ends_picture: seen.marker,
            };
        }
        match &seen.picture.dependencies {
            Some(dependencies) => self.decide_by_target(seen, dependencies, cap),
            // Not known what it is, so it may be what others need.
            None if seen.picture.frame_number.is_some() => Pass::Through {
                ends_picture: seen.marker,
            },
            None => self.decide_by_layers(seen, cap),
        }
    }

    /// What passes of a picture; `None` when it is too old to know.
    fn at(&self, id: u64) -> Option<Change> {
        let holds = |change: &&Change| change.from <= id;
        self.changes.iter().rev().find(holds).copied()
    }

    fn change(&mut self, to: Change) {
        while self.changes.back().is_some_and(|last| last.from >= to.from) {
            self.changes.pop_back();
        }
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(to);
    }

    /// The spatial layer that passes from a key picture on.
    fn at_key_picture(&self, seen: &Seen<'_>, cap: Layers) -> u8 {
        match self.dependency {
            SpatialDependency::Always => cap.spatial,
            SpatialDependency::KeyPictures => {
                let told = seen
                    .descriptor
                    .spatial_layers
                    .unwrap_or(seen.spatial_layers);
                cap.spatial.min(told.max(1) - 1)
            }
        }
    }

    fn decide_by_layers(&mut self, seen: &Seen<'_>, cap: Layers) -> Pass {
        let (id, descriptor) = (seen.picture.id, seen.descriptor);
        let is_new = id > self.newest;
        if is_new {
            self.newest = id;
            self.begin_picture(seen, cap);
        }
        if id == self.newest
            && let Some(mut change) = self.at(id)
        {
            let before = change;
            self.follow_frame(seen, cap, &mut change.layers);
            if change != before {
                self.change(Change { from: id, ..change });
            }
        }
        let Some(change) = self.at(id) else {
            return Pass::LeftOut;
        };
        let highest = change.layers.spatial;
        let (spatial, temporal) = (descriptor.layers.spatial, descriptor.layers.temporal);
        let is_needed = self.dependency == SpatialDependency::Always || !descriptor.inter_picture;
        if temporal <= change.layers.temporal
            && (spatial == highest || (spatial < highest && is_needed))
        {
            self.starved = 0;
            let ends_picture = seen.marker || (descriptor.ends_frame && spatial == highest);
            return Pass::Through { ends_picture };
        }
        self.ask_for_layers(seen, change, cap)
    }

    /// Changes what passes by what a packet of the newest picture says about its frame.
    fn follow_frame(&self, seen: &Seen<'_>, cap: Layers, layers: &mut Layers) {
        let descriptor = seen.descriptor;
        let spatial = descriptor.layers.spatial;
        if descriptor.key_frame_start {
            layers.temporal = cap.temporal;
            // Of a beginning that comes late, something may have been left out already.
            if seen.newest {
                layers.spatial = self.at_key_picture(seen, cap);
            }
        } else if !descriptor.inter_picture
            && descriptor.begins_frame
            && seen.newest
            && spatial == layers.spatial.saturating_add(1)
            && spatial <= cap.spatial
        {
            layers.spatial = spatial;
        }
        // A key picture that ends without the highest layer: there is none to wait for.
        if self.dependency == SpatialDependency::KeyPictures
            && !descriptor.inter_picture
            && seen.marker
        {
            layers.spatial = layers.spatial.min(spatial);
        }
    }

    /// Changes what passes where a picture begins.
    fn begin_picture(&mut self, seen: &Seen<'_>, cap: Layers) {
        let (id, descriptor) = (seen.picture.id, seen.descriptor);
        let Some(before) = self.at(id) else {
            return;
        };
        let mut change = before;
        let layers = &mut change.layers;
        let temporal = descriptor.layers.temporal;
        let waits = self.dependency == SpatialDependency::KeyPictures && descriptor.inter_picture;
        // What has to make way takes as little room as it can until it is gone.
        let is_above = waits && layers.spatial > cap.spatial;
        let cap = Layers::new(cap.spatial, if is_above { 0 } else { cap.temporal });
        layers.temporal = layers.temporal.min(cap.temporal);
        if descriptor.joins
            && temporal.checked_sub(1) == Some(layers.temporal)
            && temporal <= cap.temporal
        {
            layers.temporal = temporal;
        }
        if !waits {
            layers.spatial = layers.spatial.min(cap.spatial);
        }
        let after = *layers;
        if change != before {
            self.change(Change { from: id, ..change });
        }
        if descriptor.opens && temporal <= after.temporal && after.temporal < cap.temporal {
            change.layers.temporal = cap.temporal;
            self.change(Change {
                from: id + 1,
                ..change
            });
        }
        let short = after.temporal < cap.temporal.min(seen.flowing.layers.temporal);
        self.short_since = self
            .short_since
            .filter(|_| short)
            .or(short.then_some(seen.now));
    }

    /// Whether a keyframe is needed for what may pass, given a packet that does not.
    fn ask_for_layers(&mut self, seen: &Seen<'_>, change: Change, cap: Layers) -> Pass {
        let descriptor = seen.descriptor;
        if seen.picture.id != self.newest {
            return Pass::LeftOut;
        }
        let (spatial, highest) = (descriptor.layers.spatial, change.layers.spatial);
        let reachable = cap.spatial.min(seen.flowing.steady_spatial);
        if spatial > highest && spatial <= reachable {
            return Pass::NeedsKeyFrame(reachable);
        }
        if spatial < highest && descriptor.layers.temporal <= change.layers.temporal {
            // Only the highest layer passes, but the picture ends without it.
            self.starved += u32::from(seen.marker);
            if self.starved >= STARVED || spatial == cap.spatial {
                return Pass::NeedsKeyFrame(spatial.min(cap.spatial));
            }
        }
        let patience_ends = self.short_since.map(|since| since + PATIENCE);
        if patience_ends.is_some_and(|end| seen.now >= end) && spatial <= cap.spatial {
            return Pass::NeedsKeyFrame(highest.min(cap.spatial));
        }
        Pass::LeftOut
    }

    fn decide_by_target(
        &mut self,
        seen: &Seen<'_>,
        dependencies: &Dependencies,
        cap: Layers,
    ) -> Pass {
        let id = seen.picture.id;
        let spatial = seen.descriptor.layers.spatial;
        if spatial > self.coming {
            self.coming = u8::MAX;
        }
        let mut needs = None;
        if id > self.newest {
            let ahead = u32::try_from(id - self.newest).unwrap_or(u32::MAX);
            self.passed = self.passed.checked_shl(ahead).unwrap_or(0);
            self.newest = id;
            let cap = Layers::new(cap.spatial.min(self.coming), cap.temporal);
            needs = self.choose_target(seen, dependencies, cap);
        }
        let change = self.at(id);
        let indication = change
            .and_then(|change| change.target)
            .map_or(Indication::NotPresent, |target| {
                dependencies.indications.of(target)
            });
        let highest = change.map_or(0, |change| change.layers.spatial);
        if indication == Indication::NotPresent {
            if seen.marker && id == self.newest && spatial < highest {
                self.starved += 1;
                if self.starved >= STARVED {
                    self.coming = spatial;
                }
            }
            return needs.map_or(Pass::LeftOut, Pass::NeedsKeyFrame);
        }
        self.starved = 0;
        let back = u32::try_from(self.newest - id).unwrap_or(u32::MAX);
        self.passed |= 1u128.checked_shl(back).unwrap_or(0);
        let is_highest = change.is_some() && spatial == highest;
        Pass::Through {
            ends_picture: seen.marker || (seen.descriptor.ends_frame && is_highest),
        }
    }

    /// Takes another decode target with a new frame if it can. Answers the spatial layer that needs
    /// a keyframe instead.
    fn choose_target(
        &mut self,
        seen: &Seen<'_>,
        dependencies: &Dependencies,
        cap: Layers,
    ) -> Option<u8> {
        let id = seen.picture.id;
        let before = self.at(id)?;
        let mut change = before;
        choose(&mut change, dependencies, cap);
        let target = change.target?;
        let switches = dependencies.indications.of(target) == Indication::Switch;
        if change.target == before.target || !switches {
            return None;
        }
        if self.has_passed(id, &dependencies.references) {
            self.change(Change { from: id, ..change });
            return None;
        }
        let (from, to) = (before.layers.spatial, change.layers.spatial);
        let is_reachable = to < from || (to > from && to <= seen.flowing.steady_spatial);
        is_reachable.then_some(to)
    }

    /// Whether everything that a frame needs has passed.
    fn has_passed(&self, id: u64, references: &References) -> bool {
        references.iter().all(|back| {
            let distance = (self.newest + u64::from(back)).wrapping_sub(id);
            let bit = u32::try_from(distance)
                .ok()
                .and_then(|n| self.passed.checked_shr(n));
            bit.is_some_and(|bits| bits & 1 == 1)
        })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let changes = || self.changes.iter();
        let in_order = changes()
            .zip(changes().skip(1))
            .all(|(a, b)| a.from < b.from);
        let near = changes().all(|change| change.from <= self.newest + 1);
        if in_order && near && self.changes.len() <= MAX_CHANGES {
            Ok(())
        } else {
            Err(format!("impossible gate: {self:?}"))
        }
    }
}

/// Takes the best decode target under a cap, if there is one.
fn choose(change: &mut Change, dependencies: &Dependencies, cap: Layers) {
    let targets = &dependencies.targets;
    if let Some(target) = targets.best(cap)
        && let Some(layers) = targets.layers(target)
    {
        change.target = Some(target);
        change.layers = layers;
    }
}
