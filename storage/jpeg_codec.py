"""The plug-in by which zarr-python reads JPEG tiles: ``zarr.open`` finds it by its entry point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from .jpeg import NAME, Jpeg, decode_tile


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Chunks [h, w, 3] of uint8 as JPEG streams (:class:`~microtome.storage.jpeg.Jpeg`)."""

    jpeg: Jpeg
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make the codec from an array's metadata."""
        return cls(Jpeg.from_configuration(**data["configuration"]))

    def to_dict(self) -> dict[str, Any]:
        """The codec, as an array's metadata name it."""
        return {"name": NAME, "configuration": self.jpeg.configuration()}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse what is not RGB of 8 bits.

        zarr-python tells the shape of the array before any ``transpose``: colours first or last.
        """
        if len(shape) != 3 or 3 not in (shape[0], shape[2]) or dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"{NAME} is for uint8 of three colours, not {dtype} {list(shape)}")

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Unknown before it is encoded."""
        raise NotImplementedError

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        height, width, _ = chunk_spec.shape
        pixels = decode_tile(chunk_bytes.to_bytes(), (height, width))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return self._decode_sync(chunk_bytes, chunk_spec)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        encoded = self.jpeg.encode_pixels(chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(encoded)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return self._encode_sync(chunk_array, chunk_spec)
