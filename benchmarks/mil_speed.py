"""Bags per second and memory of bag models: training and prediction, beside torchmil.

Run: ``python benchmarks/mil_speed.py [--quick]`` (about seven minutes; writes docs/benchmarks).
Every figure is of a process of its own, taken in turns; ``--quick`` takes one turn, leaves the
bags of 100,000 out and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from tables import measured_on, table, verdict, write_report
from torch import Tensor, nn

FEATURES, WIDTH, GATES, SECONDS = 512, 64, 32, 0.6
ROUNDS = {"abmil": 3}
OTHER_ROUNDS = 2
MOST_BYTES = 16 * 2**30
"""Of addresses that a process may have: what does not fit is refused, not killed."""
SIZES = (1_000, 10_000, 100_000)
PREPARED = "abmil, torchmil's features standardised before"
SMALL = tuple(1 + 37 * i % 60 for i in range(64))
ABOUT = (
    "Written by `benchmarks/mil_speed.py`: one thread, one run, each figure of a process of its "
    f"own, median of {ROUNDS['abmil']} turns (ABMIL) or {OTHER_ROUNDS}. Bags of {FEATURES} "
    f"features, embedded in {WIDTH} on both sides, raw: features are standardised in the model, "
    "ours doing so itself, torchmil's by a layer before its embedding, but in the rows that say "
    f"otherwise. Attention of {GATES} units, gated in ABMIL; TransMIL with 8 heads, 32 landmarks. "
    "Training is losses, gradients and AdamW; prediction is logits and what is said of each "
    "instance. Memory is the process's peak above what it held with bag and model, torch's own "
    "buffers included. *64 small* is a step of 64 bags of 1 to 60 instances: one after the other "
    "without padding here (softmax and sums over bags are one call for all; TransMIL reads bags "
    "of a size together), padded and masked in torchmil, whose TransMIL takes no mask and so reads "
    "them bag by bag. To say where its class token looks, torchmil's TransMIL multiplies the "
    "attention of all tokens out; here only the class token's row is made. *Out of memory*: more "
    f"than {MOST_BYTES / 2**30:.0f} GiB were asked for."
)


@dataclass(frozen=True)
class Case:
    """What is measured; ``instances`` 0 stands for the small bags."""

    side: str
    model: str
    instances: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.instances,) if self.instances else SMALL


@dataclass(frozen=True)
class Speed:
    """Bags per second and MiB above the start."""

    train: float
    predict: float
    train_mib: float
    predict_mib: float


Work = tuple[Callable[[], Tensor], Callable[[], object], nn.Module]


class Standardise(nn.Module):
    """What our models do themselves with an encoder's features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))

    def forward(self, features: Tensor) -> Tensor:
        standardised: Tensor = (features - self.mean) / self.deviation
        return standardised


def ours(case: Case) -> Work:
    from microtome.tasks.mil.train import TrainOptions, new_model

    name = "abmil" if case.model == PREPARED else case.model
    options = TrainOptions(model=name, width=WIDTH, n_gates=GATES, dropout=0)
    model = new_model(options, FEATURES, 2)
    x, sizes = torch.randn(sum(case.sizes), FEATURES), list(case.sizes)
    y = torch.arange(len(sizes)) % 2
    return lambda: model.losses(x, sizes, y).mean(), lambda: model(x, sizes), model


def torchmils(case: Case) -> Work:
    from torchmil.models import ABMIL, DSMIL, TransMIL

    embed = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.ReLU())
    if case.model != PREPARED:
        embed.insert(0, Standardise())
    model: nn.Module
    if case.model in ("abmil", PREPARED):
        model = ABMIL((FEATURES,), att_dim=GATES, gated=True, feat_ext=embed)
    elif case.model == "dsmil":
        model = DSMIL((FEATURES,), att_dim=GATES, feat_ext=embed)
    else:
        model = TransMIL(
            (FEATURES,), att_dim=WIDTH, n_heads=8, n_landmarks=WIDTH // 2, feat_ext=embed
        )
    bags = [torch.randn(n, FEATURES) for n in case.sizes]
    y = torch.arange(len(bags)) % 2
    batches: list[tuple[Tensor, dict[str, Tensor], Tensor]]
    if case.model != "transmil" and len(bags) > 1:
        mask = torch.arange(max(case.sizes)) < torch.tensor(case.sizes)[:, None]
        padded = nn.utils.rnn.pad_sequence(bags, batch_first=True)
        batches = [(padded, {"mask": mask}, y)]
    else:
        batches = [(bag[None], {}, y[i : i + 1]) for i, bag in enumerate(bags)]

    def losses() -> Tensor:
        found = [model.compute_loss(t, x, **more)[1] for x, more, t in batches]
        return torch.stack([value for of in found for value in of.values()]).mean()

    def predict() -> object:
        return [model.predict(x, **more, return_inst_pred=True) for x, more, _ in batches]

    return losses, predict, model


def mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rate(work: Callable[[], object], bags: int) -> float:
    """Bags a second, after one turn to warm up."""
    work()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS or not count:
        work()
        count += 1
    return bags * count / (time.perf_counter() - start)


def measure(case: Case) -> Speed:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make = ours if case.side == "microtome" else torchmils
    losses, predict, model = make(Case(case.side, case.model, 2))
    losses().backward()  # What torch loads at its first step is nobody's memory.
    predict()
    losses, predict, model = make(case)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    before = mib()

    def step() -> None:
        optimiser.zero_grad()
        losses().backward()
        optimiser.step()

    def say() -> None:
        with torch.inference_mode():
            predict()

    try:
        predicted = rate(say, len(case.sizes))
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        predicted = math.nan
    predict_mib = mib() - before
    model.train()
    return Speed(rate(step, len(case.sizes)), predicted, mib() - before, predict_mib)


def alone(case: Case) -> Speed:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return Speed(**json.loads(ended.stdout.splitlines()[-1]))


def row(model: str, instances: int, rounds: int) -> tuple[list[str], Speed, float, float]:
    """A row of the table, our medians, and the ratios of training and prediction."""
    pairs = [
        (alone(Case("microtome", model, instances)), alone(Case("torchmil", model, instances)))
        for _ in range(rounds)
    ]

    def median(of: Callable[[tuple[Speed, Speed]], float]) -> float:
        return statistics.median(of(pair) for pair in pairs)

    train, predict = (median(lambda p, f=f: f(p[0]) / f(p[1])) for f in (_train, _predict))
    cells = [model, f"{instances:,}" if instances else "64 small"]
    for f, ratio in ((_train, train), (_predict, predict)):
        both = (median(lambda p, k=k, f=f: f(p[k])) for k in (0, 1))
        cells.append(" / ".join("out of memory" if math.isnan(v) else f"{v:,.3g}" for v in both))
        cells.append("–" if math.isnan(ratio) else f"{ratio:.2f} ×")
    for name in ("train_mib", "predict_mib"):
        both = (median(lambda p, k=k, n=name: getattr(p[k], n)) for k in (0, 1))
        cells.append(" / ".join(f"{value:,.0f}" for value in both))
    own = Speed(*(median(lambda p, n=n: getattr(p[0], n)) for n in asdict(pairs[0][0])))
    return cells, own, train, predict


def _train(speed: Speed) -> float:
    return speed.train


def _predict(speed: Speed) -> float:
    return speed.predict


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(asdict(measure(Case(**json.loads(given.one))))))
        return
    sizes = SIZES[:2] if given.quick else SIZES
    found = {}
    for model in ("abmil", PREPARED, "dsmil", "transmil"):
        rounds = 1 if given.quick else ROUNDS.get(model, OTHER_ROUNDS)
        for n in sizes if model == PREPARED else (*sizes, 0):
            found[model, n] = row(model, n, rounds)
            print(" | ".join(found[model, n][0]), flush=True)
    header = ("model", "instances", "training, bags/s: microtome / torchmil", "ratio",
              "prediction, bags/s: microtome / torchmil", "ratio",
              "training, MiB", "prediction, MiB")  # fmt: skip
    lines = ["# Speed of bag models", "", ABOUT, "", *table(header, [r[0] for r in found.values()])]
    lines.append("")
    for n in sizes:
        lines.append(verdict(f"ABMIL at {n:,}, training", found["abmil", n][2], 1, unit=" ×"))
        lines.append(verdict(f"ABMIL at {n:,}, prediction", found["abmil", n][3], 1, unit=" ×"))
    # Restructured: only the class token's row of the attention is made, not all of it.
    said = "TransMIL at 10,000, prediction with attention"
    lines.append(verdict(said, found["transmil", 10_000][3], 3, unit=" ×"))
    if not given.quick:
        for model in ("abmil", "dsmil", "transmil"):
            grown = found[model, SIZES[2]][1].train_mib / found[model, SIZES[1]][1].train_mib
            lines.append(verdict(f"{model}, memory from 10,000 to 100,000", grown, -12, unit=" ×"))
    lines += ["", measured_on("torch", "torchmil")]
    print("\n".join(lines))
    if not given.quick:
        write_report("mil_speed.md", lines)


if __name__ == "__main__":
    main()
