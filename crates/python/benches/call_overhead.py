"""What a call from Python adds to the call itself: ``python call_overhead.py --pccl target/release/pccl``.

Two peers reduce 4 KiB of f32 in place, in turns: as programs written in Python do, and by ``pccl bench``, which is written in
Rust. The figure is the difference of the medians; below it stands what the package's own part of a call takes, without any
op. Use a wheel built with ``--release``, and a machine with nothing else to do. Fails if a call adds more than the bar.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np

import pccl
from pccl._communicator import _reduction

BYTES = 4096
ROUNDS = 7
BAR_US = 20


def timed(call, seconds):
    """The times of calls, in seconds."""
    times, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - start)
    return times


def peer(address):
    """Reduces as often as its standard input says, and answers with the times."""
    tensor = np.zeros(BYTES // 4, dtype=np.float32)
    with pccl.Communicator(address, algorithm="direct") as comm:
        while comm.world_size < 2:
            comm.update_topology()
        for line in sys.stdin:
            times = []
            for _ in range(int(line)):
                start = time.perf_counter()
                comm.all_reduce(tensor, tag=1)
                times.append(time.perf_counter() - start)
            print(json.dumps(times), flush=True)


def in_rust(program):
    """The median of one run of ``pccl bench``, in seconds, and how many calls that were."""
    command = [program, "bench", "--peers", "2", "--bytes", str(BYTES), "--in-place", "--algorithm", "direct", "--json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(ran.stdout)
    return row["median_s"], row["iters"]


def in_python(peers, calls):
    for one in peers:
        one.stdin.write(f"{calls}\n")
        one.stdin.flush()
    return max(statistics.median(json.loads(one.stdout.readline())) for one in peers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pccl", default="pccl", help="the program to compare with")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer is not None:
        return peer(args.peer)
    with pccl.MasterNode("127.0.0.1:0", **{"network.heartbeat_timeout_ms": 5000}) as master:
        line = [sys.executable, __file__, "--peer", f"127.0.0.1:{master.port}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        peers = [subprocess.Popen(line, **pipes) for _ in range(2)]
        try:
            in_python(peers, 100)
            rust, python = [], []
            for _ in range(ROUNDS):
                median, calls = in_rust(args.pccl)
                rust.append(median)
                python.append(in_python(peers, min(calls, 5000)))
        finally:
            for one in peers:
                one.stdin.close()
                one.wait()
    tensor = np.zeros(BYTES // 4, dtype=np.float32)
    own = statistics.median(timed(lambda: _reduction(tensor, None, None, None, pccl.ReduceOp.SUM, 1), 1))
    adds = statistics.median(p - r for p, r in zip(python, rust))
    print(f"rounds of {BYTES} bytes, 2 peers, µs: Rust {micros(rust)}; Python {micros(python)}")
    print(f"a call from Python adds {adds * 1e6:.1f} µs (bar: {BAR_US}); the package's own part takes {own * 1e6:.1f} µs")
    return int(adds * 1e6 > BAR_US)


def micros(times):
    return " ".join(f"{t * 1e6:.0f}" for t in times)


if __name__ == "__main__":
    sys.exit(main())
