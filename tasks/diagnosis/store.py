"""Fitted models on disk: numbers as safetensors, everything else as a JSON card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...storage.errors import BadModel, MissingFile
from ...storage.files import write_bytes, write_text
from .graph_model import Backend, FittedGraphModel, GraphModel
from .models import (
    CovariateModel,
    Fitted,
    FittedCovariates,
    FittedLinear,
    FittedSite,
    LinearModel,
    SiteModel,
)
from .multiplex_model import FittedMultiplex, MultiplexModel
from .population import FittedPopulation, PersonSpace, Population, PopulationModel
from .steps import FittedPipeline
from .store_steps import step_of, step_parts

CARD, TENSORS = "card.json", "model.safetensors"
_STATE = "state."
_SPACE = ("mean", "sd", "axes", "covariate_mean", "covariate_sd")


def write_model(folder: Path, fitted: Fitted, card: Mapping[str, Any]) -> None:
    """Write a fitted model into a folder.

    Parameters
    ----------
    card
        What a user of the model must know: regions, measure, classes, what it was trained on.
    """
    from safetensors.numpy import save

    steps: list[dict[str, Any]] = []
    tensors: dict[str, NDArray[Any]] = {}
    while isinstance(fitted, FittedPipeline):
        record, numbers = step_parts(fitted.step, f"step{len(steps)}.")
        steps.append(record)
        tensors |= numbers
        fitted = fitted.fitted
    kind, hyper, numbers, extra = _parts(fitted)
    tensors |= numbers
    content = {**card, "kind": kind, "hyper": dict(hyper), "steps": steps, **extra}
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / TENSORS, save({k: np.ascontiguousarray(v) for k, v in tensors.items()}))
    write_text(folder / CARD, json.dumps(content, indent=1, allow_nan=False))


def read_model(folder: Path, *, backend: Backend = "dense") -> tuple[Fitted, dict[str, Any]]:
    """Read a model that :func:`write_model` wrote, and its card.

    Parameters
    ----------
    backend
        How a graph network is to pass messages; either can read what the other trained.

    Raises
    ------
    MissingFile, BadModel
        No model is there; or it is damaged or not of a kind that is known.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not (folder / CARD).is_file() or not (folder / TENSORS).is_file():
        raise MissingFile("no diagnosis model is here", where=folder, remedy="Check the path")
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        tensors = load((folder / TENSORS).read_bytes())
        fitted = _fitted(card, tensors, backend)
        steps = list(enumerate(card.get("steps", ())))
        for number, record in reversed(steps):
            fitted = FittedPipeline(step_of(record, tensors, f"step{number}."), fitted)
        return fitted, card
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadModel(
            f"the model is damaged ({error})", where=folder, remedy="Diagnose again"
        ) from error


def _parts(
    fitted: Fitted,
) -> tuple[str, Mapping[str, Any], dict[str, NDArray[Any]], dict[str, Any]]:
    match fitted:
        case FittedLinear() | FittedCovariates():
            arrays: dict[str, NDArray[Any]] = {
                "mean": fitted.mean,
                "sd": fitted.sd,
                "weights": fitted.weights,
                "intercept": np.array([fitted.intercept]),
            }
            kind = "linear" if isinstance(fitted, FittedLinear) else "covariates"
            return kind, fitted.model.describe(), arrays, {}
        case FittedSite():
            arrays = {"weights": fitted.weights, "intercept": np.array([fitted.intercept])}
            names = {"site_names": fitted.sites.tolist()}
            return "site", fitted.model.describe(), arrays, names
        case FittedGraphModel():
            arrays = {"mean": fitted.mean, "sd": fitted.sd}
            arrays |= {_STATE + name: value for name, value in fitted.state.items()}
            return "graph", fitted.model.describe(), arrays, {}
        case FittedMultiplex():
            arrays = {"mean": fitted.mean, "sd": fitted.sd}
            arrays |= {_STATE + name: value for name, value in fitted.state.items()}
            return "multiplex", fitted.model.describe(), arrays, {}
        case FittedPopulation():
            return "population", fitted.model.describe(), *_population_parts(fitted)
        case _:
            raise TypeError(f"no way is known to keep a {type(fitted).__name__}")


def _fitted(card: Mapping[str, Any], tensors: Mapping[str, Any], backend: Backend) -> Fitted:
    hyper = dict(card["hyper"])
    match card["kind"]:
        case "linear":
            return FittedLinear(*_weighed(tensors), LinearModel(**hyper))
        case "covariates":
            return FittedCovariates(*_weighed(tensors), CovariateModel(**hyper))
        case "site":
            return FittedSite(
                SiteModel(**hyper),
                np.array(card["site_names"], np.str_),
                tensors["weights"],
                float(tensors["intercept"][0]),
            )
        case "graph":
            hyper["widths"] = tuple(hyper["widths"])
            model = GraphModel(**hyper, backend=backend)
            return FittedGraphModel(model, tensors["mean"], tensors["sd"], _state(tensors))
        case "multiplex":
            layered = MultiplexModel(**hyper)
            return FittedMultiplex(layered, tensors["mean"], tensors["sd"], _state(tensors))
        case "population":
            return _population(card, PopulationModel(**hyper), tensors)
        case kind:
            raise ValueError(f"kind {kind!r} is not known")


def _weighed(
    tensors: Mapping[str, Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    mean, sd, weights = (tensors[name] for name in ("mean", "sd", "weights"))
    return mean, sd, weights, float(tensors["intercept"][0])


def _state(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    return {k.removeprefix(_STATE): v for k, v in tensors.items() if k.startswith(_STATE)}


def _population_parts(fitted: FittedPopulation) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    people = fitted.people
    arrays: dict[str, NDArray[Any]] = {name: getattr(fitted.space, name) for name in _SPACE}
    arrays |= {"features": people.features, "edges": fitted.edges}
    if people.covariates is not None:
        arrays["covariates"] = people.covariates
    arrays |= {_STATE + name: value for name, value in fitted.state.items()}
    sites = None if people.sites is None else people.sites.tolist()
    return arrays, {"people_sites": sites, "distance": fitted.space.distance}


def _population(
    card: Mapping[str, Any], model: PopulationModel, tensors: Mapping[str, NDArray[Any]]
) -> FittedPopulation:
    sites = card["people_sites"]
    people = Population(
        tensors["features"],
        None if sites is None else np.array(sites, np.str_),
        tensors.get("covariates"),
    )
    mean, sd, axes, covariate_mean, covariate_sd = (tensors[name] for name in _SPACE)
    distance = float(card["distance"])
    space = PersonSpace(mean, sd, axes, covariate_mean, covariate_sd, distance)
    return FittedPopulation(model, space, people, tensors["edges"], _state(tensors))
