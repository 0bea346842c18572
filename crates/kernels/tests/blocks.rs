//! Blocks that are made and taken piece by piece are those of the whole tensor.

use pccl_kernels::quantize::{BLOCK, Format, Scheme, Width};
use pccl_kernels::{Blocks, DataType};
use proptest::prelude::*;

const FORMAT: Format = Format { dtype: DataType::Float32, width: Width::Eight, scheme: Scheme::MinMax };

fn tensor(count: usize, seed: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (((i * 31 + seed * 17) % 1009) as f32 / 7.0 - 50.0).to_ne_bytes()).collect()
}

/// Makes all blocks in pieces of so many, the last ones first, and takes them so, as if they were the result.
fn by_pieces(blocks: &mut Blocks, tensor: &[u8], piece: usize) -> Vec<u8> {
    let len = blocks.contribution().len();
    let starts: Vec<usize> = (0..len).step_by(piece * FORMAT.block_bytes()).collect();
    let piece_len = |start: usize| (piece * FORMAT.block_bytes()).min(len - start);
    for start in starts.iter().rev() {
        blocks.prepare(tensor, *start, piece_len(*start));
    }
    let (contribution, result) = blocks.both();
    result.copy_from_slice(contribution);
    let mut back = vec![0; tensor.len()];
    for start in starts {
        blocks.take(&mut back, start, piece_len(start));
    }
    back
}

proptest! {
    #[test]
    fn pieces_are_those_of_the_whole(count in 1_usize..5 * BLOCK, piece in 1_usize..4, seed in 0_usize..99) {
        let tensor = tensor(count, seed);
        let mut whole = vec![0; FORMAT.bytes(count)];
        FORMAT.encode(&tensor, &mut whole);
        let mut decoded = vec![0; tensor.len()];
        FORMAT.decode(&whole, &mut decoded);
        let mut blocks = Blocks::new(FORMAT, count);
        prop_assert_eq!(&by_pieces(&mut blocks, &tensor, piece), &decoded);
        prop_assert_eq!(blocks.contribution(), &whole[..]);
    }
}

#[test]
fn blocks_in_the_memory_of_others_are_new_ones() {
    let mut blocks = Blocks::new(FORMAT, 9 * BLOCK);
    for (count, seed) in
        [(9 * BLOCK, 1), (5 * BLOCK + 3, 2), (9 * BLOCK - 1, 3), (1, 4), (9 * BLOCK, 5), (99 * BLOCK, 6)]
    {
        blocks = blocks.again(FORMAT, count);
        let tensor = tensor(count, seed);
        let back = by_pieces(&mut blocks, &tensor, 2);
        let mut whole = vec![0; FORMAT.bytes(count)];
        FORMAT.encode(&tensor, &mut whole);
        let mut decoded = vec![0; tensor.len()];
        FORMAT.decode(&whole, &mut decoded);
        assert_eq!(back, decoded, "{count}");
    }
}

#[test]
fn a_large_tensor_is_taken_by_all_cores_as_by_one() {
    // No whole number of blocks, and of threads' shares.
    let count = (6 << 20) + 77;
    let tensor = tensor(count, 7);
    let mut blocks = Blocks::new(FORMAT, count);
    let back = by_pieces(&mut blocks, &tensor, 1000);
    let mut all = vec![0; tensor.len()];
    blocks.take_all(&mut all);
    assert!(all == back);
}

#[test]
#[should_panic(expected = "whole blocks")]
fn part_of_a_block_is_a_bug() {
    Blocks::new(FORMAT, 700).prepare(&tensor(700, 1), 1, FORMAT.block_bytes());
}
