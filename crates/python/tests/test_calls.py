"""What one process can see."""

import ctypes
import pickle
import signal
import subprocess
import sys
import threading
import time

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


def test_scalars_and_arrays_of_c_are_read_where_they_are():
    kept = [Buffer(np.float64(i), writable=False) for i in range(5)]
    assert [ctypes.c_double.from_address(one.address).value for one in kept] == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="read-only"):
        Buffer(np.float64(1), writable=True)
    array = (ctypes.c_int16 * 3)(1, 2, 3)
    found = Buffer(array, writable=True)
    assert (found.address, found.count, found.dtype) == (ctypes.addressof(array), 3, pccl.DataType.INT16)


def test_elements_stay_though_their_tensor_gets_others():
    tensor = torch.full((100_000,), 7.0)
    held = Buffer(tensor, writable=True)
    tensor.data = torch.zeros(1)
    others = [torch.zeros(100_000) for _ in range(4)]
    assert ctypes.c_float.from_address(held.address).value == 7.0 and len(others) == 4


def test_a_shared_state_whose_tensor_has_other_elements_is_refused(alone):
    weight = torch.nn.Linear(2, 2).weight
    state = pccl.SharedState([pccl.TensorInfo.from_torch(weight, "weight")])
    state.push_revision()
    alone.sync_shared_state(state)
    weight.data = torch.ones(2, 2)
    with pytest.raises(pccl.FatalError, match='INVALID_ARGUMENT: tensor "weight" has been given other elements'):
        alone.sync_shared_state(state)


def test_a_newcomer_that_is_interrupted_is_no_newcomer_any_more(alone, master):
    program = f"import pccl; c = pccl.Communicator('127.0.0.1:{master.port}'); print(flush=True); c.connect()"
    # A shell starts what runs in its background with the signal ignored.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + program
    hold = "\ninput()"
    caught = f"try:\n  exec({program!r})\nexcept KeyboardInterrupt: print('interrupted', flush=True){hold}"
    newcomer = subprocess.Popen([sys.executable, "-c", caught], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert newcomer.stdout.readline() == "\n"
        while not alone.are_peers_pending():
            time.sleep(0.01)
        newcomer.send_signal(signal.SIGINT)
        assert newcomer.stdout.readline() == "interrupted\n"
        assert not alone.are_peers_pending()
    finally:
        newcomer.kill()
        newcomer.communicate()


def test_two_threads_do_not_connect_at_once(alone, master):
    newcomer = pccl.Communicator(f"127.0.0.1:{master.port}")
    first = threading.Thread(target=newcomer.connect)
    first.start()
    while not alone.are_peers_pending():
        time.sleep(0.01)
    with pytest.raises(pccl.FatalError, match="another thread"):
        newcomer.connect()
    alone.update_topology()
    first.join()
    assert newcomer.world_size == 2
    newcomer.close()


def test_a_descriptor_does_not_reach_beyond_its_tensors():
    x = np.zeros(10, dtype=np.float32)
    for count, dtype in ((11, "FLOAT"), (10, "DOUBLE")):
        operand = pccl.ReduceOperandDescriptor(pccl.DataType[dtype])
        what = pccl.ReduceDescriptor(count, pccl.ReduceOp.SUM, 0, operand, pccl.QuantizationOptions.off())
        with pytest.raises(ValueError, match=f"{count} elements of {dtype}, the tensors have 10 of FLOAT"):
            pccl.ReduceOpDescriptor.from_numpy(x, x, what)


def test_other_threads_may_ask_for_a_master_that_starts():
    # In a process of its own: the threads that would wait for each other for ever are all that there are.
    program = """
import pccl, threading
master, ended = pccl.MasterNode("127.0.0.1:0"), threading.Event()
def ask():
    while not ended.is_set():
        master._native.is_running()
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
for _ in range(3):
    with master: pass
    master = pccl.MasterNode("127.0.0.1:0")
ended.set()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_errors_name_the_call(alone):
    for name, call, why in (
        ("all_gather", lambda: alone.all_gather(np.ones(3), np.ones(2)), "has 16 bytes and needs 24"),
        ("broadcast", lambda: alone.broadcast(np.ones(3), root=1), "rank 1"),
    ):
        with pytest.raises(pccl.FatalError, match=f"^{name} failed with error: INVALID_ARGUMENT.*{why}") as caught:
            call()
        assert caught.value.func_name == name
    assert alone.get_attribute(pccl.Attribute.LOCAL_WORLD_SIZE.value) == 1
    with pytest.raises(ValueError, match="9"):
        alone.get_attribute(9)


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

    def detach(self):
        return self

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
