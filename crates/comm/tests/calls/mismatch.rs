//! Peers that call different ops by the same tag: an error for all of them that names them, and every input as it was.

use pccl::{Call, Class, CollectiveError, Communicator, ReduceOp};

use crate::crew::each;

/// Everybody gets the error, and the peers go on.
fn differ<T: pccl::Element + PartialEq + std::fmt::Debug>(
    call: impl Fn(&Communicator, usize, &mut Vec<T>) -> Result<pccl::OpInfo, CollectiveError>
    + Send
    + Sync
    + 'static,
    fill: impl Fn(usize) -> Vec<T> + Send + Sync + 'static,
) {
    let errors = each(3, move |comm, rank| {
        let mut buffer = fill(rank);
        let error = call(comm, rank, &mut buffer).unwrap_err();
        assert_eq!(buffer, fill(rank), "the input of {rank} after {error}");
        let mut sum = [1u32];
        comm.all_reduce_in_place(&mut sum, &Call::new(7)).unwrap();
        assert_eq!(sum, [3]);
        let mut sessions: Vec<String> = comm.membership().members.into_iter().map(|m| m.session).collect();
        sessions.sort();
        let text = error.to_string();
        let why = text.split_once(" with tag 7: ").map(|(_, why)| why.to_owned()).unwrap_or(text);
        (error.class(), why, error.peers(), sessions)
    });
    for (class, text, peers, sessions) in &errors {
        assert_eq!(*class, Class::Fatal, "{text}");
        assert!(peers.len() >= 2, "{text} names {peers:?}");
        assert!(peers.iter().all(|p| sessions.contains(p) && text.contains(p)), "{text} names {peers:?}");
    }
    assert!(errors.windows(2).all(|w| w[0].1 == w[1].1), "one error for all: {errors:?}");
}

#[test]
fn another_count() {
    differ(
        |comm, _, buffer| comm.all_reduce_in_place(buffer, &Call::new(7)),
        |rank| vec![rank as f32; if rank == 1 { 50_001 } else { 50_000 }],
    );
}

#[test]
fn another_operator() {
    differ(
        |comm, rank, buffer| {
            let op = if rank == 2 { ReduceOp::Max } else { ReduceOp::Sum };
            comm.all_reduce_in_place(buffer, &Call::new(7).op(op))
        },
        |rank| vec![rank as i16; 9],
    );
}

#[test]
fn another_type() {
    differ(
        |comm, rank, buffer: &mut Vec<u8>| {
            let dtype = if rank == 0 { pccl::DataType::U32 } else { pccl::DataType::F32 };
            comm.all_reduce_bytes_in_place(dtype, buffer, &Call::new(7))
        },
        |rank| vec![rank as u8; 400_000],
    );
}

#[test]
fn another_collective() {
    differ(
        |comm, rank, buffer| match rank {
            0 => comm.broadcast(buffer, 0, &Call::new(7)),
            _ => comm.all_reduce_in_place(buffer, &Call::new(7)),
        },
        |rank| vec![rank as u64; 3000],
    );
}
