"""Training that survives: averaging of parameters and gradients, and DiLoCo. For PyTorch."""

from __future__ import annotations

from typing import Any, Iterable, Optional

from ._communicator import AsyncReduceHandle, Communicator
from ._errors import PCCLError, Result, RetryError
from ._types import QuantizationOptions, ReduceInfo, ReduceOp, SharedState, TensorInfo

#: Tags of this module's ops; a program that runs ops of its own at the same time uses others.
TAGS = range(0xD110C0, 0xD110C0 + 4096)


def _flat_by_dtype(tensors: "list[Any]") -> "list[tuple[list[Any], Any]]":
    """Tensors of one element type together, each with a contiguous copy of all its elements."""
    import torch

    groups: "dict[Any, list[Any]]" = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return [(group, torch.cat([t.detach().reshape(-1) for t in group])) for group in groups.values()]


def _take(group: "list[Any]", flat: Any) -> None:
    """Copies the elements back to where they came from."""
    at = 0
    for tensor in group:
        n = tensor.numel()
        tensor.detach().copy_(flat[at : at + n].view_as(tensor))
        at += n


def _average(
    comm: Communicator, flat: Any, tag: int, quantization: Optional[QuantizationOptions] = None
) -> Optional[ReduceInfo]:
    """Averages in place with whoever is left; nothing if this peer is alone."""
    while True:
        try:
            return comm.all_reduce(flat, op=ReduceOp.AVG, tag=tag, quantization_options=quantization)
        except RetryError as error:
            if error.result is Result.TOO_FEW_PEERS:
                return None


def average_parameters(
    comm: Communicator,
    parameters: "Iterable[Any]",
    *,
    quantization: Optional[QuantizationOptions] = None,
) -> int:
    """Averages tensors (``model.parameters()``) over the group, in place, and returns how many peers took part.

    All members call it with the same tensors in the same order. A peer that is lost on the way is left out; a peer that
    is alone keeps what it has, and 1 is returned. The tensors are written to when all of them have been averaged. Raises
    :class:`PCCLError` if this peer's own membership has ended; the tensors are then as they were.
    """
    groups = _flat_by_dtype([p.data for p in parameters])
    world = comm.world_size if groups else 1
    for i, (_, flat) in enumerate(groups):
        info = _average(comm, flat, TAGS[i], quantization)
        world = min(world, 1 if info is None else info.local_world_size)
    for group, flat in groups:
        _take(group, flat)
    return max(world, 1)


class FaultTolerantDDP:
    """Data-parallel training: gradients are averaged over whoever is there.

    ::

        model = pccl.FaultTolerantDDP(module, comm)
        loss_of(model(batch)).backward()
        model.average_gradients()
        optimizer.step()

    All members call :meth:`average_gradients` once for each step. Newcomers are let in by :meth:`admit`, between steps.
    Attributes of the module are found through it.

    :param bucket_bytes: gradients are reduced in buckets of about so many bytes, several at once.
    """

    def __init__(self, module: Any, comm: Communicator, *, bucket_bytes: int = 25 << 20):
        self.module = module
        self.comm = comm
        self.bucket_bytes = bucket_bytes
        self.revision = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def _buckets(self) -> "list[list[Any]]":
        import torch

        buckets: "list[list[Any]]" = []
        size = self.bucket_bytes
        for parameter in self.module.parameters():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                # Others may have used it: all reduce the same tensors.
                parameter.grad = torch.zeros_like(parameter)
            if size >= self.bucket_bytes:
                buckets.append([])
                size = 0
            buckets[-1].append(parameter.grad)
            size += parameter.grad.numel() * parameter.grad.element_size()
        return buckets

    def average_gradients(self) -> int:
        """Averages the gradients over the group and returns how many peers took part; 1 if this peer is alone."""
        flats = [part for bucket in self._buckets() for part in _flat_by_dtype(bucket)]
        running: "list[Optional[AsyncReduceHandle]]" = []
        for i, (_, flat) in enumerate(flats):
            try:
                running.append(self.comm.all_reduce_async(flat, op=ReduceOp.AVG, tag=TAGS[64 + i]))
            except RetryError:
                running.append(None)
        world, lost = self.comm.world_size, None
        for i, (_, flat) in enumerate(flats):
            handle = running[i]
            try:
                try:
                    info = None if handle is None else handle.result()
                except RetryError:
                    handle = None
                    info = None
                if handle is None:
                    info = _average(self.comm, flat, TAGS[64 + i])
                world = min(world, 1 if info is None else info.local_world_size)
            except PCCLError as error:
                # The others' handles must end before the gradients may be used again.
                lost = lost or error
        if lost is not None:
            raise lost
        for group, flat in flats:
            _take(group, flat)
        return max(world, 1)

    def synchronize(self) -> None:
        """Makes the parameters and buffers of all members equal; those of most members win."""
        self.revision = _synchronize(self.comm, dict(self.module.state_dict()), self.revision)

    def admit(self) -> bool:
        """Between steps: lets newcomers in, if any wait, and gives them the parameters. All members call it."""
        if not self.comm.are_peers_pending():
            return False
        self.comm.update_topology()
        self.synchronize()
        return True


def _synchronize(comm: Communicator, tensors: "dict[str, Any]", revision: int) -> int:
    """Synchronizes and returns the new revision. A newcomer's is lower than that of the group: it receives."""
    state = SharedState([TensorInfo.of(t, name) for name, t in tensors.items() if t.numel() > 0])
    state.revision = revision + 1
    comm.sync_shared_state(state)
    return state.revision


class DiLoCo:
    """Distributed low-communication training: every peer trains by itself for ``inner_steps`` steps, then the peers
    average how far they have come, and an outer optimizer (SGD with Nesterov momentum) follows the average.

    ::

        outer = pccl.DiLoCo(comm, model.parameters(), inner_steps=100)
        outer.synchronize()                  # every peer, also a newcomer, begins with it
        for batch in data:
            ...
            inner_optimizer.step()
            outer.step()                     # every inner_steps-th call talks to the others

    :param outer_lr: learning rate of the outer optimizer.
    :param outer_momentum: its momentum.
    :param delayed: do not wait for the average: it travels during the next inner steps and is applied after them, one
        round late. Late averages and a long momentum can swing: if the loss rises and falls again over some rounds, lower
        ``outer_momentum`` (0.5) or ``outer_lr``.
    :param quantization: how the averages travel.
    :param state: further tensors by name that are the same on all members at the end of a round and that newcomers need,
        such as the number of steps so far. :meth:`synchronize` makes them equal too.

    A peer that is lost is left out of the average; newcomers are let in at the end of a round. After each round, and
    after :meth:`synchronize`, the parameters are the same to the last bit on all members.
    """

    def __init__(
        self,
        comm: Communicator,
        parameters: "Iterable[Any]",
        *,
        inner_steps: int,
        outer_lr: float = 0.7,
        outer_momentum: float = 0.9,
        delayed: bool = False,
        quantization: Optional[QuantizationOptions] = None,
        state: "Optional[dict[str, Any]]" = None,
    ):
        import torch

        if inner_steps < 1:
            raise ValueError(f"inner_steps is {inner_steps}, not at least 1")
        self.comm = comm
        self.inner_steps = inner_steps
        self.outer_lr = outer_lr
        self.outer_momentum = outer_momentum
        self.delayed = delayed
        self.quantization = quantization
        self.revision = 0
        self._state = dict(state or {})
        self._parameters = list(parameters)
        self._groups = _flat_by_dtype([p.data for p in self._parameters])
        self._momentum = [torch.zeros_like(flat) for _, flat in self._groups]
        self._since = 0
        self._pending: "list[tuple[Any, AsyncReduceHandle]]" = []

    def step(self) -> bool:
        """After each step of the inner optimizer. True if this one ended a round."""
        self._since += 1
        if self._since < self.inner_steps:
            return False
        self._since = 0
        deltas = self._deltas()
        if self.delayed:
            self._follow(self._arrived())
            if self.comm.are_peers_pending():
                # Newcomers come in when nothing is on its way.
                self._average_now(deltas)
                self._let_in()
            else:
                self._begin(deltas)
        else:
            self._average_now(deltas)
            self.admit()
        return True

    def admit(self) -> bool:
        """Lets newcomers in, if any wait, and gives them what :meth:`synchronize` makes equal. :meth:`step` does it at the
        end of a round; in between all members may call it when nothing has been trained since (to wait for peers).
        """
        if not self.comm.are_peers_pending():
            return False
        self._let_in()
        return True

    def finish(self) -> None:
        """Applies what is still on its way (``delayed``). Call it before the parameters are saved."""
        self._follow(self._arrived())

    def synchronize(self) -> None:
        """Makes parameters and momentum of all members equal; those of most members win. Every peer begins with it."""
        self._follow(self._arrived())
        named = {f"outer.{i}": flat for i, (_, flat) in enumerate(self._groups)}
        named.update({f"momentum.{i}": m for i, m in enumerate(self._momentum)})
        named.update({f"state.{name}": tensor for name, tensor in self._state.items()})
        self.revision = _synchronize(self.comm, named, self.revision)
        self._reset()

    def _deltas(self) -> "list[Any]":
        """How far this peer has come since the round began."""
        import torch

        parts = [torch.cat([t.detach().reshape(-1) for t in group]) for group, _ in self._groups]
        return [flat - local for (_, flat), local in zip(self._groups, parts)]

    def _follow(self, deltas: "list[Any]") -> None:
        """The outer optimizer's step, and the inner parameters put to where it leads."""
        for (_, flat), momentum, delta in zip(self._groups, self._momentum, deltas):
            momentum.mul_(self.outer_momentum).add_(delta)
            flat.sub_(self.outer_lr * (delta + self.outer_momentum * momentum))
        self._reset()

    def _reset(self) -> None:
        for group, flat in self._groups:
            _take(group, flat)

    def _begin(self, deltas: "list[Any]") -> None:
        self._pending = []
        for i, delta in enumerate(deltas):
            how = self.quantization
            try:
                handle = self.comm.all_reduce_async(
                    delta, op=ReduceOp.AVG, tag=TAGS[192 + i], quantization_options=how
                )
            except RetryError:
                handle = None
            self._pending.append((delta, handle))

    def _arrived(self) -> "list[Any]":
        """The averages that were begun a round ago."""
        pending, self._pending = self._pending, []
        for i, (delta, handle) in enumerate(pending):
            try:
                if handle is not None:
                    handle.result()
                    continue
            except RetryError:
                pass
            _average(self.comm, delta, TAGS[192 + i], self.quantization)
        return [delta for delta, _ in pending]

    def _average_now(self, deltas: "list[Any]") -> None:
        for i, delta in enumerate(deltas):
            _average(self.comm, delta, TAGS[128 + i], self.quantization)
        self._follow(deltas)

    def _let_in(self) -> None:
        self.comm.update_topology()
        self.synchronize()
