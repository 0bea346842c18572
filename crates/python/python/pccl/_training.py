"""Training that survives: averaging of parameters and gradients. For PyTorch."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Optional

from ._communicator import AsyncReduceHandle, Communicator
from ._errors import PCCLError, Result, RetryError
from ._types import DataType, QuantizationOptions, ReduceInfo, ReduceOp, SharedState, TensorInfo

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

        model = pccl.FaultTolerantDDP(module, comm, optimizer=optimizer)
        model.synchronize()                  # every peer, also a newcomer, begins with it
        for batch in data:
            optimizer.zero_grad()
            loss_of(model(batch)).backward()
            model.average_gradients()
            optimizer.step()
            model.admit()

    All members call :meth:`average_gradients` once for each step: to accumulate gradients, call ``backward`` several times
    before. Newcomers are let in by :meth:`admit`, between steps. Attributes of the module are found through it.

    :param bucket_bytes: gradients are reduced in buckets of about so many bytes, several at once.
    :param optimizer: of an optimizer that remembers (momentum, Adam) newcomers need what it remembers: without it their
        weights would soon not be those of the others. Its learning rate is not part of that: set it by the step.
    :param state: further tensors by name that are the same on all members between steps and that newcomers need, such as
        the number of steps so far.
    """

    def __init__(
        self,
        module: Any,
        comm: Communicator,
        *,
        bucket_bytes: int = 25 << 20,
        optimizer: Any = None,
        state: "Optional[Mapping[str, Any]]" = None,
    ):
        self.module = module
        self.comm = comm
        self.bucket_bytes = bucket_bytes
        self._shared = Shared(comm)
        self._optimizer = optimizer
        self._state = dict(state or {})

    @property
    def revision(self) -> int:
        """Of the last :meth:`synchronize`."""
        return self._shared.revision

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "module":
            raise AttributeError(name)  # asked for before there is one: by `copy`, by `pickle`
        return getattr(self.module, name)

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
        """Makes parameters, buffers, what the optimizer remembers, and ``state`` of all members equal; those of most members
        win. What a member has that has lost its membership meanwhile does not count against the others.
        """
        tensors = dict(self.module.state_dict())
        tensors.update({f"state.{name}": tensor for name, tensor in self._state.items()})
        if self._optimizer is not None:
            self._remember()
            tensors.update(_remembered(self._optimizer))
        self._shared.synchronize(tensors)

    def _remember(self) -> None:
        """Gives the optimizer room for what those of the others remember, if they do: it makes it at its first step."""
        import torch

        any_does = torch.tensor(bool(_remembered(self._optimizer)), dtype=torch.uint8)
        while True:
            try:
                self.comm.all_reduce(any_does, op=ReduceOp.MAX, tag=TAGS[-1])
                break
            except RetryError as error:
                if error.result is Result.TOO_FEW_PEERS:
                    break
        if any_does:
            _make_room(self._optimizer)

    def admit(self) -> bool:
        """Between steps: lets newcomers in, if any wait, and gives them the parameters. All members call it."""
        if not self.comm.are_peers_pending():
            return False
        self.comm.update_topology()
        self.synchronize()
        return True


def _parameters(optimizer: Any) -> "list[Any]":
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _remembered(optimizer: Any) -> "dict[str, Any]":
    """The tensors of an optimizer's state, by the position of their parameter."""
    import torch

    return {
        f"optimizer.{i}.{key}": value
        for i, parameter in enumerate(_parameters(optimizer))
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def _make_room(optimizer: Any) -> None:
    """Lets an optimizer make the state of parameters that have none, by a step that changes no parameter."""
    import torch

    parameters = [p for p in _parameters(optimizer) if p.requires_grad]
    new = [p for p in parameters if not optimizer.state.get(p)]
    if not new:
        return
    before = [(p, p.detach().clone(), p.grad) for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    for parameter in new:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, values, gradient in before:
        parameter.detach().copy_(values)
        parameter.grad = gradient


class Shared:
    """What all members have alike, and up to which revision this peer has agreed on it."""

    def __init__(self, comm: Communicator):
        self.comm = comm
        self.revision = 0
        #: This peer's life in which it did.
        self._session: Optional[str] = None

    def synchronize(self, tensors: "Mapping[str, Any]") -> None:
        """Makes the tensors of all members equal, of any element type and memory layout."""
        infos, copies = [], {}
        for name, tensor in tensors.items():
            if tensor.numel() == 0:
                continue
            here = tensor.detach()
            there = here.contiguous()
            if there.data_ptr() != here.data_ptr():
                copies[name] = here, there
            infos.append(TensorInfo.of(_plain(there), name))
        state = SharedState(infos)
        session = self.comm.membership.session
        # Who has lost its membership has missed what the others did since, also if they have not synchronized since.
        state.revision = self.revision + (self._session in (None, session))
        while True:
            try:
                changed = self.comm.sync_shared_state(state).changed
                break
            except PCCLError as error:
                if error._behind is None:
                    raise
                # Nobody is left of those that had more, or all begin anew under a master that has seen others: who has
                # the most goes before.
                highest, expected = error._behind
                if state.revision == highest:
                    state.revision = expected
        self.revision, self._session = state.revision, session
        for name in changed:
            if name in copies:
                here, there = copies[name]
                here.copy_(there)


def _plain(tensor: Any) -> Any:
    """A contiguous tensor, or its bytes if they are of a type that is not reduced (booleans, complex numbers)."""
    import torch

    try:
        DataType.from_torch_dtype(tensor.dtype)
    except ValueError:
        return tensor.reshape(-1).view(torch.uint8)
    return tensor
