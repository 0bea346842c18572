"""DiLoCo: peers train by themselves, and average now and then how far they have come. For PyTorch."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Optional

from ._communicator import AsyncReduceHandle, Communicator
from ._errors import PCCLError, RetryError
from ._training import TAGS, Shared, average_in_place, flat_by_dtype, put_back
from ._types import QuantizationOptions, ReduceOp

_NOW, _DELAYED = TAGS[128:192], TAGS[192:256]


class _Fragment:
    """Parameters that are averaged together: where all members agree that they are, and what they train from there."""

    def __init__(self, parameters: "list[Any]", first: int):
        import torch

        self._groups = flat_by_dtype(parameters)
        # Tags of its own: what compression takes away from a tensor is kept by the tag.
        places = [(first + i) % len(_NOW) for i in range(len(self._groups))]
        #: Tags of its averages that are waited for, and of those that travel meanwhile.
        self.now = [_NOW[place] for place in places]
        self.delayed = [_DELAYED[place] for place in places]
        #: Elements as the members agree on them, one tensor for each element type.
        self.outer = [flat for _, flat in self._groups]
        self.momentum = [torch.zeros_like(flat) for flat in self.outer]
        #: Inner steps since its average was begun.
        self.trained = 0

    def local(self) -> "list[Any]":
        """A copy of the parameters' elements."""
        import torch

        return [torch.cat([t.detach().reshape(-1) for t in group]) for group, _ in self._groups]

    def put(self, flats: "list[Any]") -> None:
        """Sets the parameters."""
        for (group, _), flat in zip(self._groups, flats):
            put_back(group, flat)

    def follow(self, deltas: "list[Any]", lr: float, momentum: float) -> None:
        """The outer optimizer's step."""
        for outer, velocity, delta in zip(self.outer, self.momentum, deltas):
            velocity.mul_(momentum).add_(delta)
            outer.sub_(lr * (delta + momentum * velocity))

    def named(self, prefix: str) -> "dict[str, Any]":
        """What all members have alike."""
        found = {f"outer.{prefix}{i}": flat for i, flat in enumerate(self.outer)}
        found.update({f"momentum.{prefix}{i}": flat for i, flat in enumerate(self.momentum)})
        return found


class _OnItsWay(NamedTuple):
    """A fragment's average that travels while its parameters are trained on."""

    fragment: _Fragment
    #: The parameters when it was begun.
    start: "list[Any]"
    deltas: "list[Any]"
    handles: "list[Optional[AsyncReduceHandle]]"
    session: str


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
        outer.finish()

    :param outer_lr: learning rate of the outer optimizer.
    :param outer_momentum: its momentum.
    :param delayed: do not wait for an average: it travels during the next inner steps and is followed when the next one
        is due, while what has been trained meanwhile is kept. Late averages and a long momentum can swing: if the loss
        rises and falls again over some rounds, lower ``outer_momentum`` (0.5) or ``outer_lr``.
    :param fragments: stream: cut the parameters into about so many parts, in their order and of about the same size, and
        average one after the other, evenly over the ``inner_steps``. As many bytes travel in a round, a fraction of them
        at once; with ``delayed`` each part has ``inner_steps / fragments`` steps to arrive.
    :param quantization: how the averages travel, if not as the run says (``performance.enable_compression``).
    :param state: further tensors by name that are the same on all members at the end of a round and that newcomers need,
        such as the number of steps so far. :meth:`synchronize` makes them equal too.

    A peer that is lost is left out of the average; newcomers are let in at the end of a round. The parameters are the same
    to the last bit on all members after :meth:`synchronize` and :meth:`finish`, and after each round of one fragment
    without delay.
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
        fragments: int = 1,
        quantization: Optional[QuantizationOptions] = None,
        state: "Optional[Mapping[str, Any]]" = None,
    ):
        if inner_steps < 1:
            raise ValueError(f"inner_steps is {inner_steps}, not at least 1")
        if not 1 <= fragments <= inner_steps:
            raise ValueError(f"fragments is {fragments}, not between 1 and inner_steps ({inner_steps})")
        self.comm = comm
        self.inner_steps = inner_steps
        self.outer_lr = outer_lr
        self.outer_momentum = outer_momentum
        self.delayed = delayed
        self.quantization = quantization
        self._shared = Shared(comm)
        self._state = dict(state or {})
        parts = _cut(list(parameters), fragments)
        self._fragments: "list[_Fragment]" = []
        for part in parts:
            first = sum(len(fragment.outer) for fragment in self._fragments)
            self._fragments.append(_Fragment(part, first))
        n = len(self._fragments)
        #: The step of a round after which a fragment is due; the last one ends it.
        self._due = {inner_steps * (i + 1) // n: fragment for i, fragment in enumerate(self._fragments)}
        self._since = 0
        self._on_its_way: Optional[_OnItsWay] = None

    @property
    def revision(self) -> int:
        """Of the last :meth:`synchronize`."""
        return self._shared.revision

    def step(self) -> bool:
        """After each step of the inner optimizer. True if this one ended a round."""
        self._since += 1
        for fragment in self._fragments:
            fragment.trained += 1
        due, ended = self._due.get(self._since), self._since == self.inner_steps
        if due is None:
            return False
        if ended:
            self._since = 0
        self._arrive()
        if not self.delayed:
            self._average(due)
        # Newcomers come in when nothing is on its way.
        if not (ended and self.admit()) and self.delayed:
            self._begin(due)
        return ended

    def admit(self) -> bool:
        """Lets newcomers in, if any wait, and gives them what :meth:`synchronize` makes equal. :meth:`step` does it at the
        end of a round; in between all members may call it when nothing has been trained since (to wait for peers).
        """
        self._arrive()
        if not self.comm.are_peers_pending():
            return False
        self.finish()
        self.comm.update_topology()
        self.synchronize()
        return True

    def finish(self) -> None:
        """Averages what has been trained and not been averaged yet (``delayed``, ``fragments``, or in the middle of a
        round). All members call it after the same step, before the parameters are saved.
        """
        self._arrive()
        for fragment in self._fragments:
            if fragment.trained > 0:
                self._average(fragment)
        self._since = 0

    def synchronize(self) -> None:
        """Makes parameters and momentum of all members equal; those of most members win. What a member has that has lost
        its membership meanwhile does not count against the others. Every peer begins with it. What has been trained and
        not been averaged is lost: :meth:`finish` first, if it should not be.
        """
        self._arrive()
        self._shared.synchronize(self.state_dict())
        self._since = 0
        for fragment in self._fragments:
            fragment.put(fragment.outer)
            fragment.trained = 0

    def state_dict(self) -> "dict[str, Any]":
        """What all members have alike, by name, as the tensors themselves: parameters, momentum, ``state``. Save it after
        :meth:`finish`, for instance by :func:`pccl.safetensors.save_file`.
        """
        named = {f"state.{name}": tensor for name, tensor in self._state.items()}
        several = len(self._fragments) > 1
        for i, fragment in enumerate(self._fragments):
            named.update(fragment.named(f"{i}." if several else ""))
        return named

    def load_state_dict(self, saved: "Mapping[str, Any]") -> None:
        """Goes on from a :meth:`state_dict` of the same parameters, ``fragments`` and ``state``. ``ValueError`` if it is of
        others; nothing has been changed then. :meth:`synchronize` next.
        """
        ours = self.state_dict()
        for name in [*ours, *saved]:
            if name not in ours or name not in saved:
                raise ValueError(f'"{name}" is {"not saved" if name in ours else "saved, and not here"}')
            there, here = ((tuple(one[name].shape), one[name].dtype) for one in (saved, ours))
            if there != here:
                raise ValueError(f'"{name}" is {there[0]} of {there[1]} there and {here[0]} of {here[1]} here')
        for name, tensor in ours.items():
            tensor.copy_(saved[name])
        for fragment in self._fragments:
            fragment.put(fragment.outer)

    def _follow(self, fragment: _Fragment, deltas: "list[Any]") -> None:
        fragment.follow(deltas, self.outer_lr, self.outer_momentum)

    def _average(self, fragment: _Fragment) -> None:
        """Averages a fragment now, and puts its parameters where that leads."""
        deltas = [outer - local for outer, local in zip(fragment.outer, fragment.local())]
        for tag, delta in zip(fragment.now, deltas):
            average_in_place(self.comm, delta, tag, self.quantization)
        self._follow(fragment, deltas)
        fragment.put(fragment.outer)
        fragment.trained = 0

    def _begin(self, fragment: _Fragment) -> None:
        """Sends a fragment's average on its way."""
        start = fragment.local()
        deltas = [outer - local for outer, local in zip(fragment.outer, start)]
        handles: "list[Optional[AsyncReduceHandle]]" = []
        for tag, delta in zip(fragment.delayed, deltas):
            try:
                handle = self.comm.all_reduce_async(
                    delta, op=ReduceOp.AVG, tag=tag, quantization_options=self.quantization
                )
            except RetryError:
                handle = None  # alone: tried again when it is due
            handles.append(handle)
        fragment.trained = 0
        self._on_its_way = _OnItsWay(fragment, start, deltas, handles, self.comm.membership.session)

    def _arrive(self) -> None:
        """Follows the average that is on its way, and keeps what has been trained since it was begun."""
        sent, self._on_its_way = self._on_its_way, None
        if sent is None:
            return
        again: "list[tuple[int, Any]]" = []
        lost: Optional[PCCLError] = None
        for tag, delta, handle in zip(sent.fragment.delayed, sent.deltas, sent.handles):
            try:
                if handle is not None:
                    handle.result()
                    continue
            except RetryError:
                pass
            except PCCLError as error:
                # The others must end too before their tensors are forgotten.
                lost = lost or error
            again.append((tag, delta))
        if sent.session != self.comm.membership.session:
            return  # this peer has joined again: what it had begun ended with its membership
        if lost is not None:
            raise lost
        for tag, delta in again:
            average_in_place(self.comm, delta, tag, self.quantization)
        fragment = sent.fragment
        since = [now.sub_(then) for now, then in zip(fragment.local(), sent.start)]
        self._follow(fragment, sent.deltas)
        fragment.put([outer + more for outer, more in zip(fragment.outer, since)])


def _cut(parameters: "list[Any]", wanted: int) -> "list[list[Any]]":
    """At most so many parts of about the same number of elements, in order."""
    parts: "list[list[Any]]" = [[] for _ in range(wanted)]
    total, before = sum(p.numel() for p in parameters), 0
    for parameter in parameters:
        middle = before + parameter.numel() / 2
        parts[min(int(middle * wanted / max(total, 1)), wanted - 1)].append(parameter)
        before += parameter.numel()
    return [part for part in parts if part] or [[]]
