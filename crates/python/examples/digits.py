"""Handwritten digits (1797 pictures of 8 × 8, from scikit-learn), and a network that reads them."""

import hashlib

import numpy as np
import torch

#: Pictures that are kept for the test.
TEST = 360


def save(path: str) -> None:
    """Writes the pictures to a file, so that the workers need not import scikit-learn."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    np.savez(path, x=(x[order] / 16).astype(np.float32), y=y[order].astype(np.int64))


class Digits:
    """Pictures and their digits: ``x``, ``y`` to train, ``test_x``, ``test_y`` to test."""

    def __init__(self, path: str):
        with np.load(path) as found:
            x, y = torch.from_numpy(found["x"]), torch.from_numpy(found["y"])
        self.x, self.y, self.test_x, self.test_y = x[TEST:], y[TEST:], x[:TEST], y[:TEST]

    def batch(self, step: int, rank: int, size: int = 32) -> "tuple[torch.Tensor, torch.Tensor]":
        """What a peer trains on in a step: every peer something else."""
        chosen = torch.randint(len(self.x), (size,), generator=torch.Generator().manual_seed(step * 1009 + rank))
        return self.x[chosen], self.y[chosen]

    def loss(self, model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(self.x), self.y))

    def accuracy(self, model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float((model(self.test_x).argmax(1) == self.test_y).float().mean())


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10))


def fingerprint(model: torch.nn.Module) -> str:
    """Of every bit of the parameters."""
    bits = hashlib.sha256()
    for parameter in model.parameters():
        bits.update(parameter.detach().numpy().tobytes())
    return bits.hexdigest()
