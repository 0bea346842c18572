"""Training that survives: averaging of parameters and gradients. For PyTorch."""

from __future__ import annotations

from typing import Any, Iterable, Optional

from ._communicator import AsyncReduceHandle, Communicator
from ._errors import PCCLError, Result, RetryError
from ._types import QuantizationOptions, ReduceInfo, ReduceOp, SharedState, TensorInfo

#: Tags of this module's ops; a program that runs ops of its own at the same time uses others.
TAGS = range(0xD110C0, 0xD110C0 + 4096)


def flat_by_dtype(tensors: "list[Any]") -> "list[tuple[list[Any], Any]]":
    """Tensors of one element type together, each with a contiguous copy of all its elements."""
    import torch

    groups: "dict[Any, list[Any]]" = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return [(group, torch.cat([t.detach().reshape(-1) for t in group])) for group in groups.values()]


def put_back(group: "list[Any]", flat: Any) -> None:
    """Copies the elements back to where they came from."""
    at = 0
    for tensor in group:
        n = tensor.numel()
        tensor.detach().copy_(flat[at : at + n].view_as(tensor))
        at += n


def average_in_place(
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

    Only with ``quantization`` do they travel as integers, also in a run with ``performance.enable_compression``: that is for
    what training adds up, not for what it has come to.
    """
    quantization = quantization or QuantizationOptions.off()
    groups = flat_by_dtype([p.data for p in parameters])
    world = comm.world_size if groups else 1
    for i, (_, flat) in enumerate(groups):
        info = average_in_place(comm, flat, TAGS[i], quantization)
        world = min(world, 1 if info is None else info.local_world_size)
    for group, flat in groups:
        put_back(group, flat)
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
        flats = [part for bucket in self._buckets() for part in flat_by_dtype(bucket)]
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
                    info = average_in_place(self.comm, flat, TAGS[64 + i])
                world = min(world, 1 if info is None else info.local_world_size)
            except PCCLError as error:
                # The others' handles must end before the gradients may be used again.
                lost = lost or error
        if lost is not None:
            raise lost
        for group, flat in flats:
            put_back(group, flat)
        return max(world, 1)

    def synchronize(self) -> None:
        """Makes the parameters and buffers of all members equal; those of most members win."""
        self.revision = synchronize(self.comm, dict(self.module.state_dict()), self.revision)

    def admit(self) -> bool:
        """Between steps: lets newcomers in, if any wait, and gives them the parameters. All members call it."""
        if not self.comm.are_peers_pending():
            return False
        self.comm.update_topology()
        self.synchronize()
        return True


def synchronize(comm: Communicator, tensors: "dict[str, Any]", revision: int) -> int:
    """Synchronizes and returns the new revision. A newcomer's is lower than that of the group: it receives."""
    state = SharedState([TensorInfo.of(t, name) for name, t in tensors.items() if t.numel() > 0])
    state.revision = revision + 1
    comm.sync_shared_state(state)
    return state.revision
