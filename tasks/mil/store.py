"""Models on disk: weights as safetensors, everything else as a card that a human can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...graphs.tissue import centres_um
from ...storage.bags import Bag
from ...storage.commit import new_product, require_commit, write_text
from ...storage.errors import BadModel, BadProduct
from ...storage.installed import installed_version
from ...storage.predictions import SlidePrediction
from ..calibration import tempered
from .model import BagModel
from .names import MODELS, Kind
from .predict import predict_bag, slide_prediction
from .train import MACHINE, TrainOptions, new_model, readable

KIND = "mil-model"
WEIGHTS = "members.safetensors"
CARD = "card.json"


class BagNeeds(BaseModel):
    """What a bag must be for a model to apply to it: what it was trained on, exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    n_features: int
    feature_names: tuple[str, ...]
    mpp: float
    tile_px: int

    @classmethod
    def of(cls, bag: Bag) -> BagNeeds:
        """What bags that are like this one are."""
        return cls(
            encoder=bag.encoder,
            n_features=bag.features.shape[1],
            feature_names=bag.feature_names,
            mpp=bag.mpp,
            tile_px=bag.tile_px,
        )

    def difference(self, bag: Bag) -> str | None:
        """In what a bag differs, in words; None where it does not."""
        other = BagNeeds.of(bag)
        words = {"n_features": "features", "mpp": "µm/px", "tile_px": "px tiles"}
        for name in BagNeeds.model_fields:
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its and name == "feature_names":
                return "its features have other names or another order"
            if mine != its:
                return f"{its} {words.get(name, '')}".strip() + f" in place of {mine}"
        return None


class ModelCard(BaseModel):
    """What a model is, what it was made from, how good it was found, and its limits.

    Attributes
    ----------
    options
        As in :class:`~microtome.tasks.mil.train.TrainOptions`.
    classes
        In the order of the outputs; names of labels or of the value where ``kind`` is another.
    temperature
        What makes probabilities of two classes mean what they say: fitted on the out-of-fold
        probabilities of models made in the same way. None of anything else.
    kind
        What is predicted, see :data:`~microtome.tasks.mil.names.Kind`.
    training
        Counts of slides and patients, SHA-256 of the slide ids and of the split.
    metrics
        Out-of-fold figures of models made in the same way, each with interval and n.
    limits
        Sentences for whoever uses it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    microtome: str
    options: dict[str, Any]
    classes: tuple[str, ...]
    members: int
    needs: BagNeeds
    training: dict[str, int | str]
    metrics: dict[str, dict[str, float]]
    limits: tuple[str, ...]
    kind: Kind = "classes"
    temperature: float | None = None


@dataclass(frozen=True)
class MilModel:
    """A predictor for new slides.

    Attributes
    ----------
    card
        Travels with it.
    members
        Predictions are their mean.
    key
        The product's key.
    """

    card: ModelCard
    members: tuple[BagModel, ...]
    key: str

    def predict(
        self,
        bag: Bag,
        *,
        device: str = "cpu",
        label: str | None = None,
        patient: str | None = None,
        calibrated: bool = False,
    ) -> SlidePrediction:
        """Predict a slide from its bag.

        Parameters
        ----------
        calibrated
            Change the slide's probabilities by the card's temperature; scores of tiles stay.

        Raises
        ------
        BadModel
            The bag was made in another way than those that the model was trained on; or the card
            has no temperature to calibrate by.
        """
        difference = self.card.needs.difference(bag)
        if difference is not None:
            raise BadModel(
                f"the model does not fit this bag: {difference}",
                where=bag.id,
                remedy=f"Encode the slide as the model's were: {_recipe(self.card.needs)}",
            )
        if not len(bag):
            raise BadProduct("the bag has no tiles", where=bag.id)
        said = predict_bag(self.members, self.read(bag), device=device)
        if calibrated:
            outputs = tempered(said.outputs, self.require_temperature())
            said = replace(said, outputs=outputs.astype(np.float32))
        return slide_prediction(
            bag,
            said,
            self.card.classes,
            model=self.key,
            kind=self.card.kind,
            label=label,
            patient=patient,
        )

    def read(self, bag: Bag) -> NDArray[np.float32]:
        """What its members look at: features [n, d], and behind them places if they ask."""
        return readable(self.card.options["model"], bag.features, centres_um(bag))

    def require_temperature(self) -> float:
        """The card's temperature; raises BadModel where it has none."""
        if self.card.temperature is None:
            raise BadModel(
                "the model has no temperature to calibrate by",
                remedy="Models of two classes have one; train one of an earlier version again",
            )
        return self.card.temperature


def _recipe(needs: BagNeeds) -> str:
    return f"{needs.encoder}, {needs.tile_px} px tiles at {needs.mpp:g} µm/px"


def new_card(
    options: TrainOptions,
    *,
    classes: Sequence[str],
    members: int,
    needs: BagNeeds,
    training: Mapping[str, int | str],
    metrics: Mapping[str, Mapping[str, float]],
    limits: Sequence[str],
    kind: Kind = "classes",
    temperature: float | None = None,
) -> ModelCard:
    """Make the card of a model that this version of Microtome trained."""
    return ModelCard(
        microtome=installed_version(),
        options=options.record(),
        classes=tuple(classes),
        members=members,
        needs=needs,
        training=dict(training),
        metrics={name: dict(values) for name, values in metrics.items()},
        limits=tuple(limits),
        kind=kind,
        temperature=temperature,
    )


def save_model(path: Path, model: MilModel, *, overwrite: bool = False) -> None:
    """Keep a model as ``members.safetensors`` and ``card.json``.

    Raises
    ------
    StaleProduct
        A model made with another key is there and ``overwrite`` is false.
    """
    card = model.card
    with new_model_product(
        path, model.key, card.classes, card.needs, overwrite=overwrite
    ) as folder:
        write_model(folder, model)


@contextmanager
def new_model_product(
    path: Path, key: str, classes: Sequence[str], needs: BagNeeds, *, overwrite: bool = False
) -> Iterator[Path]:
    """Make a model that is kept when the block ends well; what is unfinished is gone on with.

    Yields
    ------
    pathlib.Path
        Folder for :func:`write_model`, with what a killed run of the same key left there.
    """
    about = {"classes": classes, "encoder": needs.encoder}
    with new_product(
        path, kind=KIND, key=key, about=about, overwrite=overwrite, resume=True
    ) as folder:
        yield folder


def write_model(folder: Path, model: MilModel) -> None:
    """Write weights and card into a folder."""
    from safetensors.torch import save_file

    weights = {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, member in enumerate(model.members)
        for name, tensor in member.state_dict().items()
    }
    save_file(weights, folder / WEIGHTS)
    write_text(folder / CARD, model.card.model_dump_json(indent=1))


def load_model(path: str | Path) -> MilModel:
    """Load a model that :func:`save_model` kept. Nothing in it is executed.

    Raises
    ------
    MissingFile, BadProduct
        Nothing is there; or it is unfinished or no model.
    BadModel
        Card or weights are damaged, do not fit each other, or are of a later format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    key = require_commit(path, KIND).key
    try:
        card = ModelCard.model_validate_json((path / CARD).read_bytes())
        weights = load_file(path / WEIGHTS)
        options = _options(card)
        members = tuple(_member(card, options, weights, number) for number in range(card.members))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadModel.unusable(path, error) from error
    return MilModel(card, members, key)


def _options(card: ModelCard) -> TrainOptions:
    known = {field.name for field in fields(TrainOptions)} - set(MACHINE)
    if set(card.options) != known or card.options["model"] not in MODELS or card.format != 1:
        raise ValueError("made by another version of Microtome")
    return TrainOptions(**card.options)


def _member(
    card: ModelCard, options: TrainOptions, weights: Mapping[str, Any], number: int
) -> BagModel:
    member = new_model(options, card.needs.n_features, len(card.classes), card.kind)
    prefix = f"{number}."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    member.load_state_dict(own)
    return member.eval()
