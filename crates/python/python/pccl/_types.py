"""Enumerations and descriptors, by the names and numbers of PCCL."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Any


class ReduceOp(Enum):
    """How elements are combined."""

    SUM = 0
    AVG = 1
    PROD = 2
    MAX = 3
    MIN = 4


class Attribute(Enum):
    """What :meth:`Communicator.get_attribute` can be asked for."""

    GLOBAL_WORLD_SIZE = 1
    LOCAL_WORLD_SIZE = 2
    PEER_GROUP_WORLD_SIZE = 2
    NUM_DISTINCT_PEER_GROUPS = 3
    LARGEST_PEER_GROUP_WORLD_SIZE = 4


class SharedStateSyncStrategy(Enum):
    """What a peer wants of a synchronization."""

    #: The most common content wins. If one peer says so, all must.
    ENFORCE_POPULAR = 0
    #: Never sends, and is not counted.
    RECEIVE_ONLY = 1
    #: Never receives: its content must win.
    SEND_ONLY = 2


class DataType(Enum):
    """Element types."""

    UINT8 = 0
    INT8 = 1
    INT16 = 2
    UINT16 = 3
    UINT32 = 4
    INT32 = 5
    UINT64 = 6
    INT64 = 7
    FLOAT16 = 8
    BFLOAT16 = 9
    FLOAT = 10
    DOUBLE = 11

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _SIZES[self]

    @property
    def _array_name(self) -> str:
        """What NumPy and PyTorch call it."""
        return _NAMES[self]

    def to_torch_dtype(self) -> Any:
        """The ``torch.dtype``. ``ValueError`` if this version of PyTorch has none."""
        import torch

        dtype = getattr(torch, _NAMES[self], None)
        if dtype is None:
            raise ValueError(f"this version of PyTorch has no {_NAMES[self]}")
        return dtype

    def to_numpy_dtype(self) -> Any:
        """The ``numpy.dtype``; that of ``bfloat16`` comes with the package ``ml_dtypes``."""
        import numpy

        if self is DataType.BFLOAT16:
            import ml_dtypes

            return numpy.dtype(ml_dtypes.bfloat16)
        return numpy.dtype(_NAMES[self])

    @classmethod
    def from_torch_dtype(cls, dtype: Any) -> "DataType":
        """The element type of a ``torch.dtype``."""
        return _of_torch(dtype)

    @classmethod
    def from_numpy_dtype(cls, dtype: Any) -> "DataType":
        """The element type of a ``numpy.dtype``."""
        return _of_numpy(dtype)

    @classmethod
    def _named(cls, name: str) -> "DataType":
        found = _BY_NAME.get(name)
        if found is None:
            raise ValueError(f"Unsupported dtype: {name}")
        return found


# Every call asks for it, and NumPy and PyTorch are slow to tell a type's name.
@lru_cache(maxsize=64)
def _of_torch(dtype: Any) -> DataType:
    return DataType._named(str(dtype).replace("torch.", "", 1))


@lru_cache(maxsize=64)
def _of_numpy(dtype: Any) -> DataType:
    if not getattr(dtype, "isnative", True):
        raise ValueError(f"Unsupported dtype: {dtype}: elements must be in native byte order")
    return DataType._named(getattr(dtype, "name", str(dtype)))


_NAMES = {
    DataType.UINT8: "uint8",
    DataType.INT8: "int8",
    DataType.INT16: "int16",
    DataType.UINT16: "uint16",
    DataType.UINT32: "uint32",
    DataType.INT32: "int32",
    DataType.UINT64: "uint64",
    DataType.INT64: "int64",
    DataType.FLOAT16: "float16",
    DataType.BFLOAT16: "bfloat16",
    DataType.FLOAT: "float32",
    DataType.DOUBLE: "float64",
}
_BY_NAME = {name: dtype for dtype, name in _NAMES.items()}
_SIZES = {dtype: int(name.lstrip("buintfloa")) // 8 for dtype, name in _NAMES.items()}


class DeviceType(Enum):
    """Where a tensor is."""

    CPU = 0
    CUDA = 1

    @classmethod
    def from_torch_device_type(cls, device_type: str) -> "DeviceType | None":
        """The device type of ``tensor.device.type``."""
        return {"cpu": cls.CPU, "cuda": cls.CUDA}.get(device_type)


class DistributionHint(Enum):
    """How values are distributed; ignored."""

    NONE = 0
    NORMAL = 1
    UNIFORM = 2


class QuantizationAlgorithm(Enum):
    """How values are quantized on their way. ``NONE`` is as the run says (``performance.enable_compression``), ``OFF`` not at
    all, whatever the run says."""

    NONE = 0
    MIN_MAX = 1
    ZERO_POINT_SCALE = 2
    OFF = 3


class ReduceOperandDescriptor:
    """An operand: its element type."""

    def __init__(self, datatype: DataType, distribution_hint: DistributionHint = DistributionHint.NONE):
        self.datatype = datatype
        self.distribution_hint = distribution_hint


class QuantizationOptions:
    """Whether and how values are quantized on their way."""

    def __init__(
        self,
        quantized_datatype: DataType = DataType.UINT8,
        algorithm: QuantizationAlgorithm = QuantizationAlgorithm.MIN_MAX,
    ):
        self.quantized_datatype = quantized_datatype
        self.algorithm = algorithm

    @classmethod
    def off(cls) -> "QuantizationOptions":
        """Values travel as they are, also in a run with ``performance.enable_compression``. All members must say so."""
        return cls(algorithm=QuantizationAlgorithm.OFF)


class ReduceDescriptor:
    """A reduction: elements, operator, tag, operand, quantization."""

    def __init__(
        self,
        count: int,
        op: ReduceOp,
        tag: int,
        operand_descriptor: ReduceOperandDescriptor,
        quantization_options: QuantizationOptions,
    ):
        self.count = count
        self.op = op
        self.tag = tag
        self.operand_descriptor = operand_descriptor
        self.quantization_options = quantization_options


class ReduceOpDescriptor:
    """One op of :meth:`Communicator.all_reduce_multiple_with_retry`: two addresses and a reduction.

    Made by :meth:`from_torch` and :meth:`from_numpy` it keeps its tensors alive; made from addresses it does not.
    """

    def __init__(self, sendbuf_ptr: int, recvbuf_ptr: int, reduce_descriptor: ReduceDescriptor):
        self.sendbuf_ptr = sendbuf_ptr
        self.recvbuf_ptr = recvbuf_ptr
        self.reduce_descriptor = reduce_descriptor
        self._keep: Any = None

    @staticmethod
    def from_torch(send: Any, recv: Any, reduce_descriptor: ReduceDescriptor) -> "ReduceOpDescriptor":
        """Of two ``torch.Tensor``, contiguous, in main memory, alike in type and number of elements."""
        return ReduceOpDescriptor.of(send, recv, reduce_descriptor)

    @staticmethod
    def from_numpy(send: Any, recv: Any, reduce_descriptor: ReduceDescriptor) -> "ReduceOpDescriptor":
        """Of two ``numpy.ndarray``, contiguous, alike in type and number of elements."""
        return ReduceOpDescriptor.of(send, recv, reduce_descriptor)

    @staticmethod
    def of(send: Any, recv: Any, reduce_descriptor: ReduceDescriptor) -> "ReduceOpDescriptor":
        """Of any two tensors."""
        from ._buffers import pair

        a, b = pair(send, recv)
        count, dtype = reduce_descriptor.count, reduce_descriptor.operand_descriptor.datatype
        if count * dtype.itemsize > a.nbytes:
            raise ValueError(
                f"The descriptor says {count} elements of {dtype.name}, the tensors have {a.count} of {a.dtype.name}"
            )
        one = ReduceOpDescriptor(a.address, b.address, reduce_descriptor)
        one._keep = (a, b)
        return one


class TensorInfo:
    """A named tensor of a shared state, by its address. ``numel`` counts elements."""

    def __init__(
        self,
        name: str,
        data_ptr: int,
        *,
        numel: int,
        dtype: DataType,
        device_type: DeviceType = DeviceType.CPU,
        allow_content_inequality: bool = False,
        shape: "tuple[int, ...] | None" = None,
    ):
        if data_ptr == 0 and numel > 0:
            raise ValueError("Invalid data pointer: nullptr")
        self.name = name
        self.data_ptr = data_ptr
        self.numel = numel
        self.dtype = dtype
        self.device_type = device_type
        self.allow_content_inequality = allow_content_inequality
        #: As it is saved; without one, it is a vector.
        self.shape = (numel,) if shape is None else shape
        self._keep: Any = None

    @classmethod
    def of(cls, tensor: Any, name: str, *, allow_content_inequality: bool = False) -> "TensorInfo":
        """Of anything that :meth:`Communicator.all_reduce` takes, writable, and of tensors on CUDA devices. It is kept alive."""
        from ._buffers import Buffer

        buffer = Buffer(tensor, writable=True, on_device=True)
        info = cls(
            name,
            buffer.address,
            numel=buffer.count,
            dtype=buffer.dtype,
            device_type=buffer.device,
            allow_content_inequality=allow_content_inequality,
            shape=buffer.shape,
        )
        info._keep = buffer
        return info

    def _moved(self) -> bool:
        """Whether its tensor has been given other elements since (``tensor.data = …``)."""
        now = getattr(getattr(self._keep, "_owner", None), "data_ptr", None)
        return now is not None and self.numel > 0 and now() != self.data_ptr

    @classmethod
    def from_torch(cls, tensor: Any, name: str, *, allow_content_inequality: bool = False) -> "TensorInfo":
        """Of a ``torch.Tensor``, in main memory or on a CUDA device."""
        return cls.of(tensor, name, allow_content_inequality=allow_content_inequality)

    @classmethod
    def from_numpy(cls, tensor: Any, name: str, *, allow_content_inequality: bool = False) -> "TensorInfo":
        """Of a ``numpy.ndarray``."""
        return cls.of(tensor, name, allow_content_inequality=allow_content_inequality)


class SharedState:
    """Named tensors that the group keeps bit-identical, and their ``revision``.

    Raise the revision by exactly one before each synchronization (:meth:`push_revision`); the first one that is not 0
    may be any, to resume a run.
    """

    def __init__(self, tensor_infos: "list[TensorInfo]"):
        if not tensor_infos:
            raise ValueError("At least one tensor info must be provided")
        self._infos = list(tensor_infos)
        self.revision = 0

    def push_revision(self) -> None:
        """Raises the revision by one."""
        self.revision += 1

    def save(self, path: Any, metadata: "dict[str, str] | None" = None) -> None:
        """Writes all tensors to a safetensors file, with the revision among its metadata (``"revision"``). The file is
        replaced when everything is on the disk. Raises ``OSError``.
        """
        from .safetensors import save_state

        save_state(self._infos, path, {**(metadata or {}), "revision": str(self.revision)})

    def load(self, path: Any) -> "dict[str, str]":
        """Fills the tensors from a safetensors file that has exactly these, by names, element types and numbers of
        elements; takes its revision if it has one (so does what ``pccl checkpoint restore --output`` writes), and returns
        its metadata. Raises ``ValueError`` if the file is not whole or has other tensors; nothing has been changed then.
        """
        from .safetensors import load_state

        metadata = load_state(self._infos, path)
        self.revision = int(metadata.get("revision", self.revision))
        return metadata


class SharedStateSyncInfo:
    """How a synchronization went: bytes sent and received, and the names of the tensors that were written to."""

    def __init__(self, tx_bytes: int, rx_bytes: int, changed: "tuple[str, ...]" = ()):
        self.tx_bytes = tx_bytes
        self.rx_bytes = rx_bytes
        self.changed = changed


class ReduceInfo:
    """How an op went: peers that took part, bytes sent and received, recoveries inside the call."""

    def __init__(self, local_world_size: int, tx_bytes: int, rx_bytes: int, recoveries: int = 0):
        self.local_world_size = local_world_size
        self.tx_bytes = tx_bytes
        self.rx_bytes = rx_bytes
        self.recoveries = recoveries

    def __repr__(self) -> str:
        return (
            f"ReduceInfo(local_world_size={self.local_world_size}, tx_bytes={self.tx_bytes}, "
            f"rx_bytes={self.rx_bytes}, recoveries={self.recoveries})"
        )
