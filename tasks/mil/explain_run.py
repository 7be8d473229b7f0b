"""Explanations of a kept model's predictions, kept for people: tables, curves, QuPath tiles."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...storage.bags import KIND as BAG
from ...storage.bags import Bag, read_bag
from ...storage.commit import new_product, product_key, require_commit, write_bytes, write_text
from ...storage.predictions import SlidePrediction
from ..evaluation import Estimate, cluster_bootstrap
from ..heatmap import export_qupath
from .explain import METHODS, SHARES, Faithfulness, Values, compare_rankings, rank_instances
from .store import MilModel

KIND = "mil-explanations"
RANDOM = "random"


@dataclass(frozen=True)
class Explanation:
    """Why a model said what it said of one bag.

    Attributes
    ----------
    bag, prediction
        Of the slide; the explanation is of the output that the prediction's scores speak of.
    rankings
        By method, relevance float32 [n] of the bag's instances.
    tested
        By method and for ``random``, what became of the output.
    """

    bag: Bag
    prediction: SlidePrediction
    rankings: Mapping[str, Values]
    tested: Mapping[str, Faithfulness]


def explain_file(path: Path, model: MilModel, *, device: str = "cpu") -> Explanation:
    """Read a bag, and explain what a model says of it; raises as reading and predicting do."""
    bag = read_bag(path)
    said = model.predict(bag, device=device)
    output = model.card.classes.index(said.target)
    read = model.read(bag)
    rankings = rank_instances(model.members, read, output, device=device)
    tested = compare_rankings(model.members, read, output, rankings, device=device)
    return Explanation(bag, said, rankings, tested)


def gains(found: Sequence[Explanation]) -> dict[str, Estimate]:
    """What each method is worth beyond a random order: mean over the slides, with an interval."""
    return {method: _gain(found, method) for method in METHODS}


def _gain(found: Sequence[Explanation], method: str) -> Estimate:
    beyond = np.array([one.tested[method].gain - one.tested[RANDOM].gain for one in found])
    return cluster_bootstrap(lambda rows: float(beyond[rows].mean()), [o.bag.id for o in found])


def trusted(worth: Mapping[str, Estimate]) -> str | None:
    """The method that is worth most; None where no interval lies above a random order's 0."""
    best = max(worth, key=lambda method: worth[method].value)
    return best if worth[best].low > 0 else None


def write_explanations(
    out: Path,
    model: MilModel,
    bags: Sequence[Path],
    found: Sequence[Explanation],
    *,
    overwrite: bool = False,
) -> None:
    """Keep ``<id>.csv`` and ``<id>.geojson.gz`` of each slide, and the test of the methods.

    Raises
    ------
    StaleProduct
        Explanations of other bags or of another model are there and ``overwrite`` is false.
    """
    keys = sorted(require_commit(path, BAG).key for path in bags)
    key = product_key(kind=KIND, model=model.key, bags=keys)
    about = {"model": model.key, "slides": len(found)}
    with new_product(out, kind=KIND, key=key, about=about, overwrite=overwrite) as folder:
        for one in found:
            write_text(folder / f"{one.bag.id}.csv", "\n".join(_tile_lines(one)) + "\n")
            columns = {f"relevance: {name}": values for name, values in one.rankings.items()}
            export_qupath(
                one.bag,
                folder / f"{one.bag.id}.geojson.gz",
                columns=columns,
                kind="explanation",
                about={"target": one.prediction.target},
            )
        write_text(folder / "faithfulness.csv", "\n".join(_curve_lines(found)) + "\n")
        write_bytes(folder / "faithfulness.png", _picture(found))


def _tile_lines(one: Explanation) -> Iterator[str]:
    yield ",".join(("y_px", "x_px", *(name.replace(" ", "_") for name in METHODS)))
    columns = [one.rankings[name] for name in METHODS]
    for (y, x), *values in zip(one.bag.coords_px.tolist(), *columns, strict=True):
        yield ",".join((f"{y}", f"{x}", *(f"{value:.7g}" for value in values)))


def _curve_lines(found: Sequence[Explanation]) -> Iterator[str]:
    yield "id,method,share,deletion,insertion"
    for one in found:
        for method, test in one.tested.items():
            for share, without, alone in zip(SHARES, test.deletion, test.insertion, strict=True):
                yield f"{one.bag.id},{method},{share:g},{without:.7g},{alone:.7g}"


def _picture(found: Sequence[Explanation]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for name, axes in zip(
        ("deletion", "insertion"), figure.subplots(1, 2, sharey=True), strict=True
    ):
        for method in (*METHODS, RANDOM):
            curve = np.mean([getattr(one.tested[method], name) for one in found], axis=0)
            style = {"color": "grey", "linestyle": "--"} if method == RANDOM else {}
            axes.plot(SHARES, curve, label=method, **style)
        words = "taken away" if name == "deletion" else "alone"
        axes.set(title=name, xlabel=f"share of tiles {words}, most relevant first")
        axes.set_ylabel("what the model says" if name == "deletion" else "")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
