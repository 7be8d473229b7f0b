"""Regions of the brain: an atlas laid over a scan, and what the scan shows in each region.

Arrays of voxels are [z, y, x] or [t, z, y, x] and affines lead from voxel (x, y, z) to RAS
millimetres, as in :mod:`..engine.volumes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform
from scipy.sparse import csr_array

from ..storage.errors import BadGeometry, CohortError, LostRegion
from .matrices import Array

Shape = tuple[int, int, int]

_SAME_GRID_MM = 1e-3
_ON_EDGE_MM = 1e-6


@dataclass(frozen=True, eq=False)
class LabelAtlas:
    """Regions drawn as labels on a grid.

    Attributes
    ----------
    labels
        int64 [z, y, x]; 0 is no region.
    affine
        float64 [4, 4]: voxel (x, y, z) -> RAS mm.
    names
        Label -> name of the region, in the order of the network.
    """

    labels: NDArray[np.int64]
    affine: Array
    names: dict[int, str]

    def without(self, left_out: Sequence[str]) -> LabelAtlas:
        """The atlas without some regions, by name; an unknown one is a CohortError."""
        _known(left_out, tuple(self.names.values()))
        kept = {label: name for label, name in self.names.items() if name not in left_out}
        return replace(self, names=kept)


@dataclass(frozen=True, eq=False)
class SphereAtlas:
    """Regions as spheres around coordinates.

    Attributes
    ----------
    names
        r unique names.
    centres_mm
        float64 [r, 3]: (x, y, z) RAS.
    radii_mm
        float64 [r].
    """

    names: tuple[str, ...]
    centres_mm: Array
    radii_mm: Array

    def without(self, left_out: Sequence[str]) -> SphereAtlas:
        """The atlas without some regions, by name; an unknown one is a CohortError."""
        _known(left_out, self.names)
        kept = [i for i, name in enumerate(self.names) if name not in left_out]
        names = tuple(self.names[i] for i in kept)
        return SphereAtlas(names, self.centres_mm[kept], self.radii_mm[kept])


@dataclass(frozen=True, eq=False)
class Parcellation:
    """An atlas on the grid of a scan: which voxels belong to which region.

    Attributes
    ----------
    names
        r unique names.
    members
        Sparse [r, voxels], 1 where a voxel (of the raveled [z, y, x] grid) is in a region. Spheres
        may share voxels.
    shape
        [z, y, x] of the scan.
    centroids_mm
        float64 [r, 3]: (x, y, z) RAS; of labels, the mean of their voxels on the atlas's own grid.
    resampled
        Whether labels were moved to another grid, by nearest neighbour.
    lost
        Names of regions of the atlas that the scan does not reach, where those may be dropped.
    """

    names: tuple[str, ...]
    members: csr_array
    shape: Shape
    centroids_mm: Array
    resampled: bool = False
    lost: tuple[str, ...] = ()

    @cached_property
    def n_voxels(self) -> NDArray[np.int64]:
        """Voxels in each region: int64 [r]."""
        return np.asarray(self.members.sum(axis=1), np.int64)

    def means(self, values: ArrayLike) -> Array:
        """Mean over each region: float64 [r] of [z, y, x], or [t, r] of [t, z, y, x].

        Voxels without a finite value, at any time, are left out.

        Raises
        ------
        BadGeometry
            The values are on another grid.
        LostRegion
            A region has no finite value left; names it.
        """
        flat = self._flat(values)
        usable = np.isfinite(flat).all(axis=0)
        counted = self.members @ usable.astype(np.float64)
        self._require(counted > 0, "no voxel with a finite value")
        sums = self.members @ np.where(usable, flat, 0.0).T
        means: Array = (sums / counted[:, None]).T
        return means if np.ndim(values) == 4 else means[0]

    def samples(self, values: ArrayLike) -> list[Array]:
        """Finite values of the voxels of each region: r arrays.

        Raises
        ------
        BadGeometry, LostRegion
            As in :meth:`means`.
        """
        flat = self._flat(values)[0]
        found = [flat[self._voxels(region)] for region in range(len(self.names))]
        found = [sample[np.isfinite(sample)] for sample in found]
        self._require(np.array([len(s) > 0 for s in found]), "no voxel with a finite value")
        return found

    def _voxels(self, region: int) -> NDArray[np.int64]:
        start, stop = self.members.indptr[region : region + 2]
        return np.asarray(self.members.indices[start:stop], np.int64)

    def _flat(self, values: ArrayLike) -> Array:
        array = np.asarray(values, np.float64)
        if array.shape[-3:] != self.shape or array.ndim not in (3, 4):
            raise BadGeometry(f"values of shape {array.shape} are not on the grid {self.shape}")
        return array.reshape(-1, int(np.prod(self.shape)))

    def _require(self, kept: NDArray[np.bool_], problem: str) -> None:
        _require(self.names, kept, problem)


def lay_over(
    atlas: LabelAtlas | SphereAtlas,
    shape: Sequence[int],
    affine: Array,
    *,
    resample: bool = False,
    drop_lost: bool = False,
) -> Parcellation:
    """Put an atlas on the grid of a scan that lies in the same space.

    Parameters
    ----------
    shape
        [z, y, x] of the scan.
    affine
        Of the scan: voxel (x, y, z) -> RAS mm.
    resample
        Allow labels on another grid to be moved to the scan's, by nearest neighbour. The scan
        itself is never resampled. Spheres need no resampling.
    drop_lost
        Do without regions that have no voxel on the scan's grid; ``lost`` names them.

    Raises
    ------
    BadGeometry
        The grids differ and ``resample`` is false.
    LostRegion
        A region has no voxel on the scan's grid: it lies outside the scan, or is smaller than the
        scan's voxels. Names it. All of them, where those may be dropped.
    """
    found = _laid(atlas, shape, affine, resample)
    there = found.n_voxels > 0
    if there.all() or not (drop_lost and there.any()):
        _require(found.names, there, "no voxel on the scan's grid")
        return found
    kept = np.flatnonzero(there)
    return replace(
        found,
        names=tuple(found.names[i] for i in kept),
        members=found.members[kept],
        centroids_mm=found.centroids_mm[kept],
        lost=tuple(name for name, is_there in zip(found.names, there, strict=True) if not is_there),
    )


def _laid(
    atlas: LabelAtlas | SphereAtlas, shape: Sequence[int], affine: Array, resample: bool
) -> Parcellation:
    grid: Shape = (int(shape[0]), int(shape[1]), int(shape[2]))
    if isinstance(atlas, SphereAtlas):
        return _spheres(atlas, grid, affine)
    labels, moved = atlas.labels, False
    if not _same_grid(atlas, grid, affine):
        if not resample:
            raise BadGeometry(
                f"the atlas ({_grid_words(atlas.labels.shape, atlas.affine)}) is not on the grid "
                f"of the scan ({_grid_words(grid, affine)})",
                remedy="Pass --resample to move its labels there by nearest neighbour",
            )
        labels, moved = resample_labels(atlas, grid, affine), True
    rows, columns = _members(labels, list(atlas.names))
    names = tuple(atlas.names.values())
    members = csr_array(
        (np.ones(len(rows)), (rows, columns)), shape=(len(names), int(np.prod(grid)))
    )
    return Parcellation(names, members, grid, label_centroids(atlas), moved)


def resample_labels(atlas: LabelAtlas, shape: Shape, affine: Array) -> NDArray[np.int64]:
    """Labels of an atlas at the voxel centres of another grid, by nearest neighbour.

    0 outside the atlas.
    """
    to_atlas = np.linalg.inv(atlas.affine) @ affine
    flipped = to_atlas[:3, :3][::-1, ::-1]
    return np.asarray(
        affine_transform(
            atlas.labels,
            flipped,
            offset=to_atlas[:3, 3][::-1],
            output_shape=shape,
            order=0,
            mode="constant",
            cval=0,
        ),
        np.int64,
    )


def label_centroids(atlas: LabelAtlas) -> Array:
    """Mean position of the voxels of each region, on the atlas's own grid: float64 [r, 3] mm."""
    rows, columns = _members(atlas.labels, list(atlas.names))
    z, y, x = np.unravel_index(columns, atlas.labels.shape)
    counts = np.bincount(rows, minlength=len(atlas.names))
    _require(tuple(atlas.names.values()), counts > 0, "no voxel in the atlas")
    centre = [np.bincount(rows, axis, len(counts)) / counts for axis in (x, y, z)]
    positions: Array = np.stack(centre, axis=1) @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
    return positions


def _members(
    labels: NDArray[np.int64], wanted: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Region and raveled position of every voxel that is in a region."""
    order = np.argsort(wanted)
    ordered = np.asarray(wanted)[order]
    columns = np.flatnonzero(np.isin(labels, ordered))
    rows = order[np.searchsorted(ordered, labels.ravel()[columns])]
    return rows.astype(np.int64), columns.astype(np.int64)


def _spheres(atlas: SphereAtlas, grid: Shape, affine: Array) -> Parcellation:
    """Voxels whose centre is within the radius of the sphere's; none of one centred outside."""
    to_voxel = np.linalg.inv(affine)
    centres = atlas.centres_mm @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    size = np.array(grid[::-1])
    inside = ((centres > -0.5) & (centres < size - 0.5)).all(axis=1)
    voxel = np.abs(to_voxel[:3, :3]).sum(axis=1)
    rows, columns = [], []
    for region, (centre, radius) in enumerate(zip(centres, atlas.radii_mm, strict=True)):
        low = np.maximum(np.floor(centre - radius * voxel), 0).astype(int)
        high = np.minimum(np.ceil(centre + radius * voxel), size - 1).astype(int)
        axes = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
        x, y, z = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
        steps = np.stack([x, y, z], axis=1) - centre
        near = np.linalg.norm(steps @ affine[:3, :3].T, axis=1) <= radius + _ON_EDGE_MM
        near &= inside[region]
        columns.append(np.ravel_multi_index((z[near], y[near], x[near]), grid))
        rows.append(np.full(int(near.sum()), region))
    places = (np.concatenate(rows), np.concatenate(columns))
    members = csr_array(
        (np.ones(len(places[0])), places), shape=(len(atlas.names), int(np.prod(grid)))
    )
    return Parcellation(atlas.names, members, grid, atlas.centres_mm)


def _same_grid(atlas: LabelAtlas, grid: Shape, affine: Array) -> bool:
    if atlas.labels.shape != grid:
        return False
    corners = np.diag([*grid[::-1], 1.0])
    corners[:, 3] = 1.0
    return bool(np.abs(corners @ (atlas.affine - affine).T).max() < _SAME_GRID_MM)


def _grid_words(shape: Sequence[int], affine: Array) -> str:
    size = " × ".join(str(n) for n in shape[::-1])
    spacing = " × ".join(f"{mm:.3g}" for mm in np.linalg.norm(affine[:3, :3], axis=0))
    return f"{size} voxels of {spacing} mm"


def _known(left_out: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in left_out if name not in names]
    if unknown:
        raise CohortError(
            f"the atlas has no region called {', '.join(unknown)}", remedy=f"It has {names[0]} …"
        )


def _require(names: Sequence[str], kept: NDArray[np.bool_], problem: str) -> None:
    if not kept.all():
        lost = [name for name, there in zip(names, kept, strict=True) if not there]
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise LostRegion(
            f"{len(lost)} of {len(names)} regions have {problem}: {', '.join(lost[:5])}{more}",
            remedy="Check that both lie in the same space; else pass --leave-out NAME for each, or "
            "--drop-lost",
        )
