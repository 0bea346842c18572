"""DiLoCo as one process can see it; see `test_fleet.py` for the rest."""

import copy

import pytest
import torch

import pccl
from pccl._diloco import _cut


def trained(comm, steps, **options):
    """A model whose parameters an inner optimizer has moved by 1 in each step."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    outer = pccl.DiLoCo(comm, model.parameters(), **options)
    ended = []
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        ended.append(outer.step())
    return model, outer, ended


def test_fragments_are_about_equal_and_keep_the_order():
    sizes = [5, 1, 1, 1, 4, 4, 8]
    parameters = [torch.zeros(n) for n in sizes]
    parts = _cut(parameters, 3)
    assert [[p.numel() for p in part] for part in parts] == [[5, 1, 1, 1], [4, 4], [8]]
    assert [p for part in parts for p in part] == parameters
    assert len(_cut([torch.zeros(1000), torch.zeros(1)], 4)) == 2
    assert _cut([], 2) == [[]]


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("fragments", [1, 2, 3])
def test_without_momentum_and_at_full_rate_nothing_that_is_trained_is_lost(alone, fragments, delayed):
    """The outer optimizer then goes exactly where the average is, here that of one peer."""
    options = {"inner_steps": 6, "fragments": fragments, "delayed": delayed, "outer_lr": 1.0, "outer_momentum": 0.0}
    start = [p.clone() for p in trained(alone, 0, **options)[0].parameters()]
    model, outer, ended = trained(alone, 20, **options)
    assert ended == [step % 6 == 0 for step in range(1, 21)]
    for _ in range(2):  # the second time there is nothing left to do
        outer.finish()
        for before, parameter in zip(start, model.parameters()):
            torch.testing.assert_close(parameter.detach(), before.detach() + 20)


def test_what_all_have_alike_goes_to_a_file_and_back(alone, tmp_path):
    path = tmp_path / "outer.safetensors"
    options = {"inner_steps": 2, "fragments": 2, "state": {"step": torch.tensor(5)}}
    model, outer, _ = trained(alone, 6, **options)
    outer.finish()
    pccl.safetensors.save_file(outer.state_dict(), path)
    step = torch.tensor(0)
    other, resumed, _ = trained(alone, 0, **{**options, "state": {"step": step}})
    resumed.load_state_dict(pccl.safetensors.load_file(path))
    assert step == 5
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)
    for name, tensor in outer.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name

    saved = pccl.safetensors.load_file(path)
    for wrong, why in (
        ({**saved, "more": torch.zeros(1)}, '"more" is saved, and not here'),
        ({name: t for name, t in saved.items() if name != "state.step"}, '"state.step" is not saved'),
        ({**saved, "state.step": torch.zeros(())}, '"state.step" is .* of torch.float32 there and .* of torch.int64'),
    ):
        with pytest.raises(ValueError, match=why):
            resumed.load_state_dict(wrong)
    assert step == 5


def test_parameters_that_get_new_elements_are_still_averaged(alone):
    parameter = torch.nn.Parameter(torch.zeros(3))
    outer = pccl.DiLoCo(alone, [parameter], inner_steps=1, outer_lr=1.0, outer_momentum=0.0)
    outer.synchronize()
    torch.nn.utils.vector_to_parameters(torch.ones(3), [parameter])
    assert outer.step()
    assert torch.equal(outer.state_dict()["outer.0"], torch.ones(3)) and torch.equal(parameter.data, torch.ones(3))


def test_a_wrapper_is_copied_with_its_module(alone):
    module = torch.nn.Linear(1, 1)
    copied = copy.copy(pccl.FaultTolerantDDP(module, alone))
    assert copied.module is module and copied.weight is module.weight


def test_what_cannot_be_is_refused(alone):
    for wrong in ({"inner_steps": 0}, {"inner_steps": 2, "fragments": 3}, {"inner_steps": 2, "fragments": 0}):
        with pytest.raises(ValueError, match="not (at least|between)"):
            pccl.DiLoCo(alone, [torch.zeros(2)], **wrong)
