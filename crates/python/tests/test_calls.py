"""What one process can see."""

import ctypes
import pickle

import numpy as np
import pytest
import torch

import pccl
from pccl._buffers import Buffer


def test_errors_name_code_class_and_reason(alone):
    with pytest.raises(pccl.RetryError, match="TOO_FEW_PEERS.*fewer than 2") as caught:
        alone.all_reduce(np.ones(3))
    assert caught.value.result is pccl.Result.TOO_FEW_PEERS
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.result) == (pccl.RetryError, str(caught.value), caught.value.result)
    with pytest.raises(pccl.FatalError, match="connected already"):
        alone.connect()
    with pytest.raises(pccl.PCCLError):
        alone.optimize_topology()


def test_without_a_connection_every_call_says_so():
    comm = pccl.Communicator("127.0.0.1:9")
    state = pccl.SharedState([pccl.TensorInfo.from_numpy(np.ones(2), "x")])
    for call in (
        comm.update_topology,
        comm.are_peers_pending,
        comm.optimize_topology,
        comm.barrier,
        lambda: comm.all_reduce(np.ones(2)),
        lambda: comm.sync_shared_state(state),
        lambda: comm.get_attribute(pccl.Attribute.GLOBAL_WORLD_SIZE),
    ):
        with pytest.raises(pccl.FatalError, match="not connected"):
            call()
    assert not comm.is_connected
    comm.close()


def test_a_master_that_is_not_there_is_named():
    comm = pccl.Communicator("127.0.0.1:9", connect_timeout_ms=100)
    with pytest.raises(pccl.RetryError, match=r"127\.0\.0\.1:9") as caught:
        comm.connect(n_attempts=1)
    assert caught.value.result is pccl.Result.MASTER_CONNECTION_FAILED


def test_one_peer_leaves_and_joins_again(alone):
    assert (alone.world_size, alone.rank) == (1, 0)
    assert alone.are_peers_pending() is False
    alone.update_topology()
    state = pccl.SharedState([pccl.TensorInfo.from_numpy(np.ones(2), "x")])
    state.push_revision()
    assert alone.sync_shared_state(state).tx_bytes == 0
    first = alone.membership.session
    alone.leave()
    assert not alone.is_connected
    alone.connect()
    assert alone.membership.session != first


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1", "127.0.0.1:", ":7", "127.0.0.1:99999", "h:x"])
def test_addresses_without_host_or_port_are_refused(address):
    with pytest.raises(ValueError, match="expected format"):
        pccl.Communicator(address)
    with pytest.raises(ValueError, match="expected format"):
        pccl.MasterNode(address)


@pytest.mark.parametrize("spelled", ["[::1]:0", "::1:0"])
def test_ipv6(spelled):
    with pccl.MasterNode(spelled) as master, pccl.Communicator(f"[::1]:{master.port}") as comm:
        assert comm.world_size == 1


def test_a_master_is_told_what_it_may_do():
    master = pccl.MasterNode("127.0.0.1:0")
    with pytest.raises(pccl.FatalError, match="not running"):
        master.interrupt()
    with master:
        with pytest.raises(pccl.FatalError, match="already"):
            master.run()
        with pytest.raises(pccl.PCCLError, match="failed to listen"):
            pccl.MasterNode(f"127.0.0.1:{master.port}").run()


def test_options_are_those_of_the_configuration():
    for options in ({"algorithm": "magic"}, {"network.sit": "x"}, {"network.heartbeat_timeout_ms": "soon"}):
        with pytest.raises(pccl.FatalError):
            pccl.Communicator("127.0.0.1:9", **options)
    pccl.Communicator("127.0.0.1:9", algorithm="ring", **{"network.site": "fra"})


@pytest.mark.parametrize(
    "bad, why",
    [
        (np.ones((4, 4))[:, 1], "contiguous"),
        (np.ones(4, dtype=">f4"), "byte order"),
        (np.ones(4, dtype=complex), "complex128"),
        (np.broadcast_to(np.ones(1), (4,)), "contiguous|read-only"),
        (torch.ones(4, 4).t(), "contiguous"),
        (torch.ones(4, device="meta"), "CPU"),
        (b"constant", "cannot be used"),
        ("text", "Unsupported input type: builtins.str"),
        ([1.0, 2.0], "Unsupported input type"),
        (None, "Unsupported input type"),
    ],
)
def test_what_cannot_be_reduced_is_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        Buffer(bad, writable=True)


def test_pairs_must_be_alike(alone):
    for send, recv, why in (
        (np.ones(4), np.ones(5), "number of elements"),
        (np.ones(4), np.ones(4, dtype=np.float32), "same dtype"),
        ((whole := np.ones(8))[:5], whole[3:], "overlap"),
    ):
        with pytest.raises(ValueError, match=why):
            alone.all_reduce(send, recv)


def test_data_types_translate_both_ways():
    for dtype in pccl.DataType:
        assert pccl.DataType.from_numpy_dtype(dtype.to_numpy_dtype()) is dtype
        assert dtype.itemsize == dtype.to_numpy_dtype().itemsize
        if hasattr(torch, dtype.to_numpy_dtype().name):
            assert pccl.DataType.from_torch_dtype(dtype.to_torch_dtype()) is dtype
    with pytest.raises(ValueError, match="Unsupported dtype"):
        pccl.DataType.from_torch_dtype(torch.complex64)


def test_a_null_pointer_is_refused(alone):
    with pytest.raises(ValueError, match="nullptr"):
        pccl.TensorInfo("x", 0, numel=1, dtype=pccl.DataType.FLOAT)
    operand = pccl.ReduceOperandDescriptor(pccl.DataType.FLOAT)
    plain = pccl.QuantizationOptions(pccl.DataType.FLOAT, pccl.QuantizationAlgorithm.NONE)
    what = pccl.ReduceDescriptor(4, pccl.ReduceOp.SUM, 1, operand, plain)
    with pytest.raises(pccl.FatalError, match="null"):
        alone.all_reduce_multiple_with_retry([pccl.ReduceOpDescriptor(0, 0, what)])
    with pytest.raises(pccl.FatalError, match="two of the ops"):
        alone.all_reduce_multiple_with_retry([pccl.ReduceOpDescriptor(8, 8, what)] * 2)


class OnDevice:
    """What PyTorch tells of a tensor on a CUDA device; no driver knows of it."""

    device = torch.device("cuda", 0)
    dtype = torch.float32
    shape = (3,)

    def data_ptr(self):
        return 0x1000

    def is_contiguous(self):
        return True

    def numel(self):
        return 3


def driver_is_there():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_tensors_on_cuda_devices_are_for_shared_state_only(alone):
    assert pccl.cuda.is_available() == driver_is_there()
    info = pccl.TensorInfo.from_torch(OnDevice(), "weights")
    assert info.device_type is pccl.DeviceType.CUDA
    with pytest.raises(ValueError, match="Only CPU tensors.*cuda:0"):
        alone.all_reduce(OnDevice())
    state = pccl.SharedState([info])
    state.push_revision()
    with pytest.raises(pccl.FatalError, match='"weights".*CUDA') as caught:
        alone.sync_shared_state(state)
    assert caught.value.result is pccl.Result.INVALID_ARGUMENT
    with pytest.raises(ValueError, match='"weights" is not in main memory'):
        state.save("nowhere")
    if torch.cuda.is_available():
        real = pccl.SharedState([pccl.TensorInfo.from_torch(torch.ones(5, device="cuda"), "weights")])
        real.push_revision()
        assert alone.sync_shared_state(real).changed == ()


def test_a_wait_that_was_interrupted_has_lost_its_op():
    class Pending:
        """As the native one, which gives its op to the first wait."""

        waited = False

        def wait(self):
            if not self.waited:
                self.waited = True
                raise KeyboardInterrupt
            return None

    handle = pccl.AsyncReduceHandle(Pending())
    with pytest.raises(KeyboardInterrupt):
        handle.wait()
    assert handle.wait() == (False, pccl.Result.RANK_CONNECTION_LOST.value, None)
    with pytest.raises(pccl.ReconfigureError, match="interrupted"):
        handle.result()
