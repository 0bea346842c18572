//! Hashes against values computed by the reference implementation (xxHash 0.8, in C).

use pccl_kernels::hash::{hash_block, hash_blocks, hash_tensor};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * i * 7 + i * 3 + (i >> 8)) as u8).collect()
}

#[test]
fn a_block_hashes_as_by_the_reference() {
    // One length for each of the algorithm's cases, and both sides of the borders between the long ones.
    let known = [
        (0, 0x99aa_06d3_0147_98d8_6001_c324_468d_497f),
        (1, 0xa6cd_5e93_9200_0f6a_c44b_dff4_074e_ecdb),
        (16, 0xd44f_1e1a_98ab_dc6d_cff0_2c78_90b0_566c),
        (17, 0x14a1_6134_7151_0ccb_5735_2d1f_fe09_697b),
        (128, 0xa452_2688_a593_8f8b_aa7b_48ba_f345_8706),
        (129, 0x495d_a62a_d7fc_b77e_f1bd_b878_13fe_7c87),
        (240, 0x3495_dc19_dbc9_b590_08c6_c53e_3d94_7b38),
        (241, 0x6605_c59f_9137_7d25_1134_25ae_2609_c4e6),
        (1024, 0xba45_7640_ecae_284a_93df_be9b_3747_20e9),
        (1025, 0xc46e_551a_d15f_b4d7_a1fa_e863_5350_e9de),
        (100_000, 0xca71_79dc_6fe6_63f5_965d_d0d2_6ba7_b880),
    ];
    for (len, expected) in known {
        assert_eq!(hash_block(&pattern(len)), expected, "{len} bytes");
    }
}

#[test]
fn a_tensor_hashes_as_by_the_reference() {
    let data = pattern(100_000);
    let known = [
        (4096, 25, 0xa7db_9f80_cc99_c2f1_998d_dcdd_525a_0e9a),
        (33_333, 4, 0x19e4_892d_f015_6ddf_31ce_8b4c_071f_a866),
        (100_000, 1, 0x1077_9879_ed61_c140_124b_11a5_fc12_b9ba),
        (200_000, 1, 0x1077_9879_ed61_c140_124b_11a5_fc12_b9ba),
    ];
    for (block_bytes, count, expected) in known {
        let blocks = hash_blocks(&data, block_bytes, 1);
        assert_eq!(blocks.len(), count);
        assert_eq!(hash_tensor(&blocks, 100_000), expected, "blocks of {block_bytes} bytes");
    }
    assert_eq!(hash_tensor(&hash_blocks(&[], 4096, 0), 0), 0x4c09_146c_630f_e751_2427_8a0a_f13a_17bf);
}

#[test]
fn any_number_of_threads_gives_the_hash_of_each_block_in_order() {
    // Large enough for four threads.
    let data = pattern((17 << 20) + 5);
    for block_bytes in [100_001, 1 << 20, (3 << 20) + 1, 40 << 20] {
        let expected: Vec<_> = data.chunks(block_bytes).map(hash_block).collect();
        for threads in [0, 1, 2, 4, 100] {
            let got = hash_blocks(&data, block_bytes, threads);
            assert!(got == expected, "blocks of {block_bytes} bytes, {threads} threads");
        }
    }
}

#[test]
fn length_order_and_content_change_the_hash_of_a_tensor() {
    let whole = hash_tensor(&[1, 2, 3], 12);
    for (other, bytes) in [([1, 2, 3], 11), ([1, 3, 2], 12), ([1, 2, 4], 12)] {
        assert_ne!(hash_tensor(&other, bytes), whole);
    }
    assert_ne!(hash_tensor(&[1, 2], 12), whole);
}

#[test]
#[should_panic(expected = "blocks of no bytes")]
fn blocks_of_no_bytes_are_a_bug() {
    hash_blocks(&[1], 0, 1);
}
