//! Programs in C and C++, compiled and run on the library as it is installed.
#![forbid(unsafe_code)]

mod build;
mod running;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use build::{Language, compile, cuda_stand_in, library, symbols};
use running::{Master, Program};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn exactly_the_api_is_visible_and_every_symbol_has_a_version() -> Result<()> {
    let all = symbols(library()?)?;
    let (old, new): (Vec<_>, Vec<_>) = all.iter().partition(|s| s.ends_with("@@PCCL_1.0"));
    assert_eq!((old.len(), new.len()), (19, 11), "{all:?}");
    assert!(new.iter().all(|s| s.starts_with("pccl") && s.ends_with("@@PCCL_1.1")), "{new:?}");
    Ok(())
}

#[test]
fn layouts_and_values_are_those_of_pccl() -> Result<()> {
    Program::start(&compile("tests/c/layout.c", Language::C)?, &[])?.succeeds(PATIENCE)?;
    compile("tests/c/layout.c", Language::Cpp)?;
    Ok(())
}

#[test]
fn a_program_for_pccl_goes_on_when_one_of_four_is_killed() -> Result<()> {
    let master = Master::start()?;
    let fleet = compile("tests/c/fleet.c", Language::C)?;
    let start = |i: u32| Program::start(&fleet, &[&master.port, &i.to_string(), "4"]);
    let mut peers = (0..4).map(start).collect::<Result<Vec<_>>>()?;
    for peer in &mut peers {
        peer.says("step 2", PATIENCE)?;
    }
    peers.remove(3).kill()?;
    for peer in peers {
        peer.succeeds(PATIENCE)?;
    }
    master.terminates()
}

#[test]
fn the_death_of_a_trainer_with_data_loaders_is_not_noticed_by_silence_only() -> Result<()> {
    // Longer than this test waits for the news.
    let master = Master::with_heartbeat_timeout("60000")?;
    let program = compile("tests/c/fork.c", Language::C)?;
    let mut trainer = Program::start(&program, &[&master.port, "trainer"])?;
    let mut other = Program::start(&program, &[&master.port, "other"])?;
    for _ in 0..3 {
        trainer.says("loading", PATIENCE)?;
    }
    trainer.kill()?;
    other.says("lost", PATIENCE / 2)?;
    other.succeeds(PATIENCE)?;
    master.terminates()
}

#[test]
fn what_is_not_to_be_quantized_is_the_plain_sum_in_a_run_that_compresses() -> Result<()> {
    let master = Master::that_compresses()?;
    let program = compile("tests/c/compressed.c", Language::C)?;
    let start = |i| Program::start(&program, &[&master.port, i]);
    let (first, second) = (start("0")?, start("1")?);
    first.succeeds(PATIENCE)?;
    second.succeeds(PATIENCE)?;
    master.terminates()
}

#[test]
fn what_is_wrong_gets_a_code_and_a_text() -> Result<()> {
    let master = Master::start()?;
    Program::start(&compile("tests/c/misuse.c", Language::C)?, &[&master.port])?.succeeds(PATIENCE)?;
    master.terminates()
}

/// Two peers share tensors on a device, by the driver that they find.
fn shares_memory_of_a_device(libraries: &Path) -> Result<()> {
    let master = Master::start()?;
    let program = compile("tests/c/cuda.c", Language::C)?;
    let mut probe = Program::start_with(libraries, &program, &["probe"])?;
    probe.says("present", PATIENCE)?;
    probe.succeeds(PATIENCE)?;
    let start = |role| Program::start_with(libraries, &program, &[&master.port, role]);
    let (sender, receiver) = (start("sender")?, start("receiver")?);
    sender.succeeds(PATIENCE)?;
    receiver.succeeds(PATIENCE)?;
    master.terminates()
}

#[test]
fn tensors_on_a_device_are_shared_through_its_driver() -> Result<()> {
    shares_memory_of_a_device(&cuda_stand_in()?)
}

#[test]
fn what_the_library_says_of_cuda_is_what_is_there() -> Result<()> {
    let program = compile("tests/c/cuda.c", Language::C)?;
    let mut probe = Program::start(&program, &["probe"])?;
    let found = probe.line(PATIENCE)?;
    probe.succeeds(PATIENCE)?;
    if found == "present" {
        // A machine with a device: the same as above on the real one.
        shares_memory_of_a_device(Path::new(""))?;
    }
    Ok(())
}

#[test]
fn the_examples_do_what_they_say() -> Result<()> {
    for (source, language, says) in [
        ("examples/all_reduce.c", Language::C, "averaged over 2 peers: the last is 1023"),
        ("examples/shared_state.cpp", Language::Cpp, "revision 1, the last weight is 1"),
    ] {
        let master = Master::start()?;
        let program = compile(source, language)?;
        let mut first = Program::start(&program, &[&master.port])?;
        // It is alone until the second one comes.
        master.has_a_member(PATIENCE)?;
        let mut second = Program::start(&program, &[&master.port])?;
        first.says(says, PATIENCE)?;
        second.says(says, PATIENCE)?;
        first.succeeds(PATIENCE)?;
        second.succeeds(PATIENCE)?;
        master.terminates()?;
    }
    Ok(())
}
