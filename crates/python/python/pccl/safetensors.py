"""Tensors in files, in the format of the package ``safetensors``: what it writes is read here, and the reverse.

For the tensors of a :class:`pccl.SharedState` there are :meth:`pccl.SharedState.save` and :meth:`pccl.SharedState.load`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from typing import Any, Mapping, Optional, Union

from . import _native
from ._buffers import Buffer
from ._types import DeviceType

__all__ = ["load_file", "read_metadata", "save_file"]

Path = Union[str, "os.PathLike[str]"]

#: Names of element types in the files, and in NumPy and PyTorch.
_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
_STORED = {name: stored for stored, name in _TYPES.items()}


def save_file(tensors: "Mapping[str, Any]", path: Path, metadata: "Optional[Mapping[str, str]]" = None) -> None:
    """Writes tensors by name (``model.state_dict()``): whatever :meth:`Communicator.all_reduce` takes, and PyTorch's and
    NumPy's booleans, ``complex64`` and 8-bit floats. They are written from where they are; only tensors that are not
    contiguous or not in main memory are copied first. Tensors that share memory are written once each.

    ``path`` is replaced when everything is written and on the disk: whoever reads it, also after a crash, finds the old
    file or the new one. Raises ``ValueError`` for what cannot be written, ``OSError`` if the disk does not take it.
    """
    kept = {name: _Source(tensor) for name, tensor in tensors.items()}
    _write(path, [(name, *source.where) for name, source in kept.items()], metadata)


def load_file(path: Path, framework: str = "torch") -> "dict[str, Any]":
    """The tensors of a file, for ``"torch"`` or ``"numpy"`` (``bfloat16`` and 8-bit floats then come with the package
    ``ml_dtypes``).

    Nothing is copied: the tensors are pages of the file, read when they are used. They can be written to, which does not
    change the file; and while they are in use, the file may be replaced, as :func:`save_file` does, but must not be cut.
    Raises ``ValueError`` with the path and the reason if the file is not whole.
    """
    make = {"torch": _to_torch, "numpy": _to_numpy}.get(framework)
    if make is None:
        raise ValueError(f'the framework is {framework!r}, neither "torch" nor "numpy"')
    file = File(path)
    return {name: make(file, *where) for name, where in file.tensors.items()}


def read_metadata(path: Path) -> "dict[str, str]":
    """The texts that were saved with the tensors."""
    return File(path).metadata


class File:
    """A mapped file: ``metadata``, and of each tensor element type, shape, place in the file and bytes."""

    def __init__(self, path: Path):
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # Private pages: writing to them does not write to the file. Nothing cannot be mapped.
            self.pages: Any = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) if size else bytearray(0)
        self._held = Buffer(self.pages, writable=True)
        try:
            self.metadata, tensors = _native.read_safetensors(self._held.address, size)
        except ValueError as error:
            raise self.refused(str(error)) from None
        self.tensors = {name: (dtype, tuple(shape), at, nbytes) for name, dtype, shape, at, nbytes in tensors}

    def refused(self, why: str) -> ValueError:
        return ValueError(f"failed to read {self.path}: {why}")

    def address(self, at: int) -> int:
        found: int = self._held.address + at
        return found


class _Source:
    """A tensor that is written: ``where`` are element type, shape, address and bytes."""

    def __init__(self, tensor: Any):
        if hasattr(tensor, "data_ptr") and hasattr(tensor, "is_contiguous"):
            tensor = tensor.detach().cpu().contiguous()
            name, shape = str(tensor.dtype).replace("torch.", "", 1), tensor.shape
            address, nbytes = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        elif hasattr(tensor, "__array_interface__") and hasattr(tensor, "flags"):
            # A scalar has no elements that stay where they are.
            tensor = tensor if hasattr(tensor, "__setitem__") else tensor.__array__()
            tensor, shape = tensor if tensor.flags.c_contiguous else tensor.copy(order="C"), tensor.shape
            name = tensor.dtype.name if tensor.dtype.isnative else str(tensor.dtype)
            address, nbytes = tensor.__array_interface__["data"][0], tensor.nbytes
        else:
            tensor = Buffer(tensor, writable=False)
            name, shape, address, nbytes = tensor.dtype._array_name, tensor.shape, tensor.address, tensor.nbytes
        self._keep = tensor
        # The native module says which tensor it is.
        self.where = (_STORED.get(name, name), list(shape), address, nbytes)


def save_state(infos: "list[Any]", path: Path, metadata: "Mapping[str, str]") -> None:
    """What :meth:`pccl.SharedState.save` does."""
    for info in infos:
        _check_in_memory(info)
    tensors = [
        (one.name, _STORED[one.dtype._array_name], list(one.shape), one.data_ptr, one.numel * one.dtype.itemsize)
        for one in infos
    ]
    _write(path, tensors, metadata)


def load_state(infos: "list[Any]", path: Path) -> "dict[str, str]":
    """What :meth:`pccl.SharedState.load` does."""
    file = File(path)
    revision = file.metadata.get("revision", "0")
    if not revision.isdecimal():
        raise file.refused(f"its revision is {revision!r}, not a number")
    left, copies = dict(file.tensors), []
    for info in infos:
        _check_in_memory(info)
        wanted = _STORED[info.dtype._array_name], info.numel * info.dtype.itemsize
        if info.name not in left:
            raise file.refused(f'it has no tensor "{info.name}"')
        stored, _, at, nbytes = left.pop(info.name)
        if (stored, nbytes) != wanted:
            raise file.refused(
                f'tensor "{info.name}" has {nbytes} bytes of {stored} there and {wanted[1]} of {wanted[0]} here'
            )
        copies.append((info.data_ptr, file.address(at), nbytes))
    for name in left:
        raise file.refused(f'there is no tensor "{name}" here')
    for copy in copies:
        ctypes.memmove(*copy)
    return file.metadata


def _check_in_memory(info: Any) -> None:
    if info.device_type is not DeviceType.CPU:
        raise ValueError(f'tensor "{info.name}" is not in main memory')


def _write(path: Path, tensors: "list[Any]", metadata: "Optional[Mapping[str, str]]") -> None:
    path = os.fspath(path)
    folder, name = os.path.split(os.path.abspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(f"failed to write {path}: it is a directory")
    # Beside it, because only within a file system a file is replaced in one step.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as beside:
        made = os.path.join(beside, "tensors")
        with open(made, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # what this process gives to new files
        _native.write_safetensors(made, tensors, dict(metadata or {}))
        os.chmod(made, mode)
        _put_on_disk(made)
        os.replace(made, path)
    _put_on_disk(folder)


def _put_on_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_numpy(file: File, stored: str, shape: "tuple[int, ...]", at: int, nbytes: int) -> Any:
    import numpy

    name = _TYPES.get(stored)
    if name is None:
        raise file.refused(f"NumPy has no {stored}")
    if name.startswith(("bfloat", "float8")):
        import ml_dtypes

        dtype = numpy.dtype(getattr(ml_dtypes, name))
    else:
        dtype = numpy.dtype(name)
    found = numpy.frombuffer(file.pages, dtype=numpy.uint8, count=nbytes, offset=at)
    # Other programs may have put it where the element type must not be.
    return (found.copy() if at % dtype.alignment else found).view(dtype).reshape(shape)


def _to_torch(file: File, stored: str, shape: "tuple[int, ...]", at: int, nbytes: int) -> Any:
    import torch

    dtype = getattr(torch, _TYPES.get(stored, ""), None)
    if dtype is None:
        raise file.refused(f"this version of PyTorch has no {_TYPES.get(stored, stored)}")
    if nbytes == 0:
        return torch.empty(shape, dtype=dtype)
    found = torch.frombuffer(file.pages, dtype=torch.uint8, count=nbytes, offset=at)
    aligned = at % torch.empty(0, dtype=dtype).element_size() == 0
    return (found if aligned else found.clone()).view(dtype).reshape(shape)
