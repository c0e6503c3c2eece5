//! How the pictures of a producer have to be turned before they are shown
//! (`urn:3gpp:video-orientation`, 3GPP TS 26.114 §7.4.5).

/// The orientation of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation {
    /// It is from the camera at the back of the device.
    pub camera: bool,
    /// It is mirrored.
    pub flip: bool,
    /// Degrees by which it has to be turned clockwise: 0, 90, 180 or 270.
    pub rotation: u16,
}

impl Orientation {
    /// From the value of the header extension: 0 0 0 0 C F R1 R0.
    pub fn from_byte(byte: u8) -> Self {
        Self {
            camera: byte & 0b1000 != 0,
            flip: byte & 0b0100 != 0,
            rotation: u16::from(byte & 0b0011) * 90,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_its_meaning() {
        for (byte, camera, flip, rotation) in [
            (0b0000, false, false, 0),
            (0b0001, false, false, 90),
            (0b0110, false, true, 180),
            (0b1011, true, false, 270),
            (0b1111_0000, false, false, 0),
        ] {
            let expected = Orientation {
                camera,
                flip,
                rotation,
            };
            assert_eq!(Orientation::from_byte(byte), expected, "{byte:#b}");
        }
    }
}
