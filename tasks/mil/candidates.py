"""Ways to learn, in words: ``abmil,learning_rate=0.001``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from ...storage.errors import InputError
from .names import MODELS, ModelName
from .train import TrainOptions


def read_candidate(text: str, base: TrainOptions) -> TrainOptions:
    """Options as ``base``, but for the model and the settings that are named.

    Parameters
    ----------
    text
        A model, and after commas settings of :class:`~microtome.tasks.mil.train.TrainOptions`
        (but for seed, device and threads) as ``name=number``.

    Raises
    ------
    InputError
        There is no such model or setting, or its value is no number.
    """
    model, *parts = (part.strip() for part in text.split(","))
    settings = {
        name: value for name, value in base.record().items() if name not in ("model", "seed")
    }
    if model not in get_args(ModelName):
        raise InputError(
            f"--candidate {text}: there is no model {model!r}", remedy=f"One of {', '.join(MODELS)}"
        )
    changes: dict[str, Any] = {"model": model}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in settings:
            raise InputError(
                f"--candidate {text}: there is no setting {name!r}",
                remedy=f"One of {', '.join(settings)}",
            )
        try:
            changes[name] = type(settings[name])(value)
        except ValueError as error:
            raise InputError(f"--candidate {text}: {name} wants a number") from error
    return replace(base, **changes)


def in_words(way: TrainOptions, base: TrainOptions) -> str:
    """The model, and what else is not as in ``base``: what :func:`read_candidate` reads."""
    own, other = way.record(), base.record()
    changes = [
        f"{name}={own[name]:g}" for name in own if name != "model" and own[name] != other[name]
    ]
    return ",".join([way.model, *changes])
