"""Names of the bag models and of what they learn: for command line and cards, without torch."""

from __future__ import annotations

from typing import Literal, get_args

ModelName = Literal[
    "abmil",
    "mean",
    "max",
    "abmil-plain",
    "clam-sb",
    "clam-mb",
    "dsmil",
    "dtfd",
    "transmil",
    "acmil",
    "prototype",
    "graph",
]
MODELS: tuple[ModelName, ...] = get_args(ModelName)

Kind = Literal["classes", "labels", "regression", "survival"]
"""What is learnt of a bag: one of several classes, any of several labels, a value, a hazard."""
KINDS: tuple[Kind, ...] = get_args(Kind)

SplitBy = Literal["patient", "site", "each-site"]
"""What is never on both sides of a split: a patient; a site, several a fold, or one a fold."""

MODEL_TITLES: dict[str, str] = {
    "abmil": "gated attention",
    "mean": "mean pooling",
    "max": "max pooling",
    "abmil-plain": "plain attention",
    "clam-sb": "CLAM, one branch",
    "clam-mb": "CLAM, a branch a class",
    "dsmil": "DSMIL",
    "dtfd": "DTFD-MIL",
    "transmil": "TransMIL",
    "acmil": "ACMIL",
    "prototype": "prototypes",
    "graph": "graph of tiles",
}
