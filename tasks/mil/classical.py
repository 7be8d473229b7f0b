"""The classical sets of bags (MUSK, FOX, TIGER, ELEPHANT), as they circulate in MATLAB files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import InputError, LeakError, MissingFile

Features = NDArray[np.float32]

COLUMNS: Mapping[str, int] = {"musk1": 166, "musk2": 166, "fox": 230, "tiger": 230, "elephant": 230}
"""Features of an instance, by set; copies with one more hold the instances' labels in it."""

_REMEDY = "Take a copy without the instances' labels; figures from this one say nothing"


def read_classical(folder: Path) -> tuple[list[Features], NDArray[np.int64]]:
    """Read a set from ``X.mat``, ``Bag2.mat`` and ``BagI.mat``; the folder names the set.

    Returns
    -------
    bags, labels
        float32 [n_i, d] each, and int64 [b] of 0 and 1.

    Raises
    ------
    MissingFile
        A file is not there.
    InputError
        The folder names no set, or instances and bags do not go together.
    LeakError
        A column holds the labels of the instances, as in many circulating copies.

    References
    ----------
    Dietterich, Lathrop & Lozano-Pérez (1997), Solving the multiple instance problem with
    axis-parallel rectangles, Artificial Intelligence 89: MUSK. Andrews, Tsochantaridis & Hofmann
    (2002), Support vector machines for multiple-instance learning, NIPS: the others.
    """
    from scipy.io import loadmat

    if folder.name not in COLUMNS:
        raise InputError(f"no classical set; there are {', '.join(COLUMNS)}", where=folder)
    files = [folder / f"{name}.mat" for name in ("X", "Bag2", "BagI")]
    for file in files:
        if not file.is_file():
            raise MissingFile("no such file", where=file, remedy="Check the folder")
    features = np.asarray(loadmat(files[0])["X"], np.float32)
    bag = loadmat(files[1])["Bag2"].ravel()
    labels = loadmat(files[2])["bagI"].ravel().astype(np.int64)
    if len(features) != len(bag) or set(bag.tolist()) != set(range(1, len(labels) + 1)):
        raise InputError("instances and bags do not go together", where=folder)
    if features.shape[1] != COLUMNS[folder.name]:
        raise LeakError(
            f"{features.shape[1]} columns where {folder.name.upper()} has "
            f"{COLUMNS[folder.name]}: the extra column holds the labels of the instances",
            where=files[0],
            remedy=_REMEDY,
        )
    bags = [features[bag == number + 1] for number in range(len(labels))]
    refuse_instance_labels(bags, labels, files[0])
    return bags, labels


def refuse_instance_labels(
    bags: Sequence[Features], labels: NDArray[np.int64], where: str | Path
) -> None:
    """Refuse bags with a column of two values whose largest in a bag gives the bag's label.

    Whatever the number of columns: by MIL's assumption that is what labels of instances do.

    Raises
    ------
    LeakError
        Names the columns, the first being 1.
    """
    highest = np.stack([bag.max(axis=0) for bag in bags])
    lowest = np.stack([bag.min(axis=0) for bag in bags]).min(axis=0)
    labelled = np.where(labels[:, None] == 1, highest.max(axis=0), lowest)
    two = highest.max(axis=0) > lowest
    told = two & (highest == labelled).all(axis=0)
    if told.any():
        names = ", ".join(str(column + 1) for column in np.flatnonzero(told))
        raise LeakError(
            f"column {names} holds the labels of the instances", where=where, remedy=_REMEDY
        )
