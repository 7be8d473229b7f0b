"""Training without labels: what is learnt, what a kill costs, and whether the result is of use."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.datasets import TiledSlide
from microtome.engine.schedule import Skipped
from microtome.engine.synthetic import SlideRecipe, plan_slide, write_slide
from microtome.storage.bags import read_bag
from microtome.storage.errors import (
    BadGeometry,
    BadModel,
    BadProduct,
    BadResolution,
    CorruptTiles,
    StaleProduct,
)
from microtome.tasks.encode_options import EncodeOptions
from microtome.tasks.encoders import Encoder, load_encoder
from microtome.tasks.encoders.torch_encoder import probe_dim
from microtome.tasks.encoders.trained import load_trained, new_backbone
from microtome.tasks.slide_list import SlideItem
from microtome.tasks.ssl.checkpoint import Entry, State, load_checkpoint, save_checkpoint
from microtome.tasks.ssl.data import Batches, DecodableTiles, order_of_epoch, tile_slide
from microtome.tasks.ssl.network import new_twins
from microtome.tasks.ssl.options import Machine, SslOptions
from microtome.tasks.ssl.train import SslTrained, train_encoder
from microtome.tasks.ssl.views import ViewOptions, draw_view, make_view

PX, MPP, STEPS = 32, 1.0, 40
QUICK = SslOptions("test_resnet", PX, MPP, steps=STEPS, batch=32, width=64, learning_rate=3e-3)
ONE_THREAD = Machine(threads=1)
LINE = ["--backbone", "test_resnet", "--tile-px", str(PX), "--batch", "16", "--threads", "1"]
PRODUCTS = ("encoder.safetensors", "card.json", "history.csv", "loss.png")


@dataclass(frozen=True)
class Case:
    path: Path
    recipe: SlideRecipe
    tiled: TiledSlide


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[Case]:
    """Two slides of a laboratory, with tumour and benign epithelium."""
    folder = tmp_path_factory.mktemp("slides")
    tiling = EncodeOptions(tile_px=PX, mpp=MPP)
    made = []
    for k, name in enumerate(("one", "two")):
        path = folder / f"{name}.tiff"
        recipe = plan_slide(
            k, height_px=2048, width_px=2048, tumour_fraction=0.3, benign_fraction=0.2
        )
        write_slide(path, recipe)
        made.append(Case(path, recipe, tile_slide(SlideItem(name, path), options=tiling)))
    return made


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory) -> SslTrained:
    made = train_encoder(
        [cases[0].tiled], tmp_path_factory.mktemp("out") / "own", options=QUICK, machine=ONE_THREAD
    )
    assert isinstance(made, SslTrained)
    return made


def read_all(tiled: TiledSlide) -> list[tuple[np.ndarray, int]]:
    with closing(DecodableTiles([tiled])) as tiles:
        return [tiles[i] for i in range(len(tiles))]


def pixels_of(case: Case) -> np.ndarray:
    """uint8 [n, t, t, 3]."""
    return np.stack([tile for tile, _ in read_all(case.tiled)])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_an_epoch_has_every_tile_once_in_runs_of_one_slide(counts, epoch) -> None:
    order = order_of_epoch(counts, 7, epoch)
    assert sorted(order.tolist()) == list(range(sum(counts)))
    assert order.tolist() == order_of_epoch(counts, 7, epoch).tolist()
    slide = np.searchsorted(np.cumsum(counts), order, side="right")
    changes = np.count_nonzero(np.diff(slide))
    assert changes < sum(-(-n // 8) for n in counts)


@given(st.integers(0, 30), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_batches_are_taken_up_anywhere_and_parted_between_processes(start, size) -> None:
    counts, batch = (30, 11, 25), 8
    whole = list(islice(Batches(counts, batch, 3), start + 4))
    assert list(islice(Batches(counts, batch, 3, start=start), 4)) == whole[start:]
    parts = [list(islice(Batches(counts, batch, 3, start, rank, size), 4)) for rank in range(size)]
    for number, own in enumerate(zip(*parts, strict=True)):
        assert sorted(chain.from_iterable(own)) == sorted(whole[start + number])
    first_epoch = list(chain.from_iterable(whole[: sum(counts) // batch]))
    assert len(first_epoch) == len(set(first_epoch))


def spoilt(case: Case, tmp_path: Path, first: int, last: int) -> TiledSlide:
    """A copy of a slide, of whose own tiles some are no JPEG any more."""
    path = tmp_path / "spoilt.tiff"
    data = bytearray(case.path.read_bytes())
    with tifffile.TiffFile(case.path) as tif:
        page = tif.pages[case.tiled.grid.level]
        for number in range(first, last):
            at, length = page.dataoffsets[number], page.databytecounts[number]
            data[at : at + length] = bytes(length)
    path.write_bytes(data)
    return TiledSlide(path, case.tiled.grid, case.tiled.mpp)


def test_a_tile_that_cannot_be_decoded_is_replaced_by_the_next_and_counted(cases, tmp_path) -> None:
    grid = cases[0].tiled.grid
    middle = len(grid) // 2
    y, x = grid.coords_px[middle] // 256
    seen = read_all(spoilt(cases[0], tmp_path, y * 8 + x, y * 8 + x + 1))
    whole = pixels_of(cases[0])
    lost = [i for i, (_, replaced) in enumerate(seen) if replaced]
    assert middle in lost
    assert 1 <= len(lost) < len(seen) // 4
    for i, (tile, replaced) in enumerate(seen):
        stands_for = next(k for k in range(i, i + 16) if k not in lost)
        assert np.array_equal(tile, whole[stands_for])
        assert (stands_for != i) == bool(replaced)


def test_a_slide_without_a_tile_that_can_be_decoded_is_refused(cases, tmp_path) -> None:
    with pytest.raises(CorruptTiles, match="16 tiles in a row"):
        read_all(spoilt(cases[0], tmp_path, 0, 64))


def agreement(encoder: Encoder, case: Case) -> float:
    """Mean correlation of each feature between two views of a slide's tiles."""
    tiles = torch.from_numpy(pixels_of(case)).permute(0, 3, 1, 2).float() / 255
    generator = torch.Generator().manual_seed(0)
    features = []
    for _ in range(2):
        view = make_view(tiles, draw_view(len(tiles), ViewOptions(), generator))
        pixels = (view * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        features.append(encoder.encode(pixels))
    count = features[0].shape[1]
    # A feature that is 0 of every tile agrees with nothing.
    with np.errstate(invalid="ignore"):
        together = np.corrcoef(*features, rowvar=False)[:count, count:].diagonal()
    return float(np.nan_to_num(together).mean())


def test_on_a_slide_it_never_saw_views_agree_more_than_by_the_untrained_network(
    cases, trained
) -> None:
    encoder = load_trained(trained.path)
    start = new_backbone("test_resnet", PX, seed=QUICK.seed).module.eval()
    before = agreement(replace(encoder, module=start), cases[1])
    assert agreement(encoder, cases[1]) > before + 0.05


def test_the_card_says_what_the_encoder_takes_and_that_it_has_not_collapsed(trained, cases) -> None:
    card = trained.card
    assert (card.tile_px, card.mpp, card.backbone) == (PX, MPP, "test_resnet")
    assert card.training["tiles"] == len(cases[0].tiled.grid)
    assert card.training["steps"] == STEPS
    pixels = pixels_of(cases[0]) / 255
    np.testing.assert_allclose(card.mean, pixels.mean((0, 1, 2)), atol=0.02)
    np.testing.assert_allclose(card.std, pixels.std((0, 1, 2)), atol=0.02)
    assert not trained.is_collapsed
    history = np.genfromtxt(trained.path / "history.csv", delimiter=",", names=True)
    assert history["step"].tolist() == [10, 20, 30, 40]
    assert history["loss"][-1] < history["loss"][0]


def test_the_encoder_gives_what_its_network_gives_by_hand(trained, cases) -> None:
    tiles = pixels_of(cases[0])[:5]
    by_hand = timm.create_model("test_resnet", num_classes=0)
    weights = load_file(trained.path / "encoder.safetensors")
    by_hand.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    card = trained.card
    pixels = (tiles / 255 - np.array(card.mean)) / np.array(card.std)
    with torch.inference_mode():
        wanted = by_hand.eval()(torch.from_numpy(pixels).float().permute(0, 3, 1, 2)).numpy()
    encoder = load_encoder(str(trained.path))
    np.testing.assert_allclose(encoder.encode(tiles), wanted, rtol=1e-3, atol=1e-4)
    assert (encoder.tile_px, encoder.mpp, encoder.dim) == (PX, MPP, wanted.shape[1])


def test_equal_options_skip_others_refuse_and_both_leave_the_encoder(trained, cases) -> None:
    before = (trained.path / "encoder.safetensors").read_bytes()
    again = train_encoder([cases[0].tiled], trained.path, options=QUICK, machine=ONE_THREAD)
    assert isinstance(again, Skipped)
    assert again.value == trained
    with pytest.raises(StaleProduct):
        train_encoder([cases[1].tiled], trained.path, options=QUICK, machine=ONE_THREAD)
    assert (trained.path / "encoder.safetensors").read_bytes() == before


def test_other_tiles_than_it_was_trained_on_are_refused(trained) -> None:
    with pytest.raises(BadModel, match="32 px, not 64"):
        load_encoder(str(trained.path), tile_px=64)
    with pytest.raises(BadResolution, match=r"trained at 1 µm/px, not at 0\.5"):
        load_encoder(str(trained.path), mpp=0.5)
    assert load_encoder(str(trained.path), mpp=1.1).mpp == 1.1


@pytest.mark.parametrize("file", ["encoder.safetensors", "card.json"])
def test_a_damaged_encoder_is_refused(trained, tmp_path, file) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / file).write_bytes((copy / file).read_bytes()[:-20])
    with pytest.raises(BadModel, match="cannot be used"):
        load_encoder(str(copy))
    (copy / "commit.json").unlink()
    with pytest.raises(BadProduct, match="not a finished encoder"):
        load_encoder(str(copy))


def test_weights_of_another_network_are_refused(trained, tmp_path) -> None:
    for path in trained.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "encoder.safetensors")
    with pytest.raises(BadModel, match="cannot be used"):
        load_encoder(str(tmp_path))


def test_too_few_tiles_and_unknown_models_are_refused(cases, tmp_path) -> None:
    with pytest.raises(BadGeometry, match="fewer than a batch of 9999"):
        train_encoder([cases[0].tiled], tmp_path / "a", options=replace(QUICK, batch=9999))
    with pytest.raises(BadModel, match="no such model"):
        train_encoder([cases[0].tiled], tmp_path / "b", options=replace(QUICK, backbone="resnet81"))
    with pytest.raises(BadGeometry, match="32 px at 1 µm/px, where the options say 64 px"):
        train_encoder([cases[0].tiled], tmp_path / "c", options=replace(QUICK, tile_px=64))
    with pytest.raises(ValueError, match="either steps or minutes"):
        SslOptions(steps=3, minutes=1)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_taken_up_to_the_last_bit(tmp_path) -> None:
    def network() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        twins = new_twins(new_backbone("test_resnet", PX).module, 96, 16, seed=1)
        return twins, torch.optim.AdamW(twins.parameters(), lr=1e-3)

    def steps(twins, optimiser, seeds) -> None:
        for seed in seeds:
            pixels = torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(seed))
            optimiser.zero_grad()
            sum(part.square().mean() for part in twins(pixels, pixels.flip(0))).backward()
            optimiser.step()

    straight, other = network(), network()
    steps(*straight, (0, 1))
    state = State(2, 1.5, 0, (Entry(2, 0.1, 1e-3, 0.3),))
    save_checkpoint(tmp_path / "c.safetensors", *straight, state)
    assert load_checkpoint(tmp_path / "c.safetensors", *other) == state
    for pair in (straight, other):
        steps(*pair, (2, 3))
    for one, two in zip(
        straight[0].state_dict().values(), other[0].state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)
    data = (tmp_path / "c.safetensors").read_bytes()
    (tmp_path / "c.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadProduct, match="training begins anew"):
        load_checkpoint(tmp_path / "c.safetensors", *network())
    assert load_checkpoint(tmp_path / "none.safetensors", *network()) is None


def killed_in_the_middle(command: list[str], out: Path) -> int:
    """Run, and kill -9 once a checkpoint is there; returns how many steps that holds."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        found = list(out.glob(".encoder.*.partial/checkpoint.safetensors"))
        if found:
            process.send_signal(signal.SIGKILL)
            process.wait()
            with safe_open(found[0], framework="np") as file:
                return int(file.metadata()["state"].split('"step": ')[1].split(",")[0])
        time.sleep(0.002)
    process.kill()
    pytest.fail("it ended before it was killed")


def test_after_a_kill_the_same_command_gives_the_same_bytes(cases, tmp_path) -> None:
    arguments = ["encoder", "train", str(cases[0].path), *LINE, "--steps", "30"]
    arguments += ["--checkpoint-steps", "2", "--out"]
    command = [sys.executable, "-m", "microtome", *arguments, str(tmp_path / "killed")]
    done = killed_in_the_middle(command, tmp_path / "killed")
    assert 0 < done < 30
    for out in ("killed", "straight"):
        ended = CliRunner().invoke(app, [*arguments, str(tmp_path / out)])
        assert ended.exit_code == 0, ended.output
    killed, straight = (tmp_path / out / "encoder" for out in ("killed", "straight"))
    for name in PRODUCTS:
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
    assert {p.name for p in killed.iterdir()} == {*PRODUCTS, "commit.json"}
    assert [p.name for p in (tmp_path / "killed").glob(".encoder*")] == []


def test_a_cohort_is_encoded_by_the_encoder_that_it_trained(cases, tmp_path) -> None:
    (tmp_path / "broken.tiff").write_bytes(b"no slide")
    slides = [str(case.path) for case in cases]
    command = ["encoder", "train", *slides, str(tmp_path / "broken.tiff"), *LINE]
    command += ["--minutes", "0.02", "--out", str(tmp_path / "own")]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 3, ended.output
    assert "rejected(unreadable) broken" in ended.output
    assert "of 2 slides" in ended.output
    encoder = str(tmp_path / "own" / "encoder")
    ended = CliRunner().invoke(
        app, ["encode", slides[0], "--encoder", encoder, "--out", str(tmp_path / "bags")]
    )
    assert ended.exit_code == 0, ended.output
    bag = read_bag(tmp_path / "bags" / f"{cases[0].path.stem}.bag.zarr")
    assert (bag.tile_px, bag.mpp, bag.features.shape[1]) == (PX, MPP, 96)
    assert bag.encoder.startswith("trained:test_resnet@")
    assert np.array_equal(bag.coords_px, cases[0].tiled.grid.coords_px)


def test_steps_and_minutes_together_are_refused(cases, tmp_path) -> None:
    both = ["--steps", "3", "--minutes", "1", "--out", str(tmp_path / "x")]
    assert CliRunner().invoke(app, ["encoder", "train", str(cases[0].path), *both]).exit_code == 2


def test_a_transformer_is_built_for_the_size_of_the_tiles(cases, tmp_path) -> None:
    options = SslOptions("test_vit", PX, MPP, steps=2, batch=8, width=16)
    made = train_encoder([cases[0].tiled], tmp_path / "vit", options=options)
    assert isinstance(made, SslTrained)
    assert made.card.arguments == {"img_size": PX}
    assert load_encoder(str(made.path)).tile_px == PX
    with pytest.raises(BadModel, match="does not take"):
        probe_dim(new_backbone("test_vit", 30).module, 30, "cpu", "test_vit")


@pytest.mark.slow
def test_processes_of_torchrun_train_one_encoder_together(cases, tmp_path) -> None:
    arguments = ["encoder", "train", str(cases[0].path), *LINE, "--backbone", "test_vit"]
    arguments += ["--steps", "12", "--out", str(tmp_path / "two")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, "--master-port", "29611", "-m", "microtome", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    encoder = load_encoder(str(tmp_path / "two" / "encoder"))
    assert encoder.dim == 64
    assert (tmp_path / "two" / "ledger.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_that_of_one_with_all_rows() -> None:
    script = Path(__file__).with_name("ssl_two_processes.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*torchrun, "--master-port", "29612", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
