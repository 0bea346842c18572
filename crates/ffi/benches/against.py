"""Two libraries with PCCL's C API, in one run, by the same calls: ``python3 against.py --ours A --theirs B``.

All-reduces f32 (sum, in place) among processes on this machine over loopback: one op at a time, and eight of 8 MiB at once
(``pcclAllReduceMultipleWithRetry``). For each number of peers and each size the libraries take turns; a cell is the median
of its rounds, an op as slow as its slowest peer. Only the ratios mean anything, on a machine with nothing else to do. Each
result is checked. Fails if a bar is missed: 20 times as fast up to 64 KiB, 10 at 1 MiB, 1.7 from 16 MiB, 2 for eight ops,
never slower.
"""

import argparse
import ctypes as c
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SUM, FLOAT, GLOBAL_WORLD_SIZE = 0, 10, 1
TIMED_S, MOST = 0.5, 2000
PATIENCE_S = 120
EIGHT = "8 x 8MiB"


class Inet(c.Structure):
    _fields_ = [("protocol", c.c_int), ("ipv4", c.c_uint8 * 4), ("ipv6", c.c_uint8 * 16)]


class Address(c.Structure):
    _fields_ = [("inet", Inet), ("port", c.c_uint16)]


class Params(c.Structure):
    _fields_ = [("master", Address), ("group", c.c_uint32), ("pool", c.c_uint32)]


class Descriptor(c.Structure):
    _fields_ = [
        ("count", c.c_size_t),
        ("op", c.c_int),
        ("tag", c.c_uint64),
        ("source", c.c_int * 2),
        ("quantization", c.c_int * 2),
    ]


class Op(c.Structure):
    _fields_ = [("send", c.c_void_p), ("recv", c.c_void_p), ("descriptor", Descriptor)]


class Info(c.Structure):
    _fields_ = [("world", c.c_uint32), ("tx", c.c_uint64), ("rx", c.c_uint64)]


def loopback(port):
    return Address(Inet(0, (c.c_uint8 * 4)(127, 0, 0, 1), (c.c_uint8 * 16)()), port)


def opened(path):
    library = c.CDLL(path)
    library.pcclAllReduce.argtypes = [c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p]
    library.pcclAllReduceMultipleWithRetry.argtypes = [c.c_void_p, c.c_size_t, c.c_void_p, c.c_void_p, c.c_int]
    library.pcclCreateMaster.argtypes = [Address, c.c_void_p]
    for call in ("Connect", "UpdateTopology", "RunMaster", "InterruptMaster", "MasterAwaitTermination"):
        getattr(library, f"pccl{call}").argtypes = [c.c_void_p]
    library.pcclGetAttribute.argtypes = [c.c_void_p, c.c_int, c.c_void_p]
    check(library.pcclInit(), "pcclInit")
    return library


def check(code, call):
    if code != 0:
        sys.exit(f"{call} returned {code}")


def master(path, port):
    library, handle = opened(path), c.c_void_p()
    check(library.pcclCreateMaster(loopback(port), c.byref(handle)), "pcclCreateMaster")
    check(library.pcclRunMaster(handle), "pcclRunMaster")
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


def peer(path, port, peers, count, ops):
    library, comm = opened(path), c.c_void_p()
    params = Params(loopback(port), 0, 8)
    check(library.pcclCreateCommunicator(c.byref(params), c.byref(comm)), "pcclCreateCommunicator")
    check(library.pcclConnect(comm), "pcclConnect")
    print(json.dumps("joined"), flush=True)
    world = c.c_int()
    while True:
        check(library.pcclGetAttribute(comm, GLOBAL_WORLD_SIZE, c.byref(world)), "pcclGetAttribute")
        if world.value >= peers:
            break
        check(library.pcclUpdateTopology(comm), "pcclUpdateTopology")
        time.sleep(0.01)
    buffers = [(c.c_float * count)() for _ in range(ops)]
    described = [Descriptor(count, SUM, tag, (c.c_int * 2)(FLOAT, 0), (c.c_int * 2)(FLOAT, 0)) for tag in range(ops)]
    many = (Op * ops)(*[Op(c.addressof(b), c.addressof(b), d) for b, d in zip(buffers, described)])
    info = Info()

    def reduce():
        if ops == 1:
            code = library.pcclAllReduce(buffers[0], buffers[0], c.byref(described[0]), comm, c.byref(info))
            check(code, "pcclAllReduce")
        else:
            code = library.pcclAllReduceMultipleWithRetry(many, ops, comm, c.byref(info), ops)
            check(code, "pcclAllReduceMultipleWithRetry")

    for buffer in buffers:
        for i in range(0, count, max(count // 97, 1)):
            buffer[i] = i % 11
    reduce()
    for buffer in buffers:
        for i in range(0, count, max(count // 97, 1)):
            if buffer[i] != peers * (i % 11):
                sys.exit(f"wrong result: element {i} is {buffer[i]}, not {peers * (i % 11)}")
        c.memset(buffer, 0, 4 * count)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            reduce()
            times.append(time.perf_counter() - start)
        print(json.dumps(statistics.median(times)), flush=True)
    os._exit(0)  # the others may be gone already


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Trouble(Exception):
    pass


def measure(path, peers, count, ops):
    """Seconds for all ops, of the slowest peer."""
    port, running = free_port(), []
    log = tempfile.TemporaryFile("w+")

    def start(*words):
        line = [sys.executable, __file__, *map(str, words)]
        environment = {"PCCL_NETWORK__P2P_PORTS": "20000-32000", **os.environ}
        running.append(
            subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        )
        return running[-1]

    def said(one):
        # The first library logs to standard output: what is no JSON is not for us.
        while line := one.stdout.readline():
            try:
                return json.loads(line)
            except ValueError:
                if line.strip() == "ready":
                    return "ready"
        raise Trouble(f"a process ended with {one.wait()}")

    def ask(crew, calls):
        for one in crew:
            one.stdin.write(f"{calls}\n")
            one.stdin.flush()
        return max(said(one) for one in crew)

    watchdog = None
    try:
        said(start("--master", path, port))
        crew = []
        for _ in range(peers):
            crew.append(start("--peer", path, port, peers, count, ops))
            time.sleep(0.2)  # some look for a port at the same time, and collide
        # Whatever hangs is ended, and the wait for it with it.
        watchdog = threading.Timer(PATIENCE_S, lambda: [one.kill() for one in running])
        watchdog.start()
        for one in crew:
            said(one)
        ask(crew, 2)
        each = ask(crew, 3)
        return ask(crew, max(5, min(MOST, int(TIMED_S / max(each, 1e-6)))))
    finally:
        if watchdog is not None:
            watchdog.cancel()
        for one in reversed(running):
            one.kill()
            one.wait()


def bar(name, size):
    if name == EIGHT:
        return 2.0
    return 20.0 if size <= 64 << 10 else 10.0 if size <= 1 << 20 else 1.7 if size >= 16 << 20 else 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ours", required=True)
    parser.add_argument("--theirs", required=True)
    parser.add_argument("--peers", default="2,4,8")
    parser.add_argument("--kib", default="4,64,1024,16384,65536,262144", help="sizes of one op")
    parser.add_argument("--no-concurrent", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    libraries = {"ours": os.path.abspath(args.ours), "theirs": os.path.abspath(args.theirs)}
    cells = [(f"{kib}KiB" if kib < 1024 else f"{kib // 1024}MiB", kib << 10, 1) for kib in map(int, args.kib.split(","))]
    cells += [] if args.no_concurrent else [(EIGHT, 8 << 20, 8)]
    missed = 0
    print(f"{'peers':>5} {'size':>9} {'ours':>11} {'theirs':>11} {'ratio':>7} {'bar':>5}")
    for peers in map(int, args.peers.split(",")):
        for name, size, ops in cells:
            times = {which: [] for which in libraries}
            for _ in range(args.rounds):
                for which, path in libraries.items():
                    for attempt in range(3):
                        try:
                            times[which].append(measure(path, peers, size // 4, ops))
                            break
                        except Trouble as trouble:
                            print(f"  {which}, {peers} peers, {name}, attempt {attempt + 1}: {trouble}", flush=True)
            if not all(times.values()):
                missed += 1
                continue
            ours, theirs = (statistics.median(times[which]) for which in libraries)
            ratio, limit = theirs / ours, bar(name, size)
            missed += ratio < limit
            verdict = "" if ratio >= limit else "  MISSED"
            print(f"{peers:5} {name:>9} {ours * 1e3:8.3f} ms {theirs * 1e3:8.3f} ms {ratio:7.2f} {limit:5g}{verdict}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--master"]:
        master(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        sys.exit(main())
