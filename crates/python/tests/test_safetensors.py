"""Files of tensors, beside the package ``safetensors``."""

import os
import stat
import threading

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import pccl

NUMPY = {
    "vector": np.arange(7, dtype=np.float32),
    "matrix": np.arange(6, dtype=np.int16).reshape(2, 3),
    "scalar": np.array(2.5),
    "nothing": np.zeros((0, 3), dtype=np.uint64),
    "flags": np.array([True, False, True]),
    "wide": np.arange(4, dtype=np.complex64),
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
}
TORCH = {
    "vector": torch.arange(7.0),
    "brain": torch.arange(6.0).to(torch.bfloat16).reshape(3, 2),
    "scalar": torch.tensor(3),
    "nothing": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
}


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, one in ours.items():
        other = theirs[name]
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert one.tolist() == other.tolist(), name


def test_what_we_write_the_package_reads(tmp_path):
    path = tmp_path / "numpy.safetensors"
    pccl.safetensors.save_file(NUMPY, path, {"step": "7"})
    same(NUMPY, safetensors.numpy.load_file(path))
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"step": "7"}
    pccl.safetensors.save_file(TORCH, path)
    same(TORCH, safetensors.torch.load_file(path))


def test_what_the_package_writes_we_read(tmp_path):
    path = tmp_path / "file.safetensors"
    safetensors.numpy.save_file(NUMPY, path, {"step": "7"})
    same(NUMPY, pccl.safetensors.load_file(path, "numpy"))
    assert pccl.safetensors.read_metadata(path) == {"step": "7"}
    safetensors.torch.save_file(TORCH, path)
    same(TORCH, pccl.safetensors.load_file(path))
    with pytest.raises(ValueError, match="jax"):
        pccl.safetensors.load_file(path, "jax")


def test_floats_of_eight_bits_come_back(tmp_path):
    path = tmp_path / "file.safetensors"
    tiny = {"x": np.arange(5).astype(ml_dtypes.float8_e4m3fn)}
    pccl.safetensors.save_file(tiny, path)
    same(tiny, pccl.safetensors.load_file(path, "numpy"))
    if not hasattr(torch, "float8_e4m3fn"):
        with pytest.raises(ValueError, match="no float8_e4m3fn"):
            pccl.safetensors.load_file(path)


def test_a_model_goes_to_a_file_and_back(tmp_path):
    path = tmp_path / "model.safetensors"
    trained, fresh = (torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4)) for _ in range(2))
    trained.to(memory_format=torch.channels_last)  # not contiguous
    assert not trained[0].weight.is_contiguous()
    pccl.safetensors.save_file(trained.state_dict(), path)
    fresh.load_state_dict(pccl.safetensors.load_file(path))
    same(trained.state_dict(), fresh.state_dict())


def test_whatever_has_a_buffer_is_written(tmp_path):
    path = tmp_path / "file.safetensors"
    grid = memoryview(bytearray(range(6))).cast("B", (2, 3))
    pccl.safetensors.save_file({"grid": grid, "bytes": bytes(3)}, path)
    found = pccl.safetensors.load_file(path, "numpy")
    assert found["grid"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["bytes"].tolist() == [0, 0, 0]


def test_scalars_are_written_each_with_its_value(tmp_path):
    pccl.safetensors.save_file({str(i): np.float32(i) for i in range(5)}, tmp_path / "scalars")
    found = pccl.safetensors.load_file(tmp_path / "scalars", "numpy")
    assert {name: (x.shape, x.item()) for name, x in found.items()} == {str(i): ((), float(i)) for i in range(5)}


def test_what_is_loaded_is_the_file_itself_and_may_be_written_to(tmp_path):
    path = tmp_path / "file.safetensors"
    pccl.safetensors.save_file({"x": np.zeros(100), "y": np.zeros(100)}, path)
    before = path.read_bytes()
    first = pccl.safetensors.load_file(path, "numpy")
    assert not first["x"].flags.owndata and first["x"].base is not None
    # Replaced while it is in use.
    pccl.safetensors.save_file({"x": np.ones(100), "y": np.ones(100)}, path)
    assert (first["x"] == 0).all() and (first["y"] == 0).all()
    first["x"][:] = 5
    pccl.safetensors.load_file(path)["x"][:] = 5
    assert (pccl.safetensors.load_file(path)["x"] == 1).all() and len(before) == path.stat().st_size


def test_a_file_that_other_programs_wrote_without_alignment_is_read(tmp_path):
    path = tmp_path / "file.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   '
    assert len(header) % 4 != 0
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([1, 2], np.float32).tobytes())
    assert pccl.safetensors.load_file(path)["x"].tolist() == [1, 2]
    assert pccl.safetensors.load_file(path, "numpy")["x"].tolist() == [1, 2]


def test_a_file_that_is_cut_off_anywhere_is_refused_with_one_reason(tmp_path):
    path = tmp_path / "model.safetensors"
    pccl.safetensors.save_file({"x": np.arange(5, dtype=np.int32)}, path)
    whole = path.read_bytes()
    state = pccl.SharedState([pccl.TensorInfo.of(np.zeros(5, dtype=np.int32), "x")])
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        for read in (pccl.safetensors.load_file, pccl.safetensors.read_metadata, state.load):
            with pytest.raises(ValueError, match=r"failed to read .*/model\.safetensors: .* cut off") as caught:
                read(path)
            assert "\n" not in str(caught.value) and caught.value.__cause__ is None
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="written to"):
        pccl.safetensors.load_file(path)


@pytest.mark.parametrize("junk", [b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0\xff\xff", b"PK" * 50])
def test_what_is_no_such_file_is_refused(tmp_path, junk):
    path = tmp_path / "junk"
    path.write_bytes(junk)
    with pytest.raises(ValueError, match="no safetensors file"):
        pccl.safetensors.load_file(path)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.safetensors"
    pccl.safetensors.save_file({"x": np.ones(3)}, path)
    for bad, why in (
        ({"x": np.ones(3), "y": np.ones(3, dtype=complex)}, '"y".*complex128'),
        ({"y": np.ones(3, dtype=">f4")}, '"y".*>f4'),
        ({"y": "text"}, "Unsupported input type"),
    ):
        with pytest.raises(ValueError, match=why):
            pccl.safetensors.save_file(bad, path)
    with pytest.raises(OSError):
        pccl.safetensors.save_file({"x": np.ones(3)}, tmp_path / "nowhere" / "file")
    with pytest.raises(IsADirectoryError):
        pccl.safetensors.save_file({"x": np.ones(3)}, tmp_path)
    assert pccl.safetensors.load_file(path)["x"].tolist() == [1, 1, 1]
    assert os.listdir(tmp_path) == ["file.safetensors"]


def test_a_file_is_whole_at_every_moment_and_readable_like_others(tmp_path):
    path, other = tmp_path / "file.safetensors", tmp_path / "other"
    other.write_text("")
    pccl.safetensors.save_file({"x": np.zeros(100_000)}, path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    written = threading.Event()

    def write():
        for i in range(20):
            pccl.safetensors.save_file({"x": np.full(100_000, float(i))}, path)
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not written.is_set():
        x = pccl.safetensors.load_file(path, "numpy")["x"]
        assert (x == x[0]).all()
    writer.join()


def test_a_shared_state_is_saved_and_loaded_in_place(tmp_path, alone):
    path = tmp_path / "state.safetensors"
    weights, steps = torch.arange(12.0).reshape(3, 4), np.array([5, 6])

    def state_of(a, b):
        return pccl.SharedState([pccl.TensorInfo.of(a, "weights"), pccl.TensorInfo.of(b, "steps")])

    state = state_of(weights, steps)
    state.revision = 41
    state.push_revision()
    alone.sync_shared_state(state)
    state.save(path, {"note": "before lunch"})
    assert safetensors.torch.load_file(path)["weights"].shape == (3, 4)

    found = torch.zeros(3, 4), np.zeros(2, dtype=np.int64)
    resumed = state_of(*found)
    assert resumed.load(path) == {"note": "before lunch", "revision": "42"}
    assert resumed.revision == 42
    assert torch.equal(found[0], weights) and (found[1] == steps).all()

    for other, why in (
        (state_of(torch.zeros(3, 5), np.zeros(2, dtype=np.int64)), '"weights" has 48 bytes of F32 there and 60 of F32'),
        (state_of(torch.zeros(12), np.zeros(2)), '"steps" has 16 bytes of I64 there and 16 of F64'),
        (pccl.SharedState([pccl.TensorInfo.of(torch.zeros(12), "weights")]), 'no tensor "steps" here'),
        (pccl.SharedState([pccl.TensorInfo.of(torch.zeros(12), "w")]), 'has no tensor "w"'),
    ):
        with pytest.raises(ValueError, match=why):
            other.load(path)
        assert other.revision == 0
