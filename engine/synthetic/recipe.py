"""What a synthetic slide is made of: everything that decides its pixels, and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ...storage.commit import product_key

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]

GENERATOR_VERSION = 1
"""Goes up with every change that alters a pixel."""


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned.

    Attributes
    ----------
    haematoxylin, eosin
        Optical density (natural logarithm) of one unit of the stain in R, G, B; unit length.
    haematoxylin_gain, eosin_gain
        Concentration of this slide relative to the generator's norm.
    glass
        R, G, B of empty glass, 0 … 255.
    blur_px
        Standard deviation of the scanner's blur in level-0 pixels.
    noise
        Standard deviation of the scanner's noise, as a fraction of the light.
    """

    haematoxylin: Vector
    eosin: Vector
    haematoxylin_gain: float
    eosin_gain: float
    glass: Vector
    blur_px: float
    noise: float


@dataclass(frozen=True)
class Site:
    """A laboratory with its scanner: the family that its slides' stains are drawn from.

    ``spread`` is the standard deviation of the components of the stain vectors, ``gain_spread``
    that of the logarithm of both concentrations.
    """

    name: str
    mpp: float
    typical: Stain
    spread: float = 0.02
    gain_spread: float = 0.12

    def draw(self, rng: np.random.Generator) -> Stain:
        """Draw the stain of one slide."""
        typical = self.typical
        gains = np.exp(rng.normal(0, self.gain_spread, 2))
        return Stain(
            haematoxylin=self._vary(rng, typical.haematoxylin),
            eosin=self._vary(rng, typical.eosin),
            haematoxylin_gain=typical.haematoxylin_gain * float(gains[0]),
            eosin_gain=typical.eosin_gain * float(gains[1]),
            glass=_vector(np.array(typical.glass) + rng.normal(0, 1.0, 3)),
            blur_px=typical.blur_px,
            noise=typical.noise,
        )

    def _vary(self, rng: np.random.Generator, stain: Vector) -> Vector:
        moved = np.clip(np.array(stain) + rng.normal(0, self.spread, 3), 0.01, None)
        return _vector(moved / np.linalg.norm(moved))


def _vector(values: Floats) -> Vector:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


SITES = (
    Site(
        "north",
        0.4990,
        Stain((0.563, 0.720, 0.406), (0.216, 0.801, 0.558), 1.0, 1.0, (243, 242, 244), 0.6, 0.006),
    ),
    Site(
        "south",
        0.4545,
        Stain((0.660, 0.700, 0.273), (0.110, 0.938, 0.329), 0.9, 0.8, (236, 237, 231), 0.85, 0.012),
    ),
)
"""Two laboratories: other stain vectors, brightness, sharpness, noise and resolution."""


@dataclass(frozen=True)
class Blob:
    """A star-shaped region: a centre and the distance to its border in equally spaced directions.

    Attributes
    ----------
    y_px, x_px
        Centre in level-0 pixels.
    radii_px
        Distance to the border at the angles ``2π k / n`` from the x axis towards y.
    """

    y_px: float
    x_px: float
    radii_px: tuple[float, ...]

    @property
    def outline(self) -> Floats:
        """float64 [n, 2]: (y, x) of the border in level-0 pixels, not repeating the first."""
        radii = np.array(self.radii_px)
        angle = 2 * np.pi * np.arange(len(radii)) / len(radii)
        return np.stack(
            [self.y_px + radii * np.sin(angle), self.x_px + radii * np.cos(angle)], axis=1
        )

    @property
    def area_px(self) -> float:
        """Area of the polygon in level-0 pixels."""
        radii = np.array(self.radii_px)
        return float(np.sum(radii * np.roll(radii, 1)) * math.sin(2 * math.pi / len(radii)) / 2)

    def depth_px(self, y_px: Floats, x_px: Floats) -> Floats:
        """Distance along the ray to the border, positive inside; arguments broadcast."""
        dy, dx = y_px - self.y_px, x_px - self.x_px
        count = len(self.radii_px)
        turn = np.arctan2(dy, dx) * (count / (2 * np.pi)) % count
        # The border is the straight edge between two vertices: cross the ray with it.
        radii = np.array(self.radii_px)
        low = np.floor(turn).astype(np.int64) % count
        a, b = radii[low], radii[(low + 1) % count]
        step = 2 * np.pi / count
        f = (turn - np.floor(turn)) * step
        border = a * b * math.sin(step) / (a * np.sin(f) + b * np.sin(step - f))
        return np.asarray(border - np.hypot(dy, dx))


@dataclass(frozen=True)
class SlideRecipe:
    """Everything that decides the pixels of a synthetic slide.

    Attributes
    ----------
    seed
        Of all noise.
    height_px, width_px
        Size of level 0.
    mpp
        Micrometres per level-0 pixel.
    site
        Name of the laboratory.
    stain
        Colours and scanner.
    threshold
        Level at which the tissue noise is cut: what lies above is tissue.
    tumour, benign
        Regions of tumour: large, irregular, crowded nuclei; and of benign epithelium: small,
        regular ones that stain the tissue as dark as tumour does.
    lymphocytes, fat
        Fraction of the other tissue that aggregates of lymphocytes and fat take, about.
    """

    seed: int
    height_px: int
    width_px: int
    mpp: float
    site: str
    stain: Stain
    threshold: float
    tumour: tuple[Blob, ...] = ()
    benign: tuple[Blob, ...] = ()
    lymphocytes: float = 0.04
    fat: float = 0.06

    @property
    def outlines(self) -> tuple[Floats, ...]:
        """Tumour outlines: float64 [n, 2] each, (y, x) in level-0 pixels."""
        return tuple(blob.outline for blob in self.tumour)

    @property
    def key(self) -> str:
        """SHA-256 that changes whenever the slide would."""
        return product_key(kind="synthetic", version=GENERATOR_VERSION, recipe=asdict(self))
