//! Whether a JPEG file goes to its end.
//!
//! A decoder fills what is missing with grey and says nothing; a picture that is half grey gets an answer that looks right.
//! Not here: decoding.

/// Start of image.
const SOI: u8 = 0xD8;
/// End of image.
const EOI: u8 = 0xD9;
/// Start of a scan: what follows its header is compressed data, in which a marker is never a literal.
const SOS: u8 = 0xDA;

/// Whether an end marker stands behind the first scan. (ITU-T T.81, annex B.)
pub(super) fn is_whole(file: &[u8]) -> bool {
    let Some(mut rest) = file.strip_prefix(&[0xFF, SOI]) else { return false };
    while let [0xFF, marker, tail @ ..] = rest {
        match (*marker, tail) {
            // Padding.
            (0xFF, _) => rest = &rest[1..],
            (SOS, scan) => return scan.windows(2).any(|pair| pair == [0xFF, EOI]),
            (EOI, _) => return false,
            (_, [high, low, ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some(next) = tail.get(length..) else { return false };
                rest = next;
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_marker_counts_behind_the_first_scan_alone() {
        let head = [0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 0xFF, 0xD9, 0xFF, 0xD9, 0xFF, 0xDA, 0, 2];
        let whole = [&head[..], &[1, 2, 0xFF, 0, 0xFF, 0xD9]].concat();
        assert!(is_whole(&whole));
        assert!(is_whole(&[&whole[..], b"trailing"].concat()));
        for length in 0..whole.len() {
            assert!(!is_whole(&whole[..length]), "{length} bytes");
        }
    }
}
