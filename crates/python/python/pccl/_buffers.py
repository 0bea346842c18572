"""Addresses of other packages' tensors, without copies."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from ._types import DataType, DeviceType


class _PyBuffer(ctypes.Structure):
    """``Py_buffer``."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


class _DLTensor(ctypes.Structure):
    """``DLTensor``, the first field of ``DLManagedTensor``."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_C_CONTIGUOUS, _FORMAT, _WRITABLE = 0x38, 0x4, 0x1
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = ctypes.c_void_p

_INTEGERS = {"b": "int", "h": "int", "i": "int", "l": "int", "q": "int", "n": "int"}
_UNSIGNED = {"B": "uint", "H": "uint", "I": "uint", "L": "uint", "Q": "uint", "N": "uint", "?": "uint", "c": "uint"}
_FLOATS = {"e": "float", "f": "float", "d": "float"}
_KINDS = {**_INTEGERS, **_UNSIGNED, **_FLOATS}
#: What a format may begin with if its elements are in native byte order: `ctypes` says so in so many words.
_NATIVE = "@=<" if sys.byteorder == "little" else "@=>!"
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "uint"}
_DLPACK_CPU = (1, 3)
#: Memory of a device, and such as the driver moves between it and main memory.
_DLPACK_CUDA = (2, 13)


class Buffer:
    """Elements in memory: ``address``, ``nbytes``, ``count``, ``dtype``, ``shape``; what owns them is kept.

    With ``on_device`` they may be in the memory of a CUDA device, as ``device`` says.
    """

    __slots__ = ("address", "nbytes", "count", "device", "dtype", "shape", "_owner", "_view")

    def __init__(self, tensor: Any, *, writable: bool, on_device: bool = False):
        self._owner = tensor
        #: What else keeps the elements where they are.
        self._view: Any = None
        self.device = DeviceType.CPU
        if hasattr(tensor, "data_ptr") and hasattr(tensor, "is_contiguous"):
            self._torch(tensor, on_device)
        elif hasattr(tensor, "__array_interface__") and hasattr(tensor, "flags"):
            self._numpy(tensor, writable)
        elif hasattr(tensor, "__dlpack__"):
            self._dlpack(tensor, on_device)
        else:
            self._buffer_protocol(tensor, writable)
        self.nbytes = self.count * self.dtype.itemsize

    def _torch(self, tensor: Any, on_device: bool) -> None:
        if on_device and tensor.device.type == "cuda":
            self.device = DeviceType.CUDA
        elif tensor.device.type != "cpu":
            raise ValueError(f"Only CPU tensors are supported, this one is on {tensor.device}")
        if not tensor.is_contiguous():
            raise ValueError("The tensor must be contiguous")
        # The elements stay, also if the tensor is given others meanwhile (`tensor.data = …`).
        self._view = tensor.detach()
        self.address = tensor.data_ptr()
        self.count = tensor.numel()
        self.shape = tuple(tensor.shape)
        self.dtype = DataType.from_torch_dtype(tensor.dtype)

    def _numpy(self, array: Any, writable: bool) -> None:
        if not array.flags.c_contiguous:
            raise ValueError("The array must be contiguous")
        if writable and not array.flags.writeable:
            raise ValueError("The array is read-only")
        if not hasattr(array, "__setitem__"):
            # A scalar, say the result of `mean()`, has no elements that stay: every look at it makes new ones.
            array = self._view = array.__array__()
        self.address = array.__array_interface__["data"][0]
        self.count = array.size
        self.shape = array.shape
        self.dtype = DataType.from_numpy_dtype(array.dtype)

    def _dlpack(self, tensor: Any, on_device: bool) -> None:
        device, _ = tensor.__dlpack_device__()
        if on_device and device in _DLPACK_CUDA:
            self.device = DeviceType.CUDA
        elif device not in _DLPACK_CPU:
            raise ValueError(f"Only CPU tensors are supported, this one is on DLPack device {int(device)}")
        capsule = tensor.__dlpack__()
        found = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
        shape = [found.shape[i] for i in range(found.ndim)]
        if found.strides:
            expected = 1
            for i in reversed(range(found.ndim)):
                if shape[i] > 1 and found.strides[i] != expected:
                    raise ValueError("The tensor must be contiguous")
                expected *= shape[i]
        kind = _DLPACK_KINDS.get(found.code, f"dlpack{found.code}_")
        self.dtype = DataType._named(f"{kind}{found.bits}" if found.lanes == 1 else "vectors")
        self.shape = tuple(shape)
        self.count = 1
        for n in shape:
            self.count *= n
        self.address = (found.data or 0) + found.byte_offset
        # The capsule's own destructor gives the tensor back.
        self._view = capsule

    def _buffer_protocol(self, tensor: Any, writable: bool) -> None:
        view = _PyBuffer()
        try:
            _get_buffer(tensor, ctypes.byref(view), _C_CONTIGUOUS | _FORMAT | (_WRITABLE if writable else 0))
        except TypeError:
            what = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
            raise ValueError(
                f"Unsupported input type: {what}; give a torch.Tensor, a numpy.ndarray, or anything with DLPack or the "
                "buffer protocol"
            ) from None
        except BufferError as error:
            raise ValueError(f"The buffer cannot be used: {error}") from None
        # Released when it is thrown away, also after the error below.
        self._view = _View(view)
        spelled = (view.format or b"B").decode()
        kind = _KINDS.get(spelled.lstrip(_NATIVE))
        if kind is None:
            raise ValueError(f"Unsupported dtype: buffer format {spelled!r}")
        self.dtype = DataType._named(f"{kind}{8 * view.itemsize}")
        self.count = view.len // view.itemsize
        self.shape = memoryview(tensor).shape or ()
        self.address = view.buf or 0


class _View:
    """Releases a view of a buffer."""

    __slots__ = ("_view",)

    def __init__(self, view: _PyBuffer):
        self._view = view

    def __del__(self) -> None:
        _release_buffer(ctypes.byref(self._view))


def pair(send: Any, recv: Any) -> "tuple[Buffer, Buffer]":
    """Input and output of an op, alike; the same if there is no ``recv``."""
    output = Buffer(send if recv is None else recv, writable=True)
    if recv is None or recv is send:
        return output, output
    source = Buffer(send, writable=False)
    if source.dtype is not output.dtype:
        raise ValueError(
            f"Input and output tensors must have the same dtype, not {source.dtype.name} and {output.dtype.name}"
        )
    if source.count != output.count:
        raise ValueError(
            f"Input and output tensors must have the same number of elements, not {source.count} and {output.count}"
        )
    if source.address != output.address:
        check_apart(source, output)
    return source, output


def check_apart(a: Buffer, b: Buffer) -> None:
    """Refuses buffers that overlap."""
    if a.address < b.address + b.nbytes and b.address < a.address + a.nbytes and a.nbytes and b.nbytes:
        raise ValueError("Input and output tensors overlap: give the same tensor for both, or none in common")
