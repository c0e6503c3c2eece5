//! Scalability modes (W3C webrtc-svc): `L1T3`, `S3T3`, `L3T3_KEY`.

/// Layers of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScalabilityMode {
    /// Spatial layers, 1–99.
    pub spatial_layers: u8,
    /// Temporal layers, 1–99.
    pub temporal_layers: u8,
    /// Spatial layers depend on each other in keyframes only (K-SVC).
    pub ksvc: bool,
    /// Spatial layers do not depend on each other at all (`S3T3`).
    pub simulcast: bool,
}

impl Default for ScalabilityMode {
    /// No layers.
    fn default() -> Self {
        Self {
            spatial_layers: 1,
            temporal_layers: 1,
            ksvc: false,
            simulcast: false,
        }
    }
}

impl ScalabilityMode {
    /// Reads a mode. What is not one counts as no layers; text after a mode is
    /// ignored, as modes such as `L3T3_KEY_SHIFT` and `L2T2h` exist.
    pub fn parse(mode: &str) -> Self {
        Self::read(mode).unwrap_or_default()
    }

    fn read(mode: &str) -> Option<Self> {
        let (spatial_layers, rest) = count(mode.strip_prefix(['L', 'S'])?)?;
        let (temporal_layers, rest) = count(rest.strip_prefix('T')?)?;
        Some(Self {
            spatial_layers,
            temporal_layers,
            ksvc: rest.starts_with("_KEY"),
            simulcast: mode.starts_with('S'),
        })
    }
}

/// A number of one or two digits without a leading zero, and what follows.
fn count(text: &str) -> Option<(u8, &str)> {
    let digits = text.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    if number.starts_with('0') {
        return None;
    }
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read() {
        for (mode, spatial, temporal, ksvc) in [
            ("L1T3", 1, 3, false),
            ("L3T3", 3, 3, false),
            ("L3T3_KEY", 3, 3, true),
            ("L3T2_KEY_SHIFT", 3, 2, true),
            ("S3T3", 3, 3, false),
            ("S2T1h", 2, 1, false),
            ("L10T12", 10, 12, false),
            ("L99T99_KEY", 99, 99, true),
            // Not modes: no layers.
            ("", 1, 1, false),
            ("L", 1, 1, false),
            ("L3", 1, 1, false),
            ("L3T", 1, 1, false),
            ("L0T3", 1, 1, false),
            ("L3T0", 1, 1, false),
            ("L03T3", 1, 1, false),
            ("L100T3", 1, 1, false),
            ("l3t3", 1, 1, false),
            ("X3T3", 1, 1, false),
            ("LüTü", 1, 1, false),
            ("L1ü", 1, 1, false),
        ] {
            let expected = ScalabilityMode {
                spatial_layers: spatial,
                temporal_layers: temporal,
                ksvc,
                simulcast: mode.starts_with('S'),
            };
            assert_eq!(ScalabilityMode::parse(mode), expected, "{mode:?}");
        }
    }
}
