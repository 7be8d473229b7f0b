"""Training on large bags: the same gradients in pieces, and memory as stated."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from microtome.tasks.mil import model as models
from microtome.tasks.mil.names import MODELS
from microtome.tasks.mil.train import TrainOptions, new_model


@pytest.mark.parametrize("name", MODELS)
def test_gradients_in_pieces_are_those_of_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = new_model(TrainOptions(model=name, width=6, n_gates=4, dropout=0.0), 7, 2).eval()
    bag, found = torch.randn(50, 7), []
    for piece, kept in ((50, 0), (11, 0), (11, models.KEPT)):
        monkeypatch.setattr(models, "PIECE", piece)
        monkeypatch.setattr(models, "KEPT", kept)
        model.zero_grad()
        model.losses(bag, [30, 20], torch.tensor([0, 1])).sum().backward()
        found.append([weight.grad.clone() for weight in model.parameters()])
    for whole, *others in zip(*found, strict=True):
        for pieces in others:
            torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-4)


def kept_for_gradients(n: int, d: int) -> int:
    """Bytes that autograd keeps of a step of gated attention, beside the bag and the weights."""
    torch.manual_seed(0)
    model = new_model(TrainOptions(), d, 2).train()
    bag = torch.randn(n, d)
    known = {t.untyped_storage().data_ptr() for t in (bag, *model.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.losses(bag, [n], torch.tensor([1])).sum()
    loss.backward()
    return sum(kept.values())


def test_what_gradients_need_grows_with_instances_and_not_with_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for what is kept of small bags, which would be made again for nothing."""
    monkeypatch.setattr(models, "KEPT", 0)
    once, twice = kept_for_gradients(20_000, 64), kept_for_gradients(40_000, 64)
    assert twice == pytest.approx(2 * once, rel=0.05)
    assert kept_for_gradients(20_000, 512) == pytest.approx(once, rel=0.05)


_MEASURE = """
from pathlib import Path
import torch
from microtome.tasks.mil.train import TrainOptions, new_model

def peak_kib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

torch.set_num_threads(1)
model = new_model(TrainOptions(), 1536, 2).train()
bag = torch.rand(200_000, 1536)
model.losses(bag[:10], [10], torch.tensor([1])).sum().backward()
before = peak_kib()
model.losses(bag, [len(bag)], torch.tensor([1])).sum().backward()
print(peak_kib() - before)
"""


@pytest.mark.slow
def test_a_step_on_a_large_bag_fits_the_memory_that_is_stated() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 0.75 * 1024**2
