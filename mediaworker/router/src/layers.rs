//! Spatial and temporal layers, and what each of them costs.

use crate::types::MAX_STREAMS;

/// Most temporal layers of one spatial layer (3 bits in VP9, RFC 9628, and in the AV1 dependency
/// descriptor; VP8, RFC 7741, has 2).
pub const MAX_TEMPORAL_LAYERS: usize = 8;

/// A spatial and a temporal layer. Of a simulcast producer the spatial layer is the index of the
/// encoding; of an SVC producer it is the layer within its only stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Layers {
    /// From 0, the lowest, below [`MAX_STREAMS`].
    pub spatial: u8,
    /// From 0, the lowest, below [`MAX_TEMPORAL_LAYERS`].
    pub temporal: u8,
}

impl Layers {
    /// Everything.
    pub const HIGHEST: Self = Self {
        spatial: MAX_STREAMS as u8 - 1,
        temporal: MAX_TEMPORAL_LAYERS as u8 - 1,
    };

    /// A spatial layer with a temporal layer of it.
    #[must_use]
    pub const fn new(spatial: u8, temporal: u8) -> Self {
        Self { spatial, temporal }
    }
}

/// What sending one consumer everything up to a layer costs, bit/s; all that it depends on is
/// counted in: lower temporal layers always, lower spatial ones where the producer's kind of
/// layers needs them. Layers that do not flow have no cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LayerCosts {
    costs: [[Option<u32>; MAX_TEMPORAL_LAYERS]; MAX_STREAMS],
}

impl LayerCosts {
    /// Sets the cost of a layer, bit/s. Layers out of range are ignored.
    pub fn set(&mut self, layers: Layers, bitrate: u64) {
        let place = self
            .costs
            .get_mut(usize::from(layers.spatial))
            .and_then(|row| row.get_mut(usize::from(layers.temporal)));
        if let Some(place) = place {
            *place = Some(u32::try_from(bitrate).unwrap_or(u32::MAX));
        }
    }

    /// What a layer costs, bit/s; `None` when it does not flow.
    #[must_use]
    pub fn get(&self, layers: Layers) -> Option<u64> {
        let row = self.costs.get(usize::from(layers.spatial))?;
        row.get(usize::from(layers.temporal))?.map(u64::from)
    }

    /// The layers that flow with their costs, lowest first: by spatial, then by temporal layer.
    pub fn iter(&self) -> impl Iterator<Item = (Layers, u64)> + '_ {
        (0u8..).zip(&self.costs).flat_map(|(spatial, row)| {
            (0u8..).zip(row).filter_map(move |(temporal, cost)| {
                Some((Layers { spatial, temporal }, u64::from((*cost)?)))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_listed_lowest_first() {
        let mut costs = LayerCosts::default();
        costs.set(Layers::new(1, 0), 500_000);
        costs.set(Layers::new(0, 1), 150_000);
        costs.set(Layers::new(0, 0), u64::MAX);
        costs.set(Layers::new(200, 0), 1);
        assert_eq!(costs.get(Layers::new(0, 1)), Some(150_000));
        assert_eq!(costs.get(Layers::HIGHEST), None);
        let listed: Vec<_> = costs.iter().collect();
        let expected = [
            (Layers::new(0, 0), u64::from(u32::MAX)),
            (Layers::new(0, 1), 150_000),
            (Layers::new(1, 0), 500_000),
        ];
        assert_eq!(listed, expected);
    }
}
