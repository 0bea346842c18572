"""Peers as processes."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pccl


@pytest.mark.parametrize(
    "name, world",
    [
        ("tensors", 2),
        ("tensors", 3),
        ("collectives", 3),
        ("quantized", 2),
        ("quantized", 3),
        ("asynchronous", 2),
        ("shared_state", 4),
        ("data_parallel", 3),
    ],
)
def test_peers_agree(crew, name, world):
    for peer in crew(name, world):
        peer.succeeds()


@pytest.mark.parametrize(
    "name", ["diloco", "diloco_delayed", "diloco_quantized", "diloco_streaming", "diloco_streaming_delayed"]
)
def test_training_goes_on_when_a_peer_is_killed(crew, name):
    *survivors, lost = crew(name, 3)
    for peer in survivors:
        peer.succeeds()
    assert lost.process.wait() == -9


COMPRESSION = {"performance.enable_compression": "true"}


@pytest.mark.parametrize("master", [COMPRESSION], indirect=True)
@pytest.mark.parametrize("name", ["compressed", "compressed_training"])
def test_a_run_compresses_what_is_large(crew, name):
    for peer in crew(name, 2):
        peer.succeeds()


def test_newcomers_take_part_in_streaming(crew):
    first = crew("streaming_joined", 4, only=range(2))
    for peer in first:
        peer.says("round")
    for peer in first + crew("streaming_joined", 4, only=range(2, 4)):
        peer.succeeds()


def test_a_newcomer_gets_what_the_optimizer_remembers(crew):
    first = crew("trained_late", 3, only=[0])
    first[0].says("step")
    for peer in first + crew("trained_late", 3, only=[1, 2]):
        peer.succeeds()


def test_what_most_had_before_they_were_lost_does_not_win(crew):
    for peer in crew("stale", 3):
        peer.succeeds()


def test_survivors_go_on_when_a_peer_is_killed(crew):
    peers = crew("survives", 3)
    for peer in peers:
        peer.says("step 1")
    peers.pop().end()
    for peer in peers:
        peer.succeeds()


def test_a_master_that_a_program_forgets_serves_until_it_is_stopped():
    # Whoever runs the tests in the background may have them ignore Ctrl-C.
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = hears + "; import pccl; m = pccl.MasterNode('127.0.0.1:0'); m.run(); print(m.port, flush=True){}"
    for forget in ("", "; del m"):
        master = subprocess.Popen([sys.executable, "-c", program.format(forget)], stdout=subprocess.PIPE, text=True)
        try:
            with pccl.Communicator(f"127.0.0.1:{int(master.stdout.readline())}") as comm:
                assert comm.world_size == 1 and master.poll() is None
            master.send_signal(signal.SIGINT)
            assert master.stdout.read() == "" and master.wait(timeout=60) is not None
        finally:
            master.kill()
            master.wait()


def test_a_child_after_fork_has_no_part_in_its_parents_peer(crew):
    crew("forked", 1)[0].succeeds()


# Twice as long as the test waits for the news.
@pytest.mark.parametrize("master", [60_000], indirect=True)
def test_the_death_of_a_trainer_with_data_loaders_is_not_noticed_by_silence_only(crew):
    trainer, other = crew("trainer", 2)
    trainer.says("loading")
    trainer.process.kill()  # its data loaders live on
    other.says("lost", patience_s=30)
    other.succeeds()


def test_a_signal_ends_a_call_that_blocks(crew):
    first, second = crew("interrupted", 2)
    first.says("interrupted")
    first.succeeds()
    second.says("alone")
    second.succeeds()


def test_a_signal_ends_a_leave_that_waits_for_an_op(crew):
    first, second = crew("interrupted_close", 2)
    first.says("interrupted", patience_s=30)
    first.succeeds()
    second.succeeds()


def test_an_op_that_nobody_answers_holds_up_nothing(crew):
    first, second = crew("unanswered", 2)
    first.says("cancelled", patience_s=30)
    first.says("left", patience_s=30)
    first.succeeds()
    second.succeeds()


def test_who_leaves_a_frozen_master_has_no_op_any_more():
    program = "import pccl; m = pccl.MasterNode('127.0.0.1:0', **{'network.heartbeat_timeout_ms': 60000}); m.run(); print(m.port, flush=True)"
    master = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        comm = pccl.Communicator(f"127.0.0.1:{int(master.stdout.readline())}")
        comm.connect()
        master.send_signal(signal.SIGSTOP)
        os.waitpid(master.pid, os.WUNTRACED)
        ends = []

        def wait():
            try:
                comm.barrier()
            except pccl.PCCLError as error:
                ends.append(error.result)

        waiter = threading.Thread(target=wait)
        waiter.start()
        with pytest.raises(KeyError), comm:
            raise KeyError("of the program")
        waiter.join(timeout=30)
        assert ends == [pccl.Result.INVALID_USAGE]
    finally:
        master.kill()
        master.wait()


def test_the_example_of_the_readme_works_as_written(tmp_path):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    example = tmp_path / "example.py"
    example.write_text(re.search(r"```python\n(.*?)```", readme, re.S).group(1))
    ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("averaged over 2 peers: 1.5") == 2
