"""Scripts of others that travel with the package, so that nothing is asked of a network.

OpenSeadragon 6.1.1, BSD-3-Clause (``openseadragon.LICENSE.txt``): the release's own minified file,
unchanged but for its last line, which named a file of the release that is not here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

OPENSEADRAGON = "openseadragon.min.js"


@cache
def read_asset(name: str) -> str:
    """The text of a file of this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
