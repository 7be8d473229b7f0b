"""The frames of a whole-slide DICOM series as the JPEG streams that they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...storage.jpeg import standalone
from .base import Level, no_jpeg_tiles

_BASELINE = "1.2.840.10008.1.2.4.50"
_RGB = "RGB"


class DicomTiles:
    """JPEG frames by level, row and column.

    Parameters
    ----------
    path
        What the user named, for messages.
    slide
        What wsidicom opened; stays the caller's to close.
    levels
        Those that the frames are asked for, as the slide's reader found them.

    Raises
    ------
    NoJpegTiles
        The frames are compressed otherwise, or are not tiles of one plane of these levels.
    """

    def __init__(self, path: Path, slide: Any, levels: Sequence[Level]) -> None:
        by_area = sorted(slide.levels, key=lambda level: -level.size.area)
        self._images = [level.default_instance.image_data for level in by_area]
        found = [(level.size.height, level.size.width) for level in by_area]
        if found != [(level.height_px, level.width_px) for level in levels]:
            raise no_jpeg_tiles(path, f"its files hold levels of {found} px")
        for number, image in enumerate(self._images):
            if why := _obstacle(image):
                raise no_jpeg_tiles(path, f"level {number} {why}")

    def tile_px(self, level: int) -> tuple[int, int]:
        """(height, width) of a level's frames."""
        size = self._images[level].tile_size
        return size.height, size.width

    def tile(self, level: int, row: int, column: int) -> bytes | None:
        """A frame as a JPEG file of its own; None where there is none."""
        from wsidicom.geometry import Point

        image, place = self._images[level], Point(column, row)
        z, path = image.default_z, image.default_path
        if image.tiles.get_frame_index(place, z, path) < 0:
            return None
        (frame,) = image.get_encoded_tiles([place], z, path)
        return standalone(bytes(frame), None, is_rgb=image.photometric_interpretation == _RGB)


def _obstacle(image: Any) -> str:
    """Why the frames of a level cannot be kept, or nothing."""
    if str(image.transfer_syntax) != _BASELINE:
        return f"is compressed as {image.transfer_syntax.name}, not as JPEG baseline"
    if image.samples_per_pixel != 3 or image.bits != 8:
        return "is not RGB of 8 bits"
    if len(image.focal_planes) > 1 or len(image.optical_paths) > 1:
        return "has several focal planes or optical paths"
    return ""
