"""Data-parallel training that survives: ``python data_parallel.py``.

Four workers average their gradients in every step. One is killed, another one is frozen and comes back, a new one joins;
see ``survival.py``. What a training program has to do for that is all here.
"""

import torch

import pccl
import survival
from digits import Digits, fingerprint, network

STEPS = 240


def train(worker: survival.Worker) -> None:
    digits, model = Digits(worker.data), network()
    # Part of the model's state: a newcomer gets it with the parameters.
    step = torch.zeros((), dtype=torch.int64)
    model.register_buffer("step", step)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)  # without state of its own that a newcomer would need
    comm = pccl.Communicator(worker.master)
    parallel = pccl.FaultTolerantDDP(model, comm)

    def join() -> None:
        while True:
            try:
                comm.connect()
                parallel.synchronize()
                return worker.joined(comm)
            except pccl.ReconfigureError:
                continue  # the master takes this worker for lost once more

    join()
    while step < STEPS:
        if int(step) in worker.meetings(STEPS):
            worker.wait_for_all(comm, parallel.admit)
        x, y = digits.batch(int(step), comm.rank)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(parallel(x), y).backward()
        try:
            parallel.average_gradients()
            optimizer.step()
            step.add_(1)
            worker.report(comm, int(step), lambda: digits.loss(model))
            parallel.admit()
        except pccl.ReconfigureError:
            join()  # the others have gone on: take what they have
    worker.finished(fingerprint(model), digits.accuracy(model))
    comm.close()


if __name__ == "__main__":
    survival.main(train, STEPS)
