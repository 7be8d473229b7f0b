"""How tissue can be told from glass: names of the methods, and what they are to a product's key."""

from __future__ import annotations

from pathlib import Path

from ...storage.commit import require_commit
from ...storage.errors import BadModel

AUTO = "auto"
FLUORESCENCE = "fluorescence"
MODEL_KIND = "tissue model"
_MODEL = "model:"
METHODS = (AUTO, "saturation", "density", "entropy", FLUORESCENCE)
"""Beside these there is ``model:PATH``, a segmenter that was trained."""


def require_method(method: str) -> None:
    """Raise BadModel where there is no method of this name."""
    if method not in METHODS and model_path(method) is None:
        raise BadModel(
            "there is no such way to find tissue",
            where=method,
            remedy=f"Take one of {', '.join(METHODS)} or model:PATH",
        )


def model_path(method: str) -> Path | None:
    """Where the model of ``model:PATH`` is; None for the other methods."""
    return Path(method.removeprefix(_MODEL)) if method.startswith(_MODEL) else None


def method_key(method: str) -> str:
    """What a method is to the key of a mask: its name, or ``model:`` and the key of the model.

    Raises
    ------
    BadModel
        There is no such method.
    MissingFile, BadProduct
        No model of tissue is at the path.
    """
    require_method(method)
    path = model_path(method)
    return method if path is None else f"{_MODEL}{require_commit(path, MODEL_KIND).key}"
