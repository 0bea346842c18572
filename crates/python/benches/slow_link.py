"""What quantization saves on a slow link: ``sudo python slow_link.py``.

Two network namespaces are joined by a pair of virtual Ethernet devices, each shaped by the kernel (``tc``, token bucket) to
1 Gbit/s; a peer in each. They all-reduce 64 MiB of f32 as they are, as integers of 8 bits, and as a run with compression
does by itself, in turns. Needs root, ``ip`` and ``tc``; nothing is left of it, however it ends. Fails if quantized or
compressed is not at least 3 times as fast.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

import pccl

BAR = 3.0
ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Host:
    """A network namespace without a name, which is there for as long as its process."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.process.stdout.readline()  # it is in its namespace

    def command(self, *words):
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--", *words]

    def run(self, line):
        subprocess.run(self.command(*line.split()), check=True)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def join(hosts, mbits):
    here, there = hosts
    here.run(f"ip link add slow0 type veth peer name slow1 netns {there.process.pid}")
    for i, host in enumerate(hosts):
        host.run("ip link set lo up")
        host.run(f"ip address add {ADDRESSES[i]}/24 dev slow{i}")
        host.run(f"ip link set slow{i} up")
        # The bucket holds some large packets; the queue what 20 ms carry.
        host.run(f"tc qdisc add dev slow{i} root tbf rate {mbits}mbit burst 256kb latency 20ms")


def peer(rank, bytes_):
    """Reduces as its standard input says, and answers with seconds and the greatest error."""
    settings = {"network.heartbeat_timeout_ms": 5000, "performance.enable_compression": "true"}
    own = pccl.MasterNode(f"{ADDRESSES[0]}:7117", **settings) if rank == 0 else None
    if own is not None:
        own.run()
    inputs = [np.random.default_rng(i).standard_normal(bytes_ // 4, dtype=np.float32) for i in range(2)]
    exact, result = inputs[0] + inputs[1], np.empty_like(inputs[0])
    with pccl.Communicator(f"{ADDRESSES[0]}:7117") as comm:
        while comm.world_size < 2:
            comm.update_topology()
        ways = {"plain": pccl.QuantizationOptions.off(), "quantized": pccl.QuantizationOptions(), "compressed": None}
        for line in sys.stdin:
            how = ways[line.strip()]
            comm.barrier()
            start = time.perf_counter()
            info = comm.all_reduce(inputs[rank], result, quantization_options=how)
            took = time.perf_counter() - start
            print(json.dumps([took, info.tx_bytes, float(np.abs(result - exact).max())]), flush=True)
    if own is not None:
        own.interrupt()
        own.await_termination()


def measure(peers, how):
    for one in peers:
        one.stdin.write(how + "\n")
        one.stdin.flush()
    answers = [json.loads(one.stdout.readline()) for one in peers]
    return max(took for took, _, _ in answers), answers[0][1], max(error for _, _, error in answers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mbits", type=int, default=1000, help="rate of each direction (default 1000)")
    parser.add_argument("--mib", type=int, default=64, help="size of the tensor (default 64)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer is not None:
        return peer(args.peer, args.mib << 20)
    hosts, peers = [], []
    try:
        hosts += [Host(), Host()]
        join(hosts, args.mbits)
        for rank, host in enumerate(hosts):
            line = host.command(sys.executable, __file__, "--peer", str(rank), "--mib", str(args.mib))
            peers.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        found = {"plain": [], "quantized": [], "compressed": []}
        for _ in range(args.rounds + 1):
            for how, times in found.items():
                times.append(measure(peers, how))
    finally:
        for one in peers:
            one.stdin.close()
            one.wait()
        for host in hosts:
            host.end()
    print(f"{args.mib} MiB of f32, 2 peers, {args.mbits} Mbit/s each way, medians of {args.rounds} rounds after a warm-up:")
    median = {how: statistics.median(took for took, _, _ in times[1:]) for how, times in found.items()}
    for how, times in found.items():
        _, sent, error = times[-1]
        print(f"  {how:10}  {median[how] * 1e3:7.0f} ms  {sent / 1e6:6.1f} MB sent  greatest error {error:.2g}")
    ratios = {how: median["plain"] / median[how] for how in ("quantized", "compressed")}
    for how, ratio in ratios.items():
        print(f"{how} is {ratio:.2f} times as fast (bar: {BAR:g})")
    return int(min(ratios.values()) < BAR)


if __name__ == "__main__":
    if "--peer" not in sys.argv and os.geteuid() != 0:
        sys.exit("network namespaces need root: sudo python slow_link.py")
    sys.exit(main())
