//! Inputs whose reduction tells who took part, and can be checked element by element without rounding.
//!
//! Peer `id` contributes `2^id · w(j)` for element `j`, with small integers `w`: the sum of any peers is exact in f32, and
//! the first element of the result is the set of those who took part.

/// Different ids: their bits and two more must fit into the 24 bits of an f32.
pub(crate) const IDS: u32 = 20;

fn weight(j: usize, round: u64) -> f32 {
    // 1 for the first element.
    1.0 + ((j * 31 + (j >> 8) * round as usize) % 4) as f32
}

pub(crate) fn fill(buffer: &mut Vec<f32>, count: usize, id: u32, round: u64) {
    let one = (1u32 << id) as f32;
    buffer.clear();
    buffer.extend((0..count).map(|j| one * weight(j, round)));
}

/// Whether a buffer is as it was filled.
pub(crate) fn is_input(buffer: &[f32], id: u32, round: u64) -> bool {
    let one = (1u32 << id) as f32;
    buffer.iter().enumerate().all(|(j, x)| x.to_bits() == (one * weight(j, round)).to_bits())
}

/// Who took part in a sum, if every element of it is right.
pub(crate) fn who(result: &[f32], world: u32, round: u64) -> Result<u32, String> {
    let mask = result.first().map_or(0, |x| *x as u32);
    if mask.count_ones() != world {
        return Err(format!("the first element is {:?} in a world of {world}", result.first()));
    }
    is_total(result, mask, round)
}

/// The total of the ids' bits, if every element of the sum is right.
pub(crate) fn is_total(result: &[f32], total: u32, round: u64) -> Result<u32, String> {
    let wrong = |(j, x): &(usize, &f32)| x.to_bits() != (total as f32 * weight(*j, round)).to_bits();
    match result.iter().enumerate().find(wrong) {
        None => Ok(total),
        Some((j, x)) => Err(format!("element {j} is {x}, not {total} · {}", weight(j, round))),
    }
}
