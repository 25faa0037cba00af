//! Numbers of 6 bits that share bytes.

/// The scales and the minima of the eight sub-blocks of a block of `Q4_K` or `Q5_K`, 0 to 63 each.
///
/// Twelve bytes hold sixteen numbers. The first four bytes have the scales 0 to 3 in their lower six bits, the next four
/// the minima 0 to 3. The last four have the lower four bits of the scales 4 to 7 and of the minima 4 to 7, whose upper
/// two bits are the upper two of the first eight bytes.
pub(in crate::tensor) fn sub_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let word = |at: usize| u32::from_le_bytes([packed[at], packed[at + 1], packed[at + 2], packed[at + 3]]);
    let (first, second, third) = (word(0), word(4), word(8));
    // four bytes at a time; what is shifted in from a neighbour is masked away
    let upper = |word: u32| word >> 2 & 0x3030_3030;
    let both = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = both(first & 0x3f3f_3f3f, third & 0x0f0f_0f0f | upper(first));
    let minima = both(second & 0x3f3f_3f3f, third >> 4 & 0x0f0f_0f0f | upper(second));
    (scales, minima)
}

/// The inverse of [`sub_scales`].
pub(super) fn pack_sub_scales(scales: [u8; 8], minima: [u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | (scales[i + 4] >> 4 << 6);
        packed[i + 4] = minima[i] | (minima[i + 4] >> 4 << 6);
        packed[i + 8] = (scales[i + 4] & 15) | (minima[i + 4] & 15) << 4;
    }
    packed
}

/// The sixteen scales of a block of `Q3_K`, -32 to 31 each: the lower four bits in the first eight bytes, the upper two
/// in the last four, and 32 too many.
pub(super) fn signed_scales(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        (low | high << 4) as i8 - 32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_found_again() {
        let scales = [0, 1, 17, 63, 62, 33, 16, 15];
        let minima = [63, 48, 2, 0, 31, 32, 63, 1];
        assert_eq!(sub_scales(&pack_sub_scales(scales, minima)), (scales, minima));
    }

    #[test]
    fn a_signed_scale_is_of_its_own_bits() {
        let mut packed = [0; 12];
        assert_eq!(signed_scales(&packed), [-32; 16]);
        // scale 9: the upper half of byte 1, and bits 4 and 5 of byte 9
        packed[1] = 0xf0;
        packed[9] = 3 << 4;
        let mut expected = [-32; 16];
        expected[9] = 31;
        assert_eq!(signed_scales(&packed), expected);
    }
}
