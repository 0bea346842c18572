"""What the peers of the tests do: one function for each, called by its name."""

import array
import asyncio
import os
import signal
import sys
import threading
import time

import numpy as np

import pccl

PORT, INDEX, WORLD = (int(x) for x in sys.argv[2:5]) if len(sys.argv) == 5 else (0, 0, 0)


def meet(comm, world):
    while comm.world_size < world:
        if comm.are_peers_pending():
            comm.update_topology()
        else:
            time.sleep(0.005)


def say(text):
    print(text, flush=True)


def joined(**options):
    comm = pccl.Communicator(f"127.0.0.1:{PORT}", **options)
    comm.connect()
    meet(comm, WORLD)
    return comm


def total(values):
    """The sum of what every peer contributes, where a peer's contribution is its index + 1 times the values."""
    return values * sum(range(1, WORLD + 1))


def tensors():
    """Every kind of tensor reduces in place and out of place, without a copy."""
    import ml_dtypes
    import torch

    comm = joined()
    ramp = np.arange(1, 1001) % 7 + 1
    kinds = "uint8 int8 int16 uint16 uint32 int32 uint64 int64 float16 float32 float64".split()
    for dtype in [*map(np.dtype, kinds), np.dtype(ml_dtypes.bfloat16)]:
        mine = (ramp * (INDEX + 1)).astype(dtype)
        out = np.zeros_like(mine)
        info = comm.all_reduce(mine, out, op=pccl.ReduceOp.SUM)
        assert info.local_world_size == WORLD and info.tx_bytes > 0
        assert np.array_equal(out.astype(np.int64), total(ramp)), dtype
        comm.all_reduce(mine, mine, op=pccl.ReduceOp.MAX)
        assert np.array_equal(mine.astype(np.int64), ramp * WORLD), dtype
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.float16):
        mine = torch.from_numpy(ramp * (INDEX + 1)).to(dtype)
        comm.all_reduce(mine, op=pccl.ReduceOp.AVG)
        assert torch.equal(mine.to(torch.float64), torch.from_numpy(total(ramp) / WORLD).to(dtype).to(torch.float64))
    buffer = array.array("d", [INDEX + 1.0] * 100)
    comm.all_reduce(memoryview(buffer))
    assert list(buffer) == [total(1.0)] * 100
    comm.all_reduce(bytes([INDEX + 1] * 10), octets := bytearray(10))
    assert list(octets) == [total(1)] * 10

    class OnlyDLPack:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self):
            return self.tensor.__dlpack__()

        def __dlpack_device__(self):
            return (1, 0)

    for inner in (torch.full((3, 5), INDEX + 1.0), torch.full((4,), INDEX + 1).to(torch.bfloat16)):
        comm.all_reduce(OnlyDLPack(inner))
        assert torch.equal(inner, torch.full_like(inner, total(1)))
    comm.close()


def quantized():
    """Off by half a step for each contribution and for the sum at most, and the same bits everywhere."""
    import torch

    comm = joined()
    for dtype, rounding in (("float32", 0), ("float64", 0), ("float16", 2e-3), ("bfloat16", 1e-2)):
        for integer, levels in (("UINT8", 255), ("INT8", 255), ("UINT16", 65535), ("INT16", 65535)):
            for algorithm in (pccl.QuantizationAlgorithm.MIN_MAX, pccl.QuantizationAlgorithm.ZERO_POINT_SCALE):
                how = pccl.QuantizationOptions(pccl.DataType[integer], algorithm)
                ramp = torch.sin(torch.arange(5000, dtype=torch.float64)) * 10 - 11
                mine = ((INDEX + 1) * ramp).to(getattr(torch, dtype))
                out = torch.zeros_like(mine)
                info = comm.all_reduce(mine, out, op=pccl.ReduceOp.AVG, quantization_options=how)
                assert info.local_world_size == WORLD
                step = 21 * WORLD / levels
                off = (out.to(torch.float64) - total(ramp) / WORLD).abs().max()
                assert off <= step + 21 * WORLD * rounding + 1e-4, (dtype, integer, algorithm, off, step)
                raw = out.contiguous().view(torch.uint8) if out.element_size() == 1 else out.view(torch.int16)
                extremes = (low := raw.clone()), (high := raw.clone())
                comm.all_reduce(low, op=pccl.ReduceOp.MIN)
                comm.all_reduce(high, op=pccl.ReduceOp.MAX)
                assert torch.equal(*extremes), "the same bits everywhere"
    plain = comm.all_reduce(np.ones(100_000, dtype=np.float32)).tx_bytes
    less = comm.all_reduce(np.ones(100_000, dtype=np.float32), quantization_options=pccl.QuantizationOptions())
    assert less.tx_bytes < plain / 2
    handle = comm.all_reduce_async(x := np.ones(10), quantization_options=pccl.QuantizationOptions())
    assert handle.wait()[0] and abs(x - WORLD).max() < 1e-6, x
    for wrong in (
        pccl.QuantizationOptions(pccl.DataType.UINT8 if INDEX else pccl.DataType.UINT16),
        pccl.QuantizationOptions(pccl.DataType.FLOAT),
    ):
        x = np.arange(7, dtype=np.float32)
        try:
            comm.all_reduce(x, quantization_options=wrong)
            raise AssertionError("peers that differ agree")
        except pccl.FatalError as error:
            assert error.result is pccl.Result.INVALID_ARGUMENT and (x == np.arange(7)).all()
    comm.close()


def compressed():
    """Large sums and averages of floats travel as integers, unless a call says otherwise, and their mean is exact."""
    comm = joined()
    off = pccl.QuantizationOptions.off()
    mine = [np.random.default_rng(i).standard_normal(1 << 18, dtype=np.float32) for i in range(WORLD)]
    exact, out, mean = sum(mine), np.zeros_like(mine[0]), np.zeros(1 << 18)
    plain = comm.all_reduce(mine[INDEX], out, quantization_options=off).tx_bytes
    assert np.abs(out - exact).max() < 1e-5
    rounds, first = 16, 0.0
    for i in range(rounds):
        less = comm.all_reduce(mine[INDEX], out, tag=1).tx_bytes
        assert less < plain * 0.27
        mean += out / rounds
        first = first or np.abs(out - exact).max()
    assert 1e-3 < first and np.abs(mean - exact).max() < first / 4, (first, np.abs(mean - exact).max())
    handle = comm.all_reduce_async(mine[INDEX], out, op=pccl.ReduceOp.AVG, quantization_options=off)
    assert handle.result().tx_bytes == plain and np.abs(out - exact / WORLD).max() < 1e-5
    short = mine[INDEX][:1000].copy()
    comm.all_reduce(short)
    assert np.abs(short - exact[:1000]).max() < 1e-5
    try:
        comm.all_reduce(mine[INDEX].copy(), quantization_options=off if INDEX else None)
        raise AssertionError("peers that differ agree")
    except pccl.FatalError as error:
        assert error.result is pccl.Result.INVALID_ARGUMENT, error
    try:
        pccl.Communicator(f"127.0.0.1:{PORT}", **{"performance.enable_compression": "false"}).connect()
        raise AssertionError("a peer that wants none is let in")
    except pccl.PCCLError as error:
        assert "enable_compression is true at the master and false here" in str(error), error
    comm.barrier()
    comm.close()


def compressed_training():
    """A model of more than 1 MiB learns, and is the same everywhere; averages of parameters are exact."""
    import torch

    torch.manual_seed(INDEX)
    layers = torch.nn.Linear(8, 512), torch.nn.Tanh(), torch.nn.Linear(512, 1024), torch.nn.Tanh(), torch.nn.Linear(1024, 1)
    model = torch.nn.Sequential(*layers)
    comm = joined()
    outer = pccl.DiLoCo(comm, model.parameters(), inner_steps=4, fragments=2, outer_lr=0.5, outer_momentum=0.5)
    outer.synchronize()
    inner = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for step in range(60):
        x, y = batch(step)
        inner.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        inner.step()
        losses.append(loss.item())
        outer.step()
    outer.finish()
    same_everywhere(comm, model)
    first, last = sum(losses[:4]) / 4, sum(losses[-4:]) / 4
    assert last < first / 2, (first, last)
    weight = torch.nn.Parameter(torch.linspace(0, 1, 1 << 18) * (INDEX + 1))
    assert pccl.average_parameters(comm, [weight]) == WORLD
    assert torch.equal(weight.data, total(torch.linspace(0, 1, 1 << 18)) / WORLD)
    comm.barrier()
    comm.close()


def collectives():
    comm = joined()
    data = np.full(10, comm.rank, dtype=np.int32)
    comm.broadcast(data, root=1)
    assert (data == 1).all()
    gathered = np.zeros(3 * WORLD, dtype=np.float32)
    comm.all_gather(np.full(3, comm.rank, dtype=np.float32), gathered)
    assert np.array_equal(gathered, np.repeat(np.arange(WORLD), 3))
    mine = np.arange(11, dtype=np.float64)
    info, part = comm.reduce_scatter(mine, out := np.zeros(11))
    assert info.local_world_size == WORLD
    assert np.array_equal(out[: part.stop - part.start], (mine * WORLD)[part])
    comm.barrier(tag=3)
    members = comm.membership
    assert len(members.members) == WORLD and members.members[members.rank].session == members.session
    assert comm.get_attribute(pccl.Attribute.GLOBAL_WORLD_SIZE) == WORLD
    assert comm.get_attribute(pccl.Attribute.LOCAL_WORLD_SIZE) == WORLD
    assert comm.get_attribute(pccl.Attribute.NUM_DISTINCT_PEER_GROUPS) == 1
    assert comm.get_attribute(pccl.Attribute.LARGEST_PEER_GROUP_WORLD_SIZE) == WORLD
    comm.optimize_topology()
    comm.close()


def asynchronous():
    comm = joined()
    inputs = [np.full(50_000, INDEX + 1.0 + k) for k in range(8)]
    outputs = [np.zeros(50_000) for _ in inputs]
    handles = [comm.all_reduce_async(a, b, tag=k) for k, (a, b) in enumerate(zip(inputs, outputs))]
    for k, handle in enumerate(handles):
        succeeded, status, info = handle.wait()
        assert succeeded and status == 0 and info.local_world_size == WORLD and handle.done()
        assert (outputs[k] == sum(i + 1.0 + k for i in range(WORLD))).all()
        assert handle.wait()[0], "a second time"
    # The handle is thrown away, and with it the only name of its tensors: they live until the op has ended.
    for k in range(8):
        comm.all_reduce_async(np.full(100_000, float(k)), tag=100 + k)


    class Slow(bytearray):
        """Lets other threads run when it goes."""

        def __del__(self):
            time.sleep(0.2)

    handle = comm.all_reduce_async(Slow(8), tag=50)
    while not handle.done():
        time.sleep(0.001)
    del handle
    both = [threading.Thread(target=comm.all_reduce, args=(np.ones(10),), kwargs={"tag": 52 + i}) for i in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    # More than may be in flight at once.
    many = [np.full(1, float(k)) for k in range(1500)]
    double = pccl.ReduceOperandDescriptor(pccl.DataType.DOUBLE), pccl.QuantizationOptions.off()
    what = [pccl.ReduceOpDescriptor.of(x, x, pccl.ReduceDescriptor(1, pccl.ReduceOp.SUM, k, *double)) for k, x in enumerate(many)]
    comm.all_reduce_multiple_with_retry(what, max_in_flight=1500)
    assert all(x == WORLD * k for k, x in enumerate(many))

    async def awaited():
        return await asyncio.gather(*(handle_of(k) for k in range(4)))

    async def handle_of(k):
        return await comm.all_reduce_async(inputs[k], tag=200 + k)

    assert all(info.local_world_size == WORLD for info in asyncio.run(awaited()))
    comm.close()


def survives():
    """Reduces until a peer has been missing for three steps."""
    comm = joined()
    missing = step = 0
    while missing < 3:
        x = np.full(200_000, INDEX + 1, dtype=np.float32)
        while True:
            try:
                info = comm.all_reduce(x)
                break
            except pccl.RetryError as error:
                assert error.result is pccl.Result.RANK_CONNECTION_LOST, error
                assert (x == INDEX + 1).all(), "the input is as it was"
        expected = sum(range(1, info.local_world_size + 1))
        assert (x == expected).all() and info.local_world_size in (WORLD, WORLD - 1)
        descriptors = []
        for k in range(6):
            operand = pccl.ReduceOperandDescriptor(pccl.DataType.FLOAT)
            plain = pccl.QuantizationOptions(pccl.DataType.FLOAT, pccl.QuantizationAlgorithm.NONE)
            what = pccl.ReduceDescriptor(100_000, pccl.ReduceOp.AVG, 10 + k, operand, plain)
            y = np.full(100_000, float(k), dtype=np.float32)
            descriptors.append((y, pccl.ReduceOpDescriptor.from_numpy(y, y, what)))
        comm.all_reduce_multiple_with_retry([d for _, d in descriptors], max_in_flight=3)
        assert all((y == k).all() for k, (y, _) in enumerate(descriptors))
        missing += info.local_world_size < WORLD
        say(f"step {step}")
        step += 1
    comm.close()


def shared_state():
    import torch

    comm = joined()
    weights = torch.full((1000,), 7.0 if INDEX < 3 else 1.0)
    bias = np.full(10, float(min(INDEX, 1)))
    own = np.full(5, INDEX)
    state = pccl.SharedState(
        [
            pccl.TensorInfo.from_torch(weights, "weights"),
            pccl.TensorInfo.from_numpy(own, "own", allow_content_inequality=True),
        ]
    )
    state.push_revision()
    info = comm.sync_shared_state(state)
    assert state.revision == 1 and (weights == 7.0).all() and (own == INDEX).all()
    assert (info.rx_bytes > 0) == (INDEX == 3) and ("weights" in info.changed) == (INDEX == 3)
    state = pccl.SharedState([pccl.TensorInfo.from_numpy(bias, "bias")])
    state.revision = 2
    strategy = pccl.SharedStateSyncStrategy
    comm.sync_shared_state(state, strategy.SEND_ONLY if INDEX == 0 else strategy.RECEIVE_ONLY)
    assert (bias == 0.0).all()
    comm.close()


def interrupted():
    """Waits for an op that nobody else starts, and gets a signal meanwhile; other threads run."""
    comm = joined()
    if INDEX > 0:
        # Until the other one has left.
        while comm.world_size == WORLD:
            time.sleep(0.01)
        say("alone")
        comm.close()
        return
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.01):
            ticks.append(1)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts what runs in its background with the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=tick).start()
    threading.Timer(0.5, stop.set).start()
    x = np.arange(1000, dtype=np.float32)
    try:
        comm.all_reduce(x, tag=5)
    except KeyboardInterrupt:
        assert len(ticks) > 5, "other threads of Python run while a call blocks"
        assert np.array_equal(x, np.arange(1000, dtype=np.float32)), "the input is as it was"
        say("interrupted")


def interrupted_close():
    """Leaves after an op that nobody else starts, and gets a signal meanwhile."""
    comm = joined()
    if INDEX > 0:
        while comm.world_size == WORLD:
            time.sleep(0.01)
        comm.close()
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = comm.all_reduce_async(np.ones(10), tag=5)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        comm.close()
    except KeyboardInterrupt:
        assert handle.done() and not comm.is_connected
        say("interrupted")


def unanswered():
    """Ops that nobody else starts are not done, hold up no event loop, and end with a block that an exception ends."""
    comm = joined()
    if INDEX > 0:
        while comm.world_size == WORLD:
            time.sleep(0.01)
        comm.close()
        return
    x = np.arange(1000.0)
    handle = comm.all_reduce_async(x, tag=5)
    waiter = threading.Thread(target=handle.wait)
    waiter.start()
    while not handle._waits.locked():
        time.sleep(0.001)
    assert not handle.done(), "another thread waits for it"

    async def limited():
        try:
            await asyncio.wait_for(comm.all_reduce_async(np.ones(10), tag=6), 0.05)
        except asyncio.TimeoutError:
            say("cancelled")

    asyncio.run(limited())
    try:
        with comm:
            raise KeyError("of the program")
    except KeyError:
        say("left")
    waiter.join()
    assert handle.done() and not handle.wait()[0]
    assert np.array_equal(x, np.arange(1000.0)), "the input is as it was"


def forked():
    """A child after ``fork`` has no part in its parent's peer, and may be a peer of its own."""
    comm = pccl.Communicator(f"127.0.0.1:{PORT}")
    comm.connect()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            of_child(comm)
            status = 0
        finally:
            os._exit(status)
    meet(comm, 2)
    assert comm.all_reduce(np.ones(10)).local_world_size == 2
    assert os.waitpid(child, 0)[1] == 0
    comm.close()


def of_child(of_parent):
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    assert not [link for link in links if os.path.lexists(link) and os.readlink(link).startswith("socket:")]
    assert not of_parent.is_connected
    for call in (of_parent.connect, of_parent.update_topology, lambda: of_parent.all_reduce(np.ones(10))):
        try:
            call()
            raise AssertionError("a child may use its parent's peer")
        except pccl.FatalError as error:
            assert error.result is pccl.Result.INVALID_USAGE and "forked" in error.text, error
    of_parent.close()
    del of_parent
    with pccl.Communicator(f"127.0.0.1:{PORT}") as own:
        meet(own, 2)
        assert own.all_reduce(np.ones(10)).local_world_size == 2


def trainer():
    """Has data loaders, as PyTorch makes them, and is killed; the other one hears of it."""
    import multiprocessing

    comm = joined()
    if INDEX > 0:
        try:
            comm.all_reduce(np.ones(10), tag=5)
        except pccl.RetryError:
            say("lost")
        comm.close()
        return
    context = multiprocessing.get_context("fork")
    loading = context.Barrier(4)
    for _ in range(3):
        context.Process(target=load, args=(loading, os.dup(0))).start()
    loading.wait()
    say("loading")
    signal.pause()


def load(loading, stdin):
    loading.wait()
    # Until the test is over, whatever becomes of the trainer. `multiprocessing` takes its own standard input away.
    while os.read(stdin, 1):
        pass


def small_model(seed):
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def batch(step):
    """A piece of a problem that has a solution; every peer sees another one."""
    import torch

    made = torch.Generator().manual_seed(1000 * INDEX + step)
    x = torch.randn(64, 8, generator=made)
    return x, torch.tanh(x[:, :1] - x[:, 1:2])


def same_everywhere(comm, model):
    import torch

    for parameter in model.parameters():
        bits = parameter.detach().view(torch.int32)
        low, high = bits.clone(), bits.clone()
        comm.all_reduce(low, op=pccl.ReduceOp.MIN)
        comm.all_reduce(high, op=pccl.ReduceOp.MAX)
        assert torch.equal(low, high), "the same bits everywhere"


def diloco(delayed=False, quantization=None, fragments=1, steps=300):
    """The loss falls, and the parameters are the same everywhere at the end; the last peer is lost half-way: at the end of
    a round, or within one if there is something to average there.
    """
    import torch

    model = small_model(INDEX)
    comm = joined()
    outer = pccl.DiLoCo(
        comm,
        model.parameters(),
        inner_steps=5,
        delayed=delayed,
        quantization=quantization,
        fragments=fragments,
        outer_lr=0.5,
        # Of so small a problem a round covers much of the way: with 0.9, averages that are one round late overshoot.
        outer_momentum=0.5 if delayed else 0.9,
    )
    outer.synchronize()
    inner = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        x, y = batch(step)
        inner.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        inner.step()
        losses.append(loss.item())
        ended = outer.step()
        if INDEX == WORLD - 1 and step > 100 and ended == (fragments == 1):
            os.kill(os.getpid(), signal.SIGKILL)
    outer.finish()
    same_everywhere(comm, model)
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    assert last < first / 2 and comm.world_size == WORLD - 1, (first, last, comm.world_size)
    comm.close()


def diloco_delayed():
    diloco(delayed=True)


def diloco_quantized():
    diloco(quantization=pccl.QuantizationOptions())


def diloco_streaming():
    # Ends within a round.
    diloco(fragments=2, steps=303)


def diloco_streaming_delayed():
    diloco(fragments=2, delayed=True, steps=303)


def streaming_joined():
    """Peers that come later take part from the end of a round on, and end with the same parameters and momentum."""
    import torch

    model = small_model(INDEX)
    step, stop = torch.zeros((), dtype=torch.int64), torch.full((), -1)
    comm = pccl.Communicator(f"127.0.0.1:{PORT}")
    comm.connect()
    outer = pccl.DiLoCo(
        comm,
        model.parameters(),
        inner_steps=6,
        fragments=2,
        delayed=True,
        outer_momentum=0.5,
        state={"step": step, "stop": stop},
    )
    outer.synchronize()
    inner = torch.optim.SGD(model.parameters(), lr=0.05)
    while step != stop:
        if stop < 0 and comm.world_size == WORLD:
            # All see it before the same step, newcomers too: nobody comes in but at the end of a round.
            stop.fill_(int(step) + 20)
        x, y = batch(int(step))
        inner.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        inner.step()
        step += 1
        if outer.step():
            say("round")
    outer.finish()
    same_everywhere(comm, model)
    for name, tensor in outer.state_dict().items():
        before = tensor.clone()
        assert comm.broadcast(tensor, root=0).local_world_size == WORLD
        assert torch.equal(tensor, before), name
    comm.close()


def data_parallel():
    """Gradients are averaged over whoever is there; a newcomer gets the parameters."""
    import torch

    model = small_model(INDEX)
    late = INDEX == WORLD - 1
    comm = pccl.Communicator(f"127.0.0.1:{PORT}")
    comm.connect()
    parallel = pccl.FaultTolerantDDP(model, comm, bucket_bytes=256)
    if not late or comm.world_size < WORLD:
        meet(comm, WORLD)
    parallel.synchronize()
    same_everywhere(comm, model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    losses = []
    for step in range(100):
        x, y = batch(step)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(parallel(x), y)
        loss.backward()
        assert parallel.average_gradients() == WORLD
        optimizer.step()
        losses.append(loss.item())
        assert not parallel.admit()
    same_everywhere(comm, model)
    assert sum(losses[-10:]) < sum(losses[:10]) * 0.7, losses
    for parameter in model.parameters():
        parameter.data.fill_(float(INDEX))
    assert pccl.average_parameters(comm, model.parameters()) == WORLD
    assert all((p == (WORLD - 1) / 2).all() for p in model.parameters())
    comm.close()


def trained_late():
    """A peer that comes later gets what the optimizer remembers too, and tensors of any type and layout."""
    import torch

    torch.manual_seed(INDEX)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    model.to(memory_format=torch.channels_last)
    model.register_buffer("mask", torch.full((5,), INDEX == 0))
    model.register_buffer("turn", torch.full((), 1j**INDEX))
    model[3].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    step, stop = torch.zeros((), dtype=torch.int64), torch.full((), -1)
    comm = pccl.Communicator(f"127.0.0.1:{PORT}")
    comm.connect()
    parallel = pccl.FaultTolerantDDP(model, comm, optimizer=optimizer, state={"step": step, "stop": stop})
    parallel.synchronize()
    while step != stop:
        if stop < 0 and comm.world_size == WORLD:
            stop.fill_(int(step) + 5)
        optimizer.zero_grad()
        parallel(torch.randn(8, 3, 4, 4)).square().mean().backward()
        parallel.average_gradients()
        optimizer.step()
        step += 1
        say("step")
        parallel.admit()
    parallel.synchronize()
    found = {**model.state_dict(), **{f"m{i}": optimizer.state[p]["exp_avg_sq"] for i, p in enumerate(model.parameters()) if p.grad is not None}}
    for name, tensor in found.items():
        ours = torch.view_as_real(tensor.contiguous()) if tensor.is_complex() else tensor.to(torch.float64).contiguous()
        theirs = ours.clone()
        assert comm.broadcast(theirs, root=0).local_world_size == WORLD
        assert torch.equal(ours, theirs), name
    comm.close()


def stale():
    """Most peers lose their membership at the same moment and come back with what they had: it does not win against what
    the other one has trained. And a training that begins anew under the same master takes up its revisions.
    """
    import torch

    weight = torch.nn.Linear(2, 2)
    fill = lambda value: [p.data.fill_(value) for p in weight.parameters()]
    comm = joined()
    parallel = pccl.FaultTolerantDDP(weight, comm)
    fill(1.0)
    parallel.synchronize()
    if INDEX > 0:
        comm.close()
        comm.connect()
    else:
        while comm.world_size > 1:
            time.sleep(0.01)
        fill(2.0)
    meet(comm, WORLD)
    parallel.synchronize()
    assert all((p == 2.0).all() for p in weight.parameters())
    assert parallel.revision == 2
    anew = pccl.DiLoCo(comm, weight.parameters(), inner_steps=1)
    anew.synchronize()
    assert anew.revision == 3
    comm.barrier()
    comm.close()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
