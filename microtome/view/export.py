"""What the viewer shows, as an image file."""

from __future__ import annotations

from pathlib import Path

from ..storage.errors import BadResolution, MissingFile
from ..tasks.layers import SlideLayer
from ..tasks.overlay_image import Format, OverlayImage, write_overlay
from .library import Shown, open_shown


def export_overlay(
    shown: Shown,
    out: Path,
    *,
    kind: Format = "ome-tiff",
    um: float = 4.0,
    opacity: float = 0.6,
    wanted: str = "",
    crop: bool = True,
) -> Path:
    """Write the layer over a slide as an image; see :func:`~.overlay_image.write_overlay`.

    Parameters
    ----------
    um
        Micrometres per pixel, never finer than the slide; level-0 pixels times four where the
        slide's resolution is not known.
    wanted
        Part of the layer's name; the first that lies over the slide by default.

    Raises
    ------
    MissingFile
        Nothing lies over the slide, or nothing of that name.
    BadResolution
        Finer than the slide.
    """
    opened = open_shown(shown, crop=crop)
    try:
        found = [layer for layer in opened.layers[1:] if wanted in layer.name]
        if not found:
            raise MissingFile(
                f"no layer {wanted!r} lies over it" if wanted else "nothing lies over it",
                where=shown.id,
                remedy="; ".join(opened.notes) or "Name its predictions, map or mask too",
            )
        mpp, slide = opened.info.mpp, opened.layers[0]
        assert isinstance(slide, SlideLayer)
        side = 4.0 if mpp is None else um / max(mpp)
        if side < 0.999:
            raise BadResolution(
                f"{um:g} µm per pixel are finer than the slide's {max(mpp or (0, 0)):.4g}",
                where=shown.id,
                remedy="Take a coarser --um",
            )
        box = opened.zoom.box_px
        image = OverlayImage(found[0], slide, box, side, mpp, opacity)
        return write_overlay(image, out, shown.id, kind)
    finally:
        opened.close()
