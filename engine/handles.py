"""Open slides, kept a while: for whoever asks for tiles of many slides in any order."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

from .slides import Mpp, Slide, open_slide

Key = tuple[str | Path, Mpp | None]


class SlideHandles:
    """Opens slides when they are asked for, and closes those that were not for longest.

    Handles belong to the process that opened them: a pickled copy begins without any, and so does
    a forked child, which must not share file positions with its parent.

    Parameters
    ----------
    limit
        Slides that are open at once, at most.
    """

    def __init__(self, limit: int = 8) -> None:
        if limit < 1:
            raise ValueError("at least one slide must be allowed to be open")
        self._limit = limit
        self._open: OrderedDict[Key, Slide] = OrderedDict()
        self._pid = os.getpid()

    def get(self, path: str | Path, mpp: Mpp | None = None) -> Slide:
        """The opened slide; it stays this object's to close.

        Raises
        ------
        MissingFile, EmptyFile, TruncatedFile, UnreadableFile, BadResolution
            As :func:`~microtome.engine.slides.open_slide`.
        """
        if self._pid != os.getpid():
            # The parent's: to close them here would be to close its files' descriptors twice.
            self._open, self._pid = OrderedDict(), os.getpid()
        key = (path, mpp)
        slide = self._open.get(key)
        if slide is None:
            slide = self._open[key] = open_slide(path, mpp=mpp)
            while len(self._open) > self._limit:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return slide

    def __len__(self) -> int:
        """Slides that are open now."""
        return len(self._open)

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        SlideHandles.__init__(self, state["_limit"])
