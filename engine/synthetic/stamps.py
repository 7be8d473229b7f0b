"""Shapes that are painted many times: nuclei and vacuoles, drawn once, pasted by the thousand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Stamp = NDArray[np.uint8]
Floats = NDArray[np.float64]

UNIT = 80.0
"""Levels of an 8-bit concentration plane per unit of stain."""


@dataclass(frozen=True)
class NucleusKind:
    """Distribution that the nuclei of one kind of tissue are drawn from.

    Attributes
    ----------
    radius_um, radius_cv
        Mean and coefficient of variation of the radius of a circle of equal area.
    aspect
        (lowest, highest) ratio of the axes.
    irregularity
        Relative amplitude of the bumps of the outline.
    stain, stain_cv
        Haematoxylin concentration and its variation from nucleus to nucleus.
    chromatin
        Relative amplitude of the texture inside.
    nucleoli
        Highest number of dark nucleoli.
    """

    radius_um: float
    radius_cv: float
    aspect: tuple[float, float]
    irregularity: float
    stain: float
    stain_cv: float
    chromatin: float
    nucleoli: int = 0


STROMA = NucleusKind(2.7, 0.15, (2.2, 4.2), 0.04, 1.25, 0.12, 0.15)
BENIGN = NucleusKind(3.1, 0.07, (1.0, 1.35), 0.02, 1.20, 0.08, 0.18)
LYMPHOCYTE = NucleusKind(2.9, 0.07, (1.0, 1.15), 0.03, 1.75, 0.08, 0.20)
TUMOUR = NucleusKind(4.7, 0.26, (1.0, 1.7), 0.11, 1.12, 0.22, 0.34, nucleoli=2)


def nuclei(
    kind: NucleusKind, mpp: float, rng: np.random.Generator, *, angles: int, variants: int
) -> list[Stamp]:
    """Draw nuclei: ``angles * variants`` stamps, ordered by angle (0 … π from the x axis).

    Returns
    -------
    list of uint8 [h, w]
        Haematoxylin concentration in units of 1 / ``UNIT``; odd, square sides.
    """
    return [
        _nucleus(kind, mpp, rng, np.pi * (angle + rng.uniform(-0.5, 0.5)) / angles)
        for angle in range(angles)
        for _ in range(variants)
    ]


def _nucleus(kind: NucleusKind, mpp: float, rng: np.random.Generator, angle: float) -> Stamp:
    from scipy.ndimage import gaussian_filter

    radius = kind.radius_um / mpp * np.exp(rng.normal(0, kind.radius_cv))
    aspect = rng.uniform(*kind.aspect)
    reach = int(np.ceil(radius * np.sqrt(aspect) * (1 + 2 * kind.irregularity))) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    along = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(aspect)
    across = (y * np.cos(angle) - x * np.sin(angle)) * np.sqrt(aspect)
    theta, distance = np.arctan2(across, along), np.hypot(along, across)
    border = radius * (1 + _bumps(theta, kind.irregularity, rng))
    depth = border - distance
    cover = np.clip(depth / 1.4 + 0.5, 0, 1)
    grain = gaussian_filter(rng.normal(size=y.shape), 0.55 / mpp)
    stain = 1 + kind.chromatin * grain / grain.std()
    stain += 0.22 * np.exp(-np.maximum(depth, 0) / (0.5 / mpp)) - 0.08
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        place = rng.uniform(-0.5, 0.5, 2) * radius
        spot = np.hypot(along - place[0], across - place[1]) * mpp
        stain += 0.6 * np.exp(-((spot / 0.7) ** 2))
    stain *= kind.stain * np.exp(rng.normal(0, kind.stain_cv))
    return _to_plane(np.clip(stain, 0.3, 3.0) * cover)


def vacuoles(
    radius_um: tuple[float, float], mpp: float, rng: np.random.Generator, *, variants: int
) -> list[Stamp]:
    """Draw round holes: how much tissue is left, 255 outside and 0 inside, uint8 [h, w] each."""
    holes = []
    for _ in range(variants):
        radius = rng.uniform(*radius_um) / mpp
        reach = int(np.ceil(radius * 1.3)) + 2
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
        border = radius * (1 + _bumps(np.arctan2(y, x), 0.06, rng))
        gone = np.clip((border - np.hypot(y, x)) / 2.5 + 0.5, 0, 1)
        holes.append((255 * (1 - gone)).astype(np.uint8))
    return holes


def _bumps(theta: Floats, amplitude: float, rng: np.random.Generator) -> Floats:
    waves = sum(
        rng.normal() / k * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in range(2, 6)
    )
    return np.clip(amplitude * 2 * np.asarray(waves), -0.4, 2 * amplitude)


def _to_plane(concentration: Floats) -> Stamp:
    return np.clip(np.rint(concentration * UNIT), 0, 255).astype(np.uint8)


def fibres(rng: np.random.Generator, size: int = 1024) -> Stamp:
    """Draw a toroidal texture of fibres along x: uint8 [size, size], mean about 128."""
    return _texture(rng, size, sigma=((5.0, 70.0, 1.0), (1.3, 35.0, 1.0)), spread=46)


def grain(rng: np.random.Generator, size: int = 1024) -> Stamp:
    """Draw a toroidal cloudy texture: uint8 [size, size], mean about 128."""
    return _texture(
        rng, size, sigma=((1.0, 1.0, 0.7), (4.0, 4.0, 0.5), (12.0, 12.0, 0.5)), spread=22
    )


def _texture(
    rng: np.random.Generator,
    size: int,
    sigma: tuple[tuple[float, float, float], ...],
    spread: float,
) -> Stamp:
    frequency_y, frequency_x = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    total = np.zeros((size, size))
    for sigma_y, sigma_x, weight in sigma:
        squared = (sigma_y * frequency_y) ** 2 + (sigma_x * frequency_x) ** 2
        gaussian = np.exp(-2 * np.pi**2 * squared)
        spectrum = np.fft.rfft2(rng.standard_normal((size, size), np.float32))
        layer = np.fft.irfft2(spectrum * gaussian)
        total += weight * layer / layer.std()
    total *= spread / total.std()
    return np.clip(np.rint(total + 128), 0, 255).astype(np.uint8)
