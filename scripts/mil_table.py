"""Which bag models keep to MIL's assumptions: the table in docs/reference/mil-models.md.

Run: ``python scripts/mil_table.py``. Trains every model on every problem, with several seeds;
about two minutes on one core.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from microtome.tasks.mil.assumptions import PROBLEMS, Verdict, check
from microtome.tasks.mil.names import MODELS, ModelName
from microtome.tasks.mil.train import TrainOptions

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "mil-models.md"
BEGIN, END = "<!-- written by scripts/mil_table.py -->\n", "<!-- end of what is written -->"
SEEDS, N_BAGS = (0, 1, 2), 100

Verdicts = Mapping[str, Mapping[str, Sequence[Verdict]]]


def options(model: ModelName, seed: int) -> TrainOptions:
    """What every model is trained with here: small and quick."""
    small = TrainOptions(members=2, epochs=15, patience=5, batch_bags=8, width=32, n_gates=16)
    return TrainOptions(**{**small.record(), "model": model, "seed": seed})


def verdicts(models: Sequence[ModelName] = MODELS, seeds: Sequence[int] = SEEDS) -> Verdicts:
    """Train and test: by model, then problem, one for each seed."""
    return {
        model: {
            problem: [
                check(options(model, seed), problem, n_bags=N_BAGS, seed=seed) for seed in seeds
            ]
            for problem in PROBLEMS
        }
        for model in models
    }


def word(found: Sequence[Verdict]) -> str:
    """Passes or fails: the test AUC is above, or below, one half with every seed."""
    tests = [verdict.test for verdict in found]
    if min(tests) > 0.5:
        return "passes"
    return "fails" if max(tests) < 0.5 else "unsure"


def cell(found: Sequence[Verdict]) -> str:
    """Verdict, and the mean AUC with the shortcut as in training and against it."""
    alike = sum(verdict.like_training for verdict in found) / len(found)
    test = sum(verdict.test for verdict in found) / len(found)
    return f"{word(found)} ({alike:.2f} → {test:.2f})"


def table(found: Verdicts) -> str:
    """Lines of Markdown."""
    head = f"| model | {' | '.join(PROBLEMS)} |\n|{'---|' * (len(PROBLEMS) + 1)}\n"
    rows = (
        f"| `{model}` | {' | '.join(cell(of[problem]) for problem in PROBLEMS)} |\n"
        for model, of in found.items()
    )
    return head + "".join(rows)


def recorded(page: str) -> dict[str, dict[str, str]]:
    """Words that a page holds: by model, then problem."""
    inside = page.split(BEGIN)[1].split(END, maxsplit=1)[0]
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", inside, re.MULTILINE)
    return {
        model: {
            problem: said.split()[0]
            for problem, said in zip(PROBLEMS, cells.split(" | "), strict=True)
        }
        for model, cells in rows
    }


def main() -> None:
    """Write the table into its page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    written = table(verdicts())
    PAGE.write_text(before + BEGIN + written + END + rest.split(END)[1], encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
