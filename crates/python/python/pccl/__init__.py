"""Fault-tolerant collectives over TCP/IP.

Peers join and die at any moment; every survivor finishes with bit-identical results. The classes, enumerations and
exceptions of PCCL's Python framework are here by the same names; tensors are anything contiguous in main memory
(PyTorch, NumPy, DLPack, the buffer protocol), and are never copied.
"""

from . import cuda, safetensors
from ._communicator import AsyncReduceHandle, Communicator, MasterNode, Member, Membership
from ._diloco import DiLoCo
from ._errors import FatalError, InputLostError, PCCLError, ReconfigureError, Result, RetryError
from ._native import __version__
from ._training import FaultTolerantDDP, average_parameters
from ._types import (
    Attribute,
    DataType,
    DeviceType,
    DistributionHint,
    QuantizationAlgorithm,
    QuantizationOptions,
    ReduceDescriptor,
    ReduceInfo,
    ReduceOp,
    ReduceOpDescriptor,
    ReduceOperandDescriptor,
    SharedState,
    SharedStateSyncInfo,
    SharedStateSyncStrategy,
    TensorInfo,
)

__all__ = [
    "AsyncReduceHandle",
    "Attribute",
    "Communicator",
    "DataType",
    "DeviceType",
    "DiLoCo",
    "DistributionHint",
    "FatalError",
    "FaultTolerantDDP",
    "InputLostError",
    "MasterNode",
    "Member",
    "Membership",
    "PCCLError",
    "QuantizationAlgorithm",
    "QuantizationOptions",
    "ReconfigureError",
    "ReduceDescriptor",
    "ReduceInfo",
    "ReduceOp",
    "ReduceOpDescriptor",
    "ReduceOperandDescriptor",
    "Result",
    "RetryError",
    "SharedState",
    "SharedStateSyncInfo",
    "SharedStateSyncStrategy",
    "TensorInfo",
    "__version__",
    "average_parameters",
    "cuda",
    "safetensors",
]
