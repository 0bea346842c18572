"""DiLoCo training that survives: ``python diloco.py``.

Four workers train by themselves and average every tenth step how far they have come. One is killed, another one is frozen
and comes back, a new one joins; see ``survival.py``. What a training program has to do for that is all here.
"""

import torch

import pccl
import survival
from digits import Digits, fingerprint, network

STEPS, ROUND = 240, 10


def train(worker: survival.Worker) -> None:
    digits, model = Digits(worker.data), network()
    step = torch.zeros((), dtype=torch.int64)
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    comm = pccl.Communicator(worker.master)
    outer = pccl.DiLoCo(
        comm, model.parameters(), inner_steps=ROUND, outer_lr=0.7, outer_momentum=0.5, state={"step": step}
    )

    def join() -> None:
        while True:
            try:
                comm.connect()
                outer.synchronize()
                return worker.joined(comm)
            except pccl.ReconfigureError:
                continue  # the master takes this worker for lost once more

    join()
    while step < STEPS:
        if int(step) in worker.meetings(STEPS):
            worker.wait_for_all(comm, outer.admit)
        x, y = digits.batch(int(step), comm.rank)
        inner.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        inner.step()
        step.add_(1)
        try:
            if outer.step():
                worker.report(comm, int(step), lambda: digits.loss(model))
        except pccl.ReconfigureError:
            join()  # the others have gone on: take what they have
    worker.finished(fingerprint(model), digits.accuracy(model))
    comm.close()


if __name__ == "__main__":
    survival.main(train, STEPS)
