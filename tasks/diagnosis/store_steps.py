"""Fitted steps on disk: a record for the card, and numbers under a name of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graphs.harmonise import Combat
from ...graphs.tangent import TangentSpace
from .steps import FittedStep, FittedTangent, Harmonise, Harmonised, LayerCombat, Tangent

_COMBAT = ("mean", "slopes", "scale", "shift", "spread")


def step_parts(step: FittedStep, prefix: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a card says of a step, and its numbers."""
    match step:
        case FittedTangent():
            return {"kind": "tangent", **step.step.describe()}, {
                f"{prefix}reference": step.space.reference
            }
        case Harmonised():
            arrays: dict[str, NDArray[Any]] = {}
            for layer, one in enumerate(step.layers):
                name = f"{prefix}{layer}."
                arrays[f"{name}varies"] = one.varies
                arrays |= {f"{name}{part}": getattr(one.combat, part) for part in _COMBAT}
            sites = [list(one.combat.sites) for one in step.layers]
            return {"kind": "harmonise", "unseen": step.step.unseen, "site_names": sites}, arrays
        case _:
            raise TypeError(f"no way is known to keep a {type(step).__name__}")


def step_of(
    record: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], prefix: str
) -> FittedStep:
    """A step from what :func:`step_parts` made of it.

    Raises
    ------
    KeyError, ValueError
        The record or the numbers are not complete.
    """
    match record["kind"]:
        case "tangent":
            settings = Tangent(bool(record["fisher"]), float(record["shrinkage"]))
            return FittedTangent(settings, TangentSpace(tensors[f"{prefix}reference"]))
        case "harmonise":
            layers = [
                _layer(tuple(sites), tensors, f"{prefix}{layer}.")
                for layer, sites in enumerate(record["site_names"])
            ]
            return Harmonised(Harmonise(record["unseen"]), tuple(layers))
        case kind:
            raise ValueError(f"step {kind!r} is not known")


def _layer(sites: tuple[str, ...], tensors: Mapping[str, NDArray[Any]], prefix: str) -> LayerCombat:
    parts = {part: np.asarray(tensors[f"{prefix}{part}"], np.float64) for part in _COMBAT}
    combat = Combat(sites, len(parts["slopes"]), **parts)
    return LayerCombat(combat, np.asarray(tensors[f"{prefix}varies"], bool))
