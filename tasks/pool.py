"""Bags to one vector a slide, or a patient."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..storage.bag_records import bag_id
from ..storage.bags import KIND as BAG
from ..storage.bags import Bag, read_bag
from ..storage.commit import is_done, product_key, require_commit
from ..storage.errors import BadModel, BadProduct, CohortError, InputError, MissingFile
from ..storage.slide_vectors import (
    KIND,
    How,
    Prototypes,
    SlideVectors,
    read_vectors,
    write_vectors,
)
from .cohort import Cohort
from .evaluation import some
from .pooling import find_prototypes, pool_mean, pool_prototypes, pool_weighted

if TYPE_CHECKING:
    from .mil.store import MilModel

VERSION = 1
"""Goes up when the same bags would give other vectors."""

SAMPLE_TILES = 100_000
"""Tiles of all bags together that prototypes are found on."""


@dataclass(frozen=True)
class PoolOptions:
    """How bags become vectors.

    Attributes
    ----------
    how
        ``mean`` of all tiles; mean weighted by the ``attention`` of a trained model; or the share
        of tiles that each ``prototype`` has.
    model
        Folder of a model of :mod:`~microtome.tasks.mil`, for ``attention``.
    k, seed
        Prototypes to find, and the seed.
    prototypes
        Folder of earlier vectors whose prototypes are used instead of finding new ones: those of
        the training slides, where others are to be tested on.
    """

    how: How = "mean"
    model: Path | None = None
    k: int = 16
    seed: int = 0
    prototypes: Path | None = None

    def __post_init__(self) -> None:
        if (self.how == "attention") != (self.model is not None):
            raise InputError(
                "attention needs a trained model, and nothing else does",
                where="--model",
                remedy="Pass --how attention --model OUT/model of microtome mil train",
            )
        if self.prototypes is not None and self.how != "prototype":
            raise InputError(
                "prototypes are for --how prototype", where="--prototypes", remedy="Leave it out"
            )


def by_patient(slides: SlideVectors, patient_of: dict[str, str]) -> SlideVectors:
    r"""One vector a patient: the mean of the slides' vectors, each weighted by its tiles.

    :math:`v_p = \sum_s n_s v_s / \sum_s n_s`. Of ``mean`` and ``prototype`` that is what all tiles
    of the patient give together; a slide of many tiles counts for more.

    Parameters
    ----------
    patient_of
        Patient of every slide.
    """
    patients = sorted({patient_of[name] for name in slides.ids})
    row_of = {name: row for row, name in enumerate(patients)}
    rows = np.array([row_of[patient_of[name]] for name in slides.ids])
    tiles = np.zeros(len(patients), np.int64)
    np.add.at(tiles, rows, slides.tiles)
    total = np.zeros((len(patients), slides.vectors.shape[1]))
    np.add.at(total, rows, slides.vectors.astype(np.float64) * slides.tiles[:, None])
    return SlideVectors(
        ids=tuple(patients),
        vectors=(total / tiles[:, None]).astype(np.float32),
        tiles=tiles,
        slides=np.bincount(rows, minlength=len(patients)).astype(np.int64),
        names=slides.names,
        how=slides.how,
        by="patient",
        encoder=slides.encoder,
        prototypes=slides.prototypes,
    )


def pool_bags(bags: Sequence[Path], options: PoolOptions | None = None) -> SlideVectors:
    """One vector a bag; of the bags, one is in memory at a time.

    Raises
    ------
    MissingFile, BadProduct
        There is none; or one is damaged, empty, holds numbers that are none, or was made in
        another way than the first.
    BadModel
        Model or prototypes are of other bags.
    InputError
        There are too few tiles for so many prototypes.
    """
    options = options or PoolOptions()
    paths = sorted(bags, key=bag_id)
    if not paths:
        raise MissingFile("there are no bags to pool", remedy="Name bags, or folders of them")
    model = _model(options)
    prototypes = _prototypes(paths, options) if options.how == "prototype" else None
    vectors, tiles, first = [], [], None
    for bag in _alike(paths):
        first = first or bag
        if prototypes is not None:
            _require_fit(bag, prototypes)
            vectors.append(pool_prototypes(bag.features, prototypes))
        elif model is not None:
            vectors.append(pool_weighted(bag.features, model.predict(bag).attention))
        else:
            vectors.append(pool_mean(bag.features))
        tiles.append(len(bag))
    assert first is not None
    return SlideVectors(
        ids=tuple(map(bag_id, paths)),
        vectors=np.array(vectors, np.float32),
        tiles=np.array(tiles, np.int64),
        slides=np.ones(len(paths), np.int64),
        names=_names(first, prototypes),
        how=options.how,
        by="slide",
        encoder=first.encoder,
        prototypes=prototypes,
    )


def _names(bag: Bag, prototypes: Prototypes | None) -> tuple[str, ...]:
    if prototypes is not None:
        return tuple(f"prototype_{i}" for i in range(len(prototypes.centres)))
    return bag.feature_names or tuple(f"feature_{i}" for i in range(bag.features.shape[1]))


def _model(options: PoolOptions) -> MilModel | None:
    if options.model is None:
        return None
    from .mil.store import load_model

    return load_model(options.model)


def _prototypes(paths: Sequence[Path], options: PoolOptions) -> Prototypes:
    if options.prototypes is not None:
        kept = read_vectors(options.prototypes)
        if kept.prototypes is None:
            raise BadModel("these vectors have no prototypes", where=options.prototypes)
        encoder = require_commit(paths[0], BAG).about["encoder"]
        if kept.encoder != encoder:
            raise BadModel(
                f"these prototypes are of {kept.encoder}, the bags of {encoder}",
                where=options.prototypes,
                remedy="Find new ones: leave --prototypes out",
            )
        return kept.prototypes
    of_each = max(1, SAMPLE_TILES // len(paths))
    sample = [_sample(bag, of_each, options.seed) for bag in _alike(paths)]
    return find_prototypes(np.concatenate(sample), options.k, seed=options.seed)


def _sample(bag: Bag, n: int, seed: int) -> NDArray[np.float32]:
    """Tiles of a bag, drawn alike whatever other bags there are."""
    if len(bag) <= n:
        return bag.features
    rng = np.random.default_rng([seed, zlib.crc32(bag.id.encode())])
    sampled: NDArray[np.float32] = bag.features[np.sort(rng.choice(len(bag), n, replace=False))]
    return sampled


def _require_fit(bag: Bag, prototypes: Prototypes) -> None:
    if bag.features.shape[1] != len(prototypes.mean):
        raise BadModel(
            f"the prototypes have {len(prototypes.mean)} features, the bag {bag.features.shape[1]}",
            where=bag.id,
        )


def _alike(paths: Sequence[Path]) -> Iterator[Bag]:
    """The bags, one after the other; all made alike, none empty, every number finite."""
    first: Bag | None = None
    for path in paths:
        bag = read_bag(path)
        if not len(bag):
            raise BadProduct("the bag has no tiles", where=path, remedy="Leave it out")
        if not np.isfinite(bag.features).all():
            raise BadProduct("a feature is not finite", where=path, remedy="Encode it again")
        first = first or bag
        if _made(bag) != _made(first):
            raise BadProduct(
                f"made in another way than {first.id}: {_words(bag)} in place of {_words(first)}",
                where=path,
                remedy="Encode all slides with one encoder and one set of options",
            )
        yield bag


def _made(bag: Bag) -> tuple[Any, ...]:
    return bag.encoder, bag.features.shape[1], bag.feature_names, bag.mpp, bag.tile_px


def _words(bag: Bag) -> str:
    return f"{bag.encoder}, {bag.features.shape[1]} features, {bag.tile_px} px at {bag.mpp:g} µm/px"


def pool_to(
    out: Path,
    bags: Sequence[Path],
    options: PoolOptions | None = None,
    *,
    cohort: Cohort | None = None,
    overwrite: bool = False,
) -> SlideVectors:
    """Pool bags and keep the vectors in ``out``; nothing is done where they are there already.

    Parameters
    ----------
    cohort
        Where a vector a patient is wanted: says whose the slides are. Every bag must be in it,
        and every slide of it must have a bag: a patient is not pooled from a part of the slides.

    Raises
    ------
    StaleProduct
        Vectors of other bags, or otherwise made, are there and ``overwrite`` is false.
    CohortError, MissingFile
        Cohort and bags do not list the same slides.
    """
    options = options or PoolOptions()
    patient_of = None if cohort is None else _patients(cohort, bags)
    key = _key(bags, options, patient_of)
    if is_done(out, kind=KIND, key=key, overwrite=overwrite):
        return read_vectors(out)
    vectors = pool_bags(bags, options)
    if patient_of is not None:
        vectors = by_patient(vectors, patient_of)
    about = {"k": options.k, "seed": options.seed} if options.how == "prototype" else {}
    write_vectors(out, vectors, key=key, about=about, overwrite=overwrite)
    return vectors


def _key(bags: Sequence[Path], options: PoolOptions, patient_of: dict[str, str] | None) -> str:
    parts: dict[str, Any] = {"how": options.how}
    if options.model is not None:
        parts["model"] = require_commit(options.model, "mil-model").key
    if options.prototypes is not None:
        parts["prototypes"] = require_commit(options.prototypes, KIND).key
    elif options.how == "prototype":
        parts |= {"k": options.k, "seed": options.seed}
    return product_key(
        kind=KIND,
        version=VERSION,
        bags=sorted([bag_id(path), require_commit(path, BAG).key] for path in bags),
        patients=patient_of,
        **parts,
    )


def _patients(cohort: Cohort, bags: Sequence[Path]) -> dict[str, str]:
    there = Counter(map(bag_id, bags))
    patient_of = {case.id: case.patient for case in cohort.cases}
    strangers = sorted(there.keys() - patient_of.keys())
    if strangers:
        raise CohortError(
            f"{len(strangers)} bags are of no slide in the table: {some(strangers)}",
            where=cohort.source,
            remedy="Add their rows, or name the other bags alone",
        )
    missing = sorted(patient_of.keys() - there.keys())
    if missing:
        raise MissingFile(
            f"{len(missing)} of {len(cohort)} slides have no bag: {some(missing)}",
            where=cohort.source,
            remedy="Encode them with microtome encode, or take their rows out",
        )
    return patient_of
