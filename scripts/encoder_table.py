"""The foundation models that are known: docs/reference/foundation-models.md.

Run: ``python scripts/encoder_table.py``.
"""

from __future__ import annotations

from pathlib import Path

from microtome.tasks.encoders import CATALOGUE, FoundationModel

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "reference" / "foundation-models.md"

ABOUT = """# Foundation models

Written by `scripts/encoder_table.py` from `tasks/encoders/catalogue.py`. How to use them:
[encoders](../how-to/encoders.md).

Tiles are read at the size and resolution of the table and never resized. *Loaded by* says how:
`timm` and `transformers` build the model here, from the hub or from a file; `own code` needs its
authors' package, in a function of yours. *Checked* is no where a value could not be looked up:
the note says which. Not one of these models has been run here with its own weights, which are not
ours to hand on: architectures are checked by dimension and number of parameters, pooling and
normalisation with random weights.
"""
ROUTES = {"timm": "timm", "transformers": "transformers", "package": "own code"}


def row(model: FoundationModel) -> str:
    """One line of the table."""
    mpps = ", ".join(f"{mpp:g}" for mpp in model.mpps) or "none"
    cells = (
        f"`{model.name}`",
        model.title,
        ROUTES[model.route],
        str(model.dim),
        model.pooling if model.route != "package" else "its own",
        str(model.input_px),
        mpps,
        model.licence,
        "yes" if model.is_gated else "no",
        "yes" if model.is_verified else "no",
    )
    return f"| {' | '.join(cells)} |"


def detail(model: FoundationModel) -> list[str]:
    """What does not fit into a line."""
    lines = [f"## {model.title}", ""]
    if model.hub_id:
        lines.append(f"- on the hub: {model.hub_id}")
    if model.route == "timm":
        lines.append(f"- architecture: {model.architecture}, file {model.hub_file}")
    if model.colours is not None:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in model.colours)
        lines.append(f"- normalisation: mean {mean}; standard deviation {std}")
    lines.append(f"- paper: {model.paper}")
    lines.append(f"- values from: {model.source}")
    if model.note:
        lines.append(f"- note: {model.note}")
    return [*lines, ""]


def document() -> str:
    """The whole page."""
    header = (
        "| name | model | loaded by | features | pooling | tile (px) | µm/px | licence | gated "
        "| checked |"
    )
    models = CATALOGUE.values()
    lines = [
        ABOUT,
        header,
        "|" + "---|" * (header.count("|") - 1),
        *(row(model) for model in models),
        "",
        *(line for model in models for line in detail(model)),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    REPORT.write_text(document(), encoding="utf-8")
