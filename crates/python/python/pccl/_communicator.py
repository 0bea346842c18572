"""Peers and masters."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from ipaddress import IPv6Address, ip_address
from typing import Any, Generator, NamedTuple, Optional

from . import _native
from ._buffers import Buffer, check_apart, pair
from ._errors import PCCLError, ReconfigureError, Result, RetryError, invalid
from ._types import (
    Attribute,
    DataType,
    QuantizationAlgorithm,
    QuantizationOptions,
    ReduceInfo,
    ReduceOp,
    ReduceOpDescriptor,
    ReduceOperandDescriptor,
    SharedState,
    SharedStateSyncInfo,
    SharedStateSyncStrategy,
    DeviceType,
)

_ALL_REDUCE, _REDUCE_SCATTER, _ALL_GATHER, _BROADCAST, _BARRIER = range(5)
_log = logging.getLogger("pccl")


def _address(address: str, what: str) -> str:
    """``host:port``, with an IPv6 address in brackets; without brackets it is understood too."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not host or int(port) > 65535:
        raise ValueError(f"Invalid {what}: {address}, expected format: ip:port or [ip]:port")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return f"[{host}]:{port}" if isinstance(ip_address(host), IPv6Address) else f"{host}:{port}"
    except ValueError:
        return f"{host}:{port}"


def _options(options: "dict[str, Any]") -> "dict[str, str]":
    """Values as the configuration reads them."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()}


def _info(native: "tuple[int, int, int, int, int]") -> ReduceInfo:
    world, _rank, sent, received, recoveries = native
    return ReduceInfo(world, sent, received, recoveries)


def _quantization(options: Optional[QuantizationOptions]) -> "Optional[tuple[int, int]]":
    if options is None or options.algorithm is QuantizationAlgorithm.NONE:
        return None
    return options.quantized_datatype.value, options.algorithm.value


class _Request(NamedTuple):
    """What the native module runs: codes, and memory (address, bytes) that ``keep`` owns."""

    collective: int
    dtype: int
    count: int  # type: ignore[assignment]  # a tuple has a method of this name, which nobody calls here
    input: "tuple[int, int]"
    output: "tuple[int, int]"
    keep: Any
    root: int = 0
    op: int = 0
    tag: int = 0
    quantization: "Optional[tuple[int, int]]" = None


def _request(collective: int, source: Buffer, output: Buffer, **more: Any) -> _Request:
    where = (source.address, source.nbytes), (output.address, output.nbytes)
    return _Request(collective, source.dtype.value, source.count, *where, (source, output), **more)


class Member(NamedTuple):
    """A member of the group."""

    session: str
    address: str
    site: str


class Membership(NamedTuple):
    """The epoch that a peer is in."""

    session: str
    rank: int
    world_size: int
    epoch: int
    global_world_size: int
    groups: int
    largest_group: int
    members: "list[Member]"


class AsyncReduceHandle:
    """An all-reduce on its way. Its tensors are kept until it has ended; do not use them before."""

    def __init__(self, pending: "_native.Pending"):
        self._pending = pending
        self._info: Optional[ReduceInfo] = None
        self._error: Optional[PCCLError] = None
        self._ended = False
        self._waits = threading.Lock()

    def _finish(self) -> None:
        with self._waits:
            if self._ended:
                return
            try:
                found = self._pending.wait()
            except PCCLError as error:
                self._error = error
            else:
                if found is None:
                    text = "an earlier wait was interrupted, by which this peer has left the run: connect() again"
                    self._error = ReconfigureError(Result.RANK_CONNECTION_LOST, "wait", text)
                else:
                    self._info = _info(found)
            self._ended = True

    def done(self) -> bool:
        """Whether it has ended: :meth:`wait` and :meth:`result` then return at once."""
        if self._ended:
            return True
        # Whoever waits for it has taken it out of `_pending`.
        if not self._waits.acquire(blocking=False):
            return False
        try:
            return self._pending.done()
        finally:
            self._waits.release()

    def wait(self) -> "tuple[bool, int, Optional[ReduceInfo]]":
        """Waits until it has ended: whether it succeeded, its :class:`Result` as a number, and how it went.

        Does not raise for what goes wrong with the op; :meth:`result` does.
        """
        self._finish()
        if self._error is not None:
            return False, self._error.result.value, None
        return True, Result.SUCCESS.value, self._info

    def result(self) -> ReduceInfo:
        """Waits until it has ended. Raises :class:`PCCLError`; after a :class:`RetryError` call again."""
        self._finish()
        if self._error is not None:
            raise self._error
        assert self._info is not None
        return self._info

    def __await__(self) -> "Generator[Any, None, ReduceInfo]":
        return self._awaited().__await__()

    async def _awaited(self) -> ReduceInfo:
        """Looks now and then, because a thread that waits could not be cancelled, and a loop does not end before its
        threads do. The op goes on by itself meanwhile.
        """
        looks = 0
        while not self.done():
            looks += 1
            await asyncio.sleep(0 if looks < 20 else min(looks * 1e-4, 5e-3))
        return self.result()


class Communicator:
    """A peer of a run.

    :param address: the master, ``host:port`` or ``[ipv6]:port``. ``None``: as the configuration says.
    :param peer_group: the peers that reduce together and synchronize.
    :param p2p_connection_pool_size: ignored; links take as many connections as they need.
    :param options: ``algorithm``, ``connect_timeout_ms``, ``config_file``, or any key of the configuration
        (``**{"network.site": "fra"}``).

    Use it as a context manager to connect and to leave::

        with pccl.Communicator("127.0.0.1:7117") as comm:
            comm.all_reduce(gradients, op=pccl.ReduceOp.AVG)

    At the end of the block it leaves as :meth:`close` does; after an exception at once: ops in flight end with their inputs
    as they were.

    Tensors are anything contiguous in main memory: ``torch.Tensor``, ``numpy.ndarray``, DLPack, the buffer protocol; they
    are never copied. Methods may be called from several threads. Ctrl-C works while they block: the peer leaves the run,
    what was in flight is restored, and ``KeyboardInterrupt`` is raised.
    """

    def __init__(
        self,
        address: Optional[str],
        peer_group: int = 0,
        p2p_connection_pool_size: int = 0,
        **options: Any,
    ):
        master = None if address is None else _address(address, "address")
        self._native = _native.Communicator(master, peer_group, _options(options))

    def connect(self, n_attempts: int = 5) -> None:
        """Connects to the master and waits until the members let this peer in by :meth:`update_topology`; the first
        peers are let in at once. Tries ``n_attempts`` times, a second apart. When this peer's membership has ended, it
        joins again. Raises :class:`PCCLError`.
        """
        for attempt in range(1, n_attempts + 1):
            try:
                return self._native.connect()
            except RetryError as error:
                if attempt == n_attempts:
                    raise
                _log.warning("failed to connect (attempt %d of %d): %s", attempt, n_attempts, error)
            time.sleep(1)
        raise invalid("connect", "n_attempts is not at least 1")

    def close(self) -> None:
        """Leaves the run after the ops in flight (they are given a minute); the others go on at once."""
        self._native.leave(False)

    leave = close

    def __enter__(self) -> "Communicator":
        if not self._native.is_connected():
            self.connect()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        # The others may wait for what comes after the error, and this peer for them.
        self._native.leave(error is not None)

    @property
    def is_connected(self) -> bool:
        """Whether this peer is a member of the run."""
        return self._native.is_connected()

    @property
    def membership(self) -> Membership:
        """The epoch that this peer is in, and its members by rank."""
        session, rank, world, epoch, all_members, groups, largest, members = self._native.membership()
        named = [Member(*m) for m in members]
        return Membership(session, rank, world, epoch, all_members, groups, largest, named)

    @property
    def rank(self) -> int:
        """This peer's position among the members. It may change with the membership."""
        return self._native.membership()[1]

    @property
    def world_size(self) -> int:
        """Members of this peer's group."""
        return self._native.world_size()

    def get_attribute(self, attribute: Attribute) -> int:
        """An attribute of the newest epoch."""
        attribute = Attribute(attribute)
        if attribute is Attribute.LOCAL_WORLD_SIZE:
            return self._native.world_size()
        found = self.membership
        if attribute is Attribute.GLOBAL_WORLD_SIZE:
            return found.global_world_size
        return found.groups if attribute is Attribute.NUM_DISTINCT_PEER_GROUPS else found.largest_group

    def are_peers_pending(self) -> bool:
        """Whether newcomers wait to be let in. All members must ask, and all get the same answer."""
        return self._native.are_peers_pending()

    def update_topology(self) -> None:
        """Lets the newcomers in that wait. All members must call it, with no op in flight."""
        self._native.update_topology()

    def optimize_topology(self) -> None:
        """Lets the choice of algorithms use what the members have measured of their links. All members must call it, with
        no op in flight.
        """
        self._native.optimize_topology()

    def sync_shared_state(
        self,
        shared_state: SharedState,
        strategy: SharedStateSyncStrategy = SharedStateSyncStrategy.ENFORCE_POPULAR,
    ) -> SharedStateSyncInfo:
        """Makes the tensors of all members bit-identical, and agrees on the revision. All members must call it, with no op
        in flight. All or nothing: after a :class:`PCCLError` the tensors are as they were. Tensors on CUDA devices are copied
        to main memory, and back when they were changed (:func:`pccl.cuda.is_available`).
        """
        tensors = []
        for info in shared_state._infos:
            if info._moved():
                why = f'tensor "{info.name}" has been given other elements since: make its TensorInfo anew'
                raise invalid("sync_shared_state", why)
            on_cuda = info.device_type is DeviceType.CUDA
            missing = _native.cuda_support() if on_cuda else None
            if missing is not None:
                why = f'tensor "{info.name}" is said to be on a CUDA device, and {missing}'
                raise invalid("sync_shared_state", why)
            nbytes = info.numel * info.dtype.itemsize
            tensors.append((info.name, info.dtype.value, info.data_ptr, nbytes, on_cuda, not info.allow_content_inequality))
        found = self._native.synchronize(shared_state.revision, tensors, strategy.value, shared_state)
        shared_state.revision, sent, received, changed = found
        return SharedStateSyncInfo(sent, received, tuple(changed))

    def all_reduce(
        self,
        send: Any,
        recv: Any = None,
        *,
        op: ReduceOp = ReduceOp.SUM,
        tag: int = 0,
        operand_descriptor: Optional[ReduceOperandDescriptor] = None,
        quantization_options: Optional[QuantizationOptions] = None,
    ) -> ReduceInfo:
        """Reduces ``send`` of all members into everybody's ``recv``, or in place without one.

        Both have the same element type and number of elements, on all members. ``tag`` names the op among those running
        at the same time. With ``quantization_options`` floats travel as integers, in blocks of 256 values with a scale of
        their own: a contribution and the sum are off by half a step of their block's range at most, and the result has
        the same bits everywhere. In a run with ``performance.enable_compression`` large sums and averages of floats are
        quantized without being asked, and what that takes away is kept by the tag for the next op of the same tag, length
        and type: call each tensor by a tag of its own, or with ``quantization_options=QuantizationOptions.off()``. Raises
        :class:`PCCLError`; after a :class:`RetryError` (a peer was lost) the input is
        as it was.
        """
        what = _reduction(send, recv, operand_descriptor, quantization_options, op, tag)
        return _info(self._native.run(what))

    def all_reduce_async(
        self,
        send: Any,
        recv: Any = None,
        *,
        op: ReduceOp = ReduceOp.SUM,
        tag: int = 0,
        operand_descriptor: Optional[ReduceOperandDescriptor] = None,
        quantization_options: Optional[QuantizationOptions] = None,
    ) -> AsyncReduceHandle:
        """As :meth:`all_reduce`, without waiting. Ops that run at the same time need different tags."""
        what = _reduction(send, recv, operand_descriptor, quantization_options, op, tag)
        return AsyncReduceHandle(self._native.start(what))

    def all_reduce_multiple_with_retry(
        self, descriptors: "list[ReduceOpDescriptor]", *, max_in_flight: int = 4
    ) -> ReduceInfo:
        """Performs all ops, at most ``max_in_flight`` at once, and tries again what was cut when a peer was lost.

        Returns when every one has been reduced: bytes of all together, and the smallest world size. Raises
        :class:`PCCLError`; inputs of ops that were not reduced are as they were.
        """
        if max_in_flight < 1:
            raise invalid("all_reduce_multiple_with_retry", f"max_in_flight is {max_in_flight}, not at least 1")
        tags = [one.reduce_descriptor.tag for one in descriptors]
        if len(set(tags)) < len(tags):
            raise invalid("all_reduce_multiple_with_retry", "a tag stands for two of the ops")
        # The lowest ones first on every peer, so that what one waits for is under way on the others.
        waiting = list(range(len(descriptors) - 1, -1, -1))
        running: "deque[tuple[int, AsyncReduceHandle]]" = deque()
        infos: "list[ReduceInfo]" = []
        failed: Optional[PCCLError] = None
        while True:
            while failed is None and waiting and len(running) < max_in_flight:
                i = waiting.pop()
                try:
                    running.append((i, self._start(descriptors[i])))
                except PCCLError as error:
                    if isinstance(error, RetryError) and error.result is Result.INVALID_USAGE and running:
                        # As many as may be at once are in flight, whatever the caller allows.
                        waiting.append(i)
                        break
                    failed = error
            if not running:
                break
            i, handle = running.popleft()
            try:
                infos.append(handle.result())
            except RetryError:
                waiting.append(i)
                waiting.sort(reverse=True)
            except PCCLError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        world = min((one.local_world_size for one in infos), default=self.world_size)
        return ReduceInfo(
            world,
            sum(one.tx_bytes for one in infos),
            sum(one.rx_bytes for one in infos),
            sum(one.recoveries for one in infos),
        )

    def _start(self, one: ReduceOpDescriptor) -> AsyncReduceHandle:
        what = one.reduce_descriptor
        dtype = what.operand_descriptor.datatype
        nbytes = what.count * dtype.itemsize
        source, output = (one.sendbuf_ptr, nbytes), (one.recvbuf_ptr, nbytes)
        if not source[0] or not output[0]:
            raise invalid("all_reduce", "a buffer is null")
        quantization = _quantization(what.quantization_options)
        op = _Request(_ALL_REDUCE, dtype.value, what.count, source, output, one, 0, what.op.value, what.tag, quantization)
        return AsyncReduceHandle(self._native.start(op))

    def broadcast(self, tensor: Any, *, root: int, tag: int = 0) -> ReduceInfo:
        """Gives everybody the ``tensor`` of the member of rank ``root``."""
        buffer = Buffer(tensor, writable=True)
        return _info(self._native.run(_request(_BROADCAST, buffer, buffer, root=root, tag=tag)))

    def all_gather(self, send: Any, recv: Any, *, tag: int = 0) -> ReduceInfo:
        """Fills ``recv`` with the ``send`` of all members, in rank order. It has room for as many elements as ``send`` has,
        times the world size.
        """
        source, output = Buffer(send, writable=False), Buffer(recv, writable=True)
        _same_type(source, output)
        check_apart(source, output)
        return _info(self._native.run(_request(_ALL_GATHER, source, output, tag=tag)))

    def reduce_scatter(
        self, send: Any, recv: Any, *, op: ReduceOp = ReduceOp.SUM, tag: int = 0
    ) -> "tuple[ReduceInfo, slice]":
        """Reduces ``send`` of all members and gives each one block of the result, in rank order, at the beginning of its
        ``recv``, which has as many elements as ``send``, because blocks grow if a peer is lost. Returns how it went, and
        which elements of the whole result they are. The first blocks are one element longer if the members do not divide
        the count.
        """
        source, output = pair(send, recv)
        if source is output:
            raise invalid("reduce_scatter", "give another tensor for the result")
        found = self._native.run(_request(_REDUCE_SCATTER, source, output, op=op.value, tag=tag))
        world, rank = found[:2]
        size, longer = divmod(source.count, world)
        start = rank * size + min(rank, longer)
        return _info(found), slice(start, start + size + (rank < longer))

    def barrier(self, *, tag: int = 0) -> None:
        """Returns when every member has called it."""
        self._native.run(_Request(_BARRIER, 0, 0, (0, 0), (0, 0), None, tag=tag))


def _same_type(source: Buffer, output: Buffer) -> None:
    if source.dtype is not output.dtype:
        raise ValueError(
            f"Input and output tensors must have the same dtype, not {source.dtype.name} and {output.dtype.name}"
        )


def _reduction(
    send: Any,
    recv: Any,
    operand: Optional[ReduceOperandDescriptor],
    quantization: Optional[QuantizationOptions],
    op: ReduceOp,
    tag: int,
) -> _Request:
    source, output = pair(send, recv)
    what = _request(_ALL_REDUCE, source, output, op=op.value, tag=tag, quantization=_quantization(quantization))
    if operand is None:
        return what
    dtype = operand.datatype
    if dtype.itemsize != source.dtype.itemsize:
        raise ValueError(f"operand_descriptor says {dtype.name}, the tensors hold {source.dtype.name}")
    return what._replace(dtype=dtype.value)


class MasterNode:
    """A master in this process. It keeps its state in memory: the run ends with it (``pccl master`` keeps it in a file).

    :param listen_address: ``ip:port`` or ``[ipv6]:port``; port 0 stands for any free one (:attr:`port`).
    :param options: ``config_file``, or any key of the configuration (``**{"network.heartbeat_timeout_ms": 5000}``).

    As a context manager it runs, and ends at the end of the block. Without one, a master that runs and is forgotten is
    waited for until it is interrupted, as PCCL does: a program that runs a master and returns serves until it is stopped.
    """

    def __init__(self, listen_address: str, **options: Any):
        self._native = _native.Master(_address(listen_address, "listen address"), _options(options))

    def __del__(self) -> None:
        native = getattr(self, "_native", None)
        if native is not None and native.is_running():
            native.await_termination()

    def run(self) -> None:
        """Starts the master and returns."""
        self._native.run()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self._native.port()

    def interrupt(self) -> None:
        """Asks it to end; may be called from a signal handler."""
        self._native.interrupt()

    def await_termination(self) -> None:
        """Waits until it has ended."""
        self._native.await_termination()

    def __enter__(self) -> "MasterNode":
        self.run()
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupt()
        self.await_termination()
