"""``microtome view``: what it finds, what it answers, and all that it does not."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from microtome.cli.app import app
from microtome.engine.tissue import TissueMask, write_tissue
from microtome.storage.errors import InputError, MissingFile
from microtome.storage.predictions import SlidePrediction, write_predictions
from microtome.view import open_library, serve
from microtome.view.library import open_shown

SIDE = (600, 800)


def prediction(id_: str, probability: float, source: str = "", **changes) -> SlidePrediction:
    y, x = np.divmod(np.arange(48), 8)
    score = np.zeros(48, np.float32)
    score[10] = 1
    facts = {
        "id": id_, "probability": probability, "classes": ("normal", "tumour"),
        "probabilities": np.array([1 - probability, probability], np.float32), "target": "tumour",
        "label": None, "fold": None, "coords_px": np.stack([y, x], 1) * 100,
        "footprint_px": (100.0, 100.0), "slide_px": SIDE, "bounds_px": None,
        "slide_mpp": (0.5, 0.5), "score": score, "attention": np.full(48, 1 / 48, np.float32),
        "source": source, "encoder": "e@1", "model": "m",
    }  # fmt: skip
    return SlidePrediction(**{**facts, **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Two slides with predictions, one with a mask; and a secret beside them."""
    folder = tmp_path_factory.mktemp("view") / "results"
    (folder / "slides").mkdir(parents=True)
    for name, grey in (("low", 200), ("high", 150)):
        pixels = np.full((*SIDE, 3), grey, np.uint8)
        options = {"photometric": "rgb", "resolution": (20_000, 20_000), "resolutionunit": 3}
        tifffile.imwrite(folder / "slides" / f"{name}.tif", pixels, tile=(128, 128), **options)
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 30:50] = 1
    write_tissue(folder / "high.tissue.zarr", TissueMask(labels, (10.0, 10.0), (5.0, 5.0)), key="k")
    found = [prediction("low", 0.125), prediction("high", 0.75), prediction("gone", 0.5)]
    write_predictions(folder / "predictions", found, key="k", about={})
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "secret.txt").write_text("secret")
    return folder


@contextmanager
def served(place: Path) -> Iterator[int]:
    with serve(open_library([place])) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def port(results) -> Iterator[int]:
    with served(results) as port:
        yield port


def get(port: int, address: str, method: str = "GET", **headers: str):
    """As it is written: http.client sends the address without mending it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, address, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_slides_are_found_with_what_lies_over_them_the_most_suspicious_first(results):
    library = open_library([results])
    assert [s.id for s in library.shown] == ["high", "low"]
    assert [s.probability for s in library.shown] == [0.75, 0.125]
    opened = open_shown(library.shown[0])
    opened.close()
    assert [layer.name for layer in opened.layers] == ["slide", "score for tumour", "tissue"]
    (note,) = library.notes
    assert "gone" in note


def test_a_prediction_names_its_own_slide(results, tmp_path):
    shutil.copy(results / "slides/low.tif", tmp_path / "elsewhere.tif")
    one = prediction("far", 0.5, source=str(tmp_path / "elsewhere.tif"))
    write_predictions(tmp_path / "p", [one], key="k", about={})
    assert [s.id for s in open_library([tmp_path / "p"]).shown] == ["far"]


def test_an_overlay_of_another_slide_is_left_out_and_said(results, tmp_path):
    shutil.copytree(results / "slides", tmp_path / "b")
    write_predictions(
        tmp_path / "b/p", [prediction("low", 0.5, slide_px=(60, 80))], key="k", about={}
    )
    opened = open_shown(open_library([tmp_path / "b"]).shown[0])
    opened.close()
    assert [layer.name for layer in opened.layers] == ["slide"]
    assert "60 x 80" in opened.notes[0]


def test_nothing_to_look_at_is_said(tmp_path):
    with pytest.raises(MissingFile, match="no slide"):
        open_library([tmp_path])
    with pytest.raises(MissingFile, match="nowhere"):
        open_library([tmp_path / "nowhere"])


def test_the_page_its_parts_and_its_tiles_are_served(port):
    for address, kind in (
        ("/", "text/html"), ("/assets/view.js", "text/javascript"),
        ("/assets/view.css", "text/css"), ("/assets/openseadragon.min.js", "text/javascript"),
        ("/slides.json", "application/json"), ("/slides/0.json?x=1", "application/json"),
        ("/tiles/0/0/10/0_0", "image/jpeg"), ("/tiles/0/2/10/0_0", "image/png"),
    ):  # fmt: skip
        answer, body = get(port, address)
        assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, kind)
        assert int(answer.headers["Content-Length"]) == len(body) > 0
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        head, nothing = get(port, address, method="HEAD")
        assert (head.status, nothing) == (200, b"")
    facts = json.loads(get(port, "/slides/0.json")[1])
    assert (facts["id"], facts["width"], facts["height"], facts["mpp"]) == ("high", 800, 600, 0.5)
    tissue = np.asarray(Image.open(io.BytesIO(get(port, "/tiles/0/2/10/0_0")[1])))
    assert (tissue[200:400, 300:500, 3] == 255).all()
    assert (tissue[:190, :, 3] == 0).all()


REFUSED = [
    "/../secret.txt", "/../../secret.txt", "/assets/../secret.txt", "/assets/..%2f..%2fsecret.txt",
    "/assets/%2e%2e/%2e%2e/secret.txt", "/assets//etc/passwd", "//etc/passwd", "/etc/passwd",
    "/assets/....//secret.txt", "/assets/..\\..\\secret.txt", "/secret.txt", "/assets/secret.txt",
    "/assets/", "/assets/__init__.py", "/assets/view.html", "/predictions/commit.json",
    "/tiles/0/0/10/../../../../secret.txt", "/tiles/0/0/10/0_0/../../secret.txt",
    "/tiles/-1/0/10/0_0", "/tiles/0/-1/10/0_0", "/tiles/9/0/10/0_0", "/tiles/0/9/10/0_0",
    "/tiles/0/0/11/0_0", "/tiles/0/0/10/99_0", "/tiles/0/0/10/0_99", "/tiles/0/0/1e1/0_0",
    "/slides/7.json", "/slides/0.json%00",
    "/slides/../slides.json", "/%2e%2e/secret.txt", "secret.txt",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_nothing_else_is_served(port, address):
    answer, body = get(port, address)
    assert answer.status == 404
    assert body == b"not found"


def test_only_reading_is_possible(port):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert get(port, "/", method=method)[0].status == 501


def test_a_page_elsewhere_cannot_ask_by_another_name(port):
    assert get(port, "/slides.json", Host="evil.example")[0].status == 403
    assert get(port, "/slides.json", Host=f"evil.example:{port}")[0].status == 403
    # As a proxy would be asked: http.client takes the host from the address.
    assert get(port, "http://evil.example/slides.json")[0].status == 403
    assert get(port, "/slides.json", Host=f"localhost:{port}")[0].status == 200


def test_nobody_else_reaches_it(results):
    with serve(open_library([results])) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(InputError, match="--port"):
            serve(open_library([results]), server.server_port)


def test_a_slide_that_became_unreadable_is_named_and_the_server_goes_on(results, tmp_path):
    place = shutil.copytree(results, tmp_path / "copy")
    with served(place) as port:
        (place / "slides/high.tif").write_bytes(b"no slide")
        answer, body = get(port, "/slides/0.json")
        assert answer.status == 422
        assert b"high.tif" in body
        assert get(port, "/slides/1.json")[0].status == 200


def test_many_at_once_get_their_own_tiles(port):
    wrong = []

    def ask(number: int) -> None:
        slide = number % 2
        pixels = np.asarray(Image.open(io.BytesIO(get(port, f"/tiles/{slide}/0/10/0_0")[1])))
        if abs(int(pixels.mean()) - (150, 200)[slide]) > 2:
            wrong.append(number)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_command_says_where_it_is(results, monkeypatch):
    from http.server import ThreadingHTTPServer

    def interrupted(self) -> None:
        with socket.create_connection(self.server_address[:2], timeout=5):
            raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    line = ["view", str(results), "--port", "0", "--no-browser"]
    ended = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert ended.exit_code == 0
    assert "2 slides at http://127.0.0.1:" in ended.output
    assert "gone" in ended.output
