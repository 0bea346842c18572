"""Runs a training program undisturbed, and then disturbed, and says what came of it.

The program runs as several worker processes beside a master. In the disturbed run one worker is killed at a quarter of the
steps, and a new one is started; another one is frozen a moment later until the others have gone on without it, and then
finds out that it has been expelled. At two thirds the workers wait until there are as many as in the beginning, so that the
rest is trained by all. The exit code is 0 if the loss went on falling, if all that finished have the same weights to the
last bit, and if they read digits as well as those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Callable

import pccl

WORKERS = 4
#: Longest silence of all workers.
PATIENCE_S = 120
#: Digits are read with a chance of their own: so many hundredths of the pictures more or less are noise.
NOISE = 0.03


class Worker:
    """What a worker knows, and how it tells what it does: one line of JSON for each report."""

    def __init__(self, index: int, master: str, data: str, disturbed: bool):
        self.index, self.master, self.data, self.disturbed = index, master, data, disturbed
        self._members: "list[str]" = []

    def _say(self, **what: Any) -> None:
        print(json.dumps({"worker": self.index, **what}), flush=True)

    def joined(self, comm: pccl.Communicator) -> None:
        self._say(session=comm.membership.session)
        self._note(comm)

    def _note(self, comm: pccl.Communicator) -> None:
        members = [member.session for member in comm.membership.members]
        if members != self._members:
            self._members = members
            self._say(members=members)

    def report(self, comm: pccl.Communicator, step: int, loss: "Callable[[], float]") -> None:
        self._note(comm)
        if step % 20 == 0:
            self._say(step=step, peers=comm.world_size, loss=loss())

    def wait_for_all(self, comm: pccl.Communicator, admit: "Callable[[], bool]") -> None:
        """Lets newcomers in until all are there. How many there are is what an op says, not ``world_size``: all have to
        see the same, and to do the same next.
        """
        while present(comm) < WORKERS:
            if not admit():
                time.sleep(0.01)
            self._note(comm)

    def meetings(self, steps: int) -> "set[int]":
        """The steps before which all wait for each other."""
        return {0, steps * 2 // 3} if self.disturbed else {0}

    def finished(self, weights: str, accuracy: float) -> None:
        self._say(weights=weights, accuracy=accuracy)


def present(comm: pccl.Communicator) -> int:
    while True:
        try:
            return comm.all_reduce(bytearray(1)).local_world_size
        except pccl.RetryError as error:
            if error.result is pccl.Result.TOO_FEW_PEERS:
                return 1


class Fleet:
    """Workers, and what they have said."""

    def __init__(self, master: str, data: str, disturbed: bool):
        self._common = [master, data, "disturbed" if disturbed else "undisturbed"]
        self._said: "queue.Queue[dict[str, Any]]" = queue.Queue()
        self.workers: "list[subprocess.Popen[str]]" = []
        self.session: "dict[int, str]" = {}
        self.members: "dict[int, list[str]]" = {}
        self.losses: "dict[int, float]" = {}
        self.ends: "dict[int, tuple[str, float]]" = {}
        self.came_back: "list[int]" = []

    def start(self) -> int:
        index = len(self.workers)
        command = [sys.executable, sys.argv[0], "--worker", str(index), *self._common]
        # No two workers of this machine, of this run or of another one, look for the same few ports.
        environment = {"PCCL_NETWORK__P2P_PORTS": "20000-60000", "OMP_NUM_THREADS": "1", **os.environ}
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(index, worker), daemon=True).start()
        return index

    def _listen(self, index: int, worker: "subprocess.Popen[str]") -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            self._said.put(json.loads(line))
        self._said.put({"worker": index, "ended": worker.wait()})

    def wait(self, until: "Callable[[], bool]", what: str) -> None:
        while not until():
            try:
                said = self._said.get(timeout=PATIENCE_S)
            except queue.Empty:
                sys.exit(f"{PATIENCE_S} s without a word from any worker, while waiting until {what}")
            self._take(said)

    def _take(self, said: "dict[str, Any]") -> None:
        index = said["worker"]
        if said.get("ended", 0) not in (0, -signal.SIGKILL):
            sys.exit(f"worker {index} ended with {said['ended']}")
        if "session" in said:
            if index in self.session:
                self.came_back.append(index)
                print(f"  worker {index} found out that it had been expelled, and is back")
            self.session[index] = said["session"]
        if "members" in said:
            if len(said["members"]) != len(self.members.get(index, [])):
                print(f"  worker {index}: {len(said['members'])} peers")
            self.members[index] = said["members"]
        if "step" in said:
            self.losses.setdefault(said["step"], said["loss"])
        if "weights" in said:
            self.ends[index] = said["weights"], said["accuracy"]

    def reached(self, step: int) -> bool:
        return any(at >= step for at in self.losses)

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


def disturb(fleet: Fleet, steps: int) -> "set[int]":
    """Returns who should finish."""
    fleet.wait(lambda: fleet.reached(steps // 4), "a quarter of the steps is done")
    print("  worker 3 is killed, and a new one is started")
    fleet.workers[3].kill()
    newcomer = fleet.start()
    fleet.wait(lambda: fleet.session[3] not in fleet.members[0], "it is missed")
    print("  worker 2 is frozen")
    fleet.workers[2].send_signal(signal.SIGSTOP)
    fleet.wait(lambda: fleet.session[2] not in fleet.members[0], "it is missed")
    print("  worker 2 goes on")
    fleet.workers[2].send_signal(signal.SIGCONT)
    fleet.wait(lambda: 2 in fleet.came_back, "it is back")
    return {0, 1, 2, newcomer}


def run(data: str, steps: int, disturbed: bool) -> "tuple[float, list[str]]":
    """Accuracy, and what went wrong."""
    print("disturbed:" if disturbed else "undisturbed:")
    with pccl.MasterNode("127.0.0.1:0", **{"network.heartbeat_timeout_ms": 2000}) as master:
        fleet = Fleet(f"127.0.0.1:{master.port}", data, disturbed)
        try:
            finishing = {fleet.start() for _ in range(WORKERS)}
            if disturbed:
                finishing = disturb(fleet, steps)
            fleet.wait(lambda: finishing <= set(fleet.ends), "all have finished")
            return judge(fleet, steps)
        finally:
            fleet.end()


def judge(fleet: Fleet, steps: int) -> "tuple[float, list[str]]":
    quarters = [fleet.losses[at] for at in (20, steps // 3, steps * 2 // 3, steps)]
    weights = {weights for weights, _ in fleet.ends.values()}
    accuracy = next(iter(fleet.ends.values()))[1]
    print(f"  loss {' > '.join(f'{loss:.3f}' for loss in quarters)}, accuracy {accuracy:.1%}, weights "
          f"{', '.join(sorted(w[:12] for w in weights))} on {len(fleet.ends)} workers")
    wrong = []
    if quarters != sorted(set(quarters), reverse=True):
        wrong.append("the loss did not go on falling")
    if len(weights) > 1:
        wrong.append("the weights differ")
    return accuracy, wrong


def main(train: "Callable[[Worker], None]", steps: int) -> None:
    """A worker if the command line says so; else the master, which starts the workers."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    worker = parser.parse_args().worker
    if worker is not None:
        import torch

        torch.set_num_threads(1)
        return train(Worker(int(worker[0]), worker[1], worker[2], worker[3] == "disturbed"))
    import digits

    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "digits.npz")
        digits.save(data)
        undisturbed, wrong = run(data, steps, disturbed=False)
        disturbed, also_wrong = run(data, steps, disturbed=True)
    wrong += also_wrong
    if disturbed < undisturbed - NOISE:
        wrong.append(f"accuracy fell from {undisturbed:.1%} to {disturbed:.1%}")
    if wrong:
        sys.exit("; ".join(wrong))
    print("the loss went on falling, the weights are the same to the last bit, and the digits are read as well")
