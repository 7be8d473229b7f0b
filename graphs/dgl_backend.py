"""The door to DGL: opened when first needed, with a clear word where it does not open."""

from __future__ import annotations

import os
from typing import Any

from ..storage.errors import MissingDependency


def import_dgl() -> Any:
    """Import DGL with PyTorch as its backend.

    ``DGLBACKEND`` is set first: without it DGL prints on import and writes a file into the home
    directory. ``dgl.sparse`` and ``dgl.graphbolt`` are not to be relied on beside today's torch.

    Returns
    -------
    module
        The package ``dgl``.

    Raises
    ------
    MissingDependency
        DGL is absent, or its libraries do not load beside the installed torch.
    """
    os.environ["DGLBACKEND"] = "pytorch"
    try:
        import dgl
        import dgl.nn
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise MissingDependency(
            f"DGL does not import here ({type(error).__name__}: {error})",
            where="dgl",
            remedy="Install dgl==1.1.3 on Python 3.11, or use --backend dense: the same networks "
            "in plain PyTorch",
        ) from error
    return dgl


def has_dgl() -> bool:
    """Whether DGL imports here."""
    try:
        import_dgl()
    except MissingDependency:
        return False
    return True
