"""Whether tensors on CUDA devices can be given to :meth:`pccl.Communicator.sync_shared_state`."""

from . import _native


def is_available() -> bool:
    """Whether the driver of CUDA devices is there. That does not mean that a device is: it is not asked, because a process
    that has asked cannot use CUDA in children that it forks."""
    return _native.cuda_support() is None
