"""Seeded noise that can be asked for anywhere: every value is a function of its place alone.

Nothing here keeps a state, so any part of a slide can be painted without the others and fits them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STD = float(np.sqrt(1 / 3) * 151 / 315)
"""Standard deviation of a cubic B-spline surface over nodes that are uniform in -1 … 1."""


def key_of(*parts: object) -> int:
    """64 bits that stand for ``parts``: a stream of random numbers of its own."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def hashed(key: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 random bits for every place (i, j) of a lattice; the two broadcast.

    References
    ----------
    Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators: the finaliser.
    """
    x = i.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key)
    for salt in (j.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03), np.uint64(0)):
        x = x + salt
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x


def value_noise(key: int, wavelength_px: float, y_px: Floats, x_px: Floats) -> Floats:
    """Smooth noise of zero mean and unit standard deviation on the grid ``y_px`` × ``x_px``.

    A uniform cubic B-spline over hashed nodes that stand ``wavelength_px`` apart. Sums are taken
    in one fixed order, so that a value does not depend on what else is asked for.

    Returns
    -------
    float64 [len(y_px), len(x_px)]
    """
    row, row_weights = _spline(y_px / wavelength_px)
    column, column_weights = _spline(x_px / wavelength_px)
    i = np.arange(row.min(), row.max() + 4)
    j = np.arange(column.min(), column.max() + 4)
    nodes = hashed(key, i[:, None], j[None, :]).astype(np.float64) / 2.0**63 - 1.0
    along, total = np.zeros((len(y_px), len(j))), np.zeros((len(y_px), len(x_px)))
    for k in range(4):
        along += row_weights[k][:, None] * nodes[row - i[0] + k]
    for k in range(4):
        total += along[:, column - j[0] + k] * column_weights[k]
    return total / _STD


def _spline(t: Floats) -> tuple[NDArray[np.int64], tuple[Floats, ...]]:
    whole = np.floor(t)
    f = t - whole
    weights = (
        (1 - f) ** 3 / 6,
        (3 * f**3 - 6 * f**2 + 4) / 6,
        (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6,
        f**3 / 6,
    )
    return whole.astype(np.int64) - 1, weights


@dataclass(frozen=True)
class Cells:
    """Places of a jittered lattice, each with two random numbers of its own.

    Attributes
    ----------
    y_px, x_px
        float64 [n]: centres, in level-0 pixels.
    accept
        float64 [n], 0 … 1: compared with a probability to thin the lattice.
    pick
        int64 [n], 0 … 65535: chooses one of several shapes.
    """

    y_px: Floats
    x_px: Floats
    accept: Floats
    pick: NDArray[np.int64]

    def keep(self, which: NDArray[np.bool_]) -> Cells:
        """Only the places for which ``which`` [n] is true."""
        return Cells(self.y_px[which], self.x_px[which], self.accept[which], self.pick[which])


def cells(
    key: int, pitch_px: float, box_px: tuple[float, float, float, float], *, jitter: float = 0.28
) -> Cells:
    """Centres of a jittered hexagonal lattice inside ``box_px`` (top, left, bottom, right).

    Neighbours stay at least about ``(1 - 2 * jitter) * pitch_px`` apart: nearly a hard core.
    """
    top, left, bottom, right = box_px
    step = pitch_px * np.sqrt(0.75)
    i = np.arange(int(top // step) - 1, int(bottom // step) + 2)
    j = np.arange(int(left // pitch_px) - 1, int(right // pitch_px) + 2)
    bits = hashed(key, i[:, None], j[None, :])
    sixteen = [((bits >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.int64) for k in range(4)]
    move_y, move_x, accept = (s / 65536.0 for s in sixteen[:3])
    y = (i[:, None] + 0.5) * step + (2 * move_y - 1) * jitter * pitch_px
    x = (j[None, :] + 0.5 + 0.5 * (i[:, None] % 2) + (2 * move_x - 1) * jitter) * pitch_px
    found = Cells(y.ravel(), x.ravel(), accept.ravel(), sixteen[3].ravel())
    inside = (found.y_px >= top) & (found.y_px < bottom)
    return found.keep(inside & (found.x_px >= left) & (found.x_px < right))
