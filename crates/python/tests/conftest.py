"""Masters and peers as real processes."""

import os
import subprocess
import sys
import threading
from queue import Empty, Queue

import pytest

import pccl

HERE = os.path.dirname(__file__)
PATIENCE_S = 60
# Other tests' peers listen too.
os.environ.setdefault("PCCL_NETWORK__P2P_PORTS", "20000-60000")


class Peer:
    """A process that runs ``peers.py NAME PORT INDEX WORLD``."""

    def __init__(self, name, port, index, world):
        command = [sys.executable, os.path.join(HERE, "peers.py"), name, str(port), str(index), str(world)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def says(self, wanted, patience_s=PATIENCE_S):
        while True:
            try:
                line = self.lines.get(timeout=patience_s)
            except Empty:
                raise AssertionError(f"silent for {patience_s} s, did not say {wanted!r}") from None
            assert line is not None, f"ended with {self.process.wait()} before it said {wanted!r}"
            if line.startswith(wanted):
                return line

    def succeeds(self):
        assert self.process.wait(timeout=PATIENCE_S) == 0

    def end(self):
        self.process.kill()
        self.process.wait()
        # Its children end by this, if it has any.
        self.process.stdin.close()


@pytest.fixture
def master(request):
    """A master that takes silence for a death after 5 s, or after as many milliseconds as its parameter says; or one with
    the options that are its parameter."""
    given = getattr(request, "param", 5000)
    options = {"network.heartbeat_timeout_ms": 5000, **(given if isinstance(given, dict) else {})}
    if not isinstance(given, dict):
        options["network.heartbeat_timeout_ms"] = given
    with pccl.MasterNode("127.0.0.1:0", **options) as node:
        yield node


@pytest.fixture
def crew(master):
    """Starts peers and ends them in every case."""
    started = []

    def start(name, world, only=None):
        peers = [Peer(name, master.port, i, world) for i in (range(world) if only is None else only)]
        started.extend(peers)
        return peers

    yield start
    for peer in started:
        peer.end()


@pytest.fixture
def alone(master):
    """The only member of a run."""
    with pccl.Communicator(f"127.0.0.1:{master.port}") as comm:
        yield comm
