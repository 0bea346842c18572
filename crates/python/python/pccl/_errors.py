"""Errors as exceptions."""

from __future__ import annotations

from enum import Enum
from typing import Any, Optional


class Result(Enum):
    """Result codes, by the numbers of the C API."""

    SUCCESS = 0
    NOT_INITIALIZED = 1
    INTERNAL_ERROR = 2
    INVALID_ARGUMENT = 3
    INVALID_USAGE = 4
    TOO_FEW_PEERS = 5
    MASTER_CONNECTION_FAILED = 6
    RANK_CONNECTION_FAILED = 7
    RANK_CONNECTION_LOST = 8
    NO_SHARED_STATE_AVAILABLE = 9
    PENDING_ASYNC_OPS = 10
    UPDATE_TOPOLOGY_FAILED = 11
    TOPOLOGY_OPTIMIZATION_FAILED = 12


class PCCLError(Exception):
    """A call of the library did not do what it should.

    ``result`` is its :class:`Result`, ``text`` says what failed, where, why and what to do. The subclass says what the
    caller does next.
    """

    def __init__(self, result: Result, func_name: str, text: str = ""):
        super().__init__(f"{func_name} failed with error: {result.name}" + (f": {text}" if text else ""))
        self.result = result
        self.func_name = func_name
        self.text = text
        #: Of a synchronization: the highest revision that was offered, and the one that was expected.
        self._behind: "Optional[tuple[int, int]]" = None

    def __reduce__(self) -> "tuple[Any, ...]":
        return type(self), (self.result, self.func_name, self.text)


class RetryError(PCCLError):
    """Call again: the input is as it was (a peer was lost, or there are too few)."""


class ReconfigureError(PCCLError):
    """This peer's membership has ended: ``connect()`` again, synchronize, and go on. The input is as it was."""


class FatalError(PCCLError):
    """Correct the call: calling again ends the same way."""


class InputLostError(PCCLError):
    """The in-place input is gone, because the run keeps no backups: load it again."""


_CLASSES = {
    "retry": RetryError,
    "reconfigure": ReconfigureError,
    "fatal": FatalError,
    "input_lost": InputLostError,
}


def make(code: int, func_name: str, text: str, error_class: str) -> PCCLError:
    """The exception for what the native module says."""
    return _CLASSES[error_class](Result(code), func_name, text)


def invalid(func_name: str, text: str) -> PCCLError:
    """An argument is wrong."""
    return FatalError(Result.INVALID_ARGUMENT, func_name, text)
