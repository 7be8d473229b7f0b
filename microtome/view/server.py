"""The server: on this machine only, reads only, and serves nothing but what it was given.

No address names a file: slides and layers are numbers, assets are names of a fixed list. What is
not one of the few addresses below is not found, whatever it leads to on the disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..assets import OPENSEADRAGON, read_asset
from ..storage.errors import InputError, MicrotomeError
from ..tasks.layers import Layer
from ..tasks.zoom import DeepZoom
from .library import Library, Opened, open_shown

HOST = "127.0.0.1"
_N = "([0-9]{1,9})"
_KEPT_OPEN = 8
_JPEG_QUALITY = 85
_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; script-src 'self'; style-src 'self' "
    "'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Answer:
    """What is sent: a status, a type and the bytes."""

    status: HTTPStatus
    kind: str
    body: bytes
    keep_s: int = 0


class Viewer:
    """Answers addresses: a function of the library, apart from sockets.

    Parameters
    ----------
    library
        What may be looked at; nothing else is ever read.
    crop
        False shows the whole of level 0 of a slide that states bounds.
    """

    def __init__(self, library: Library, *, crop: bool = True) -> None:
        self._library, self._crop = library, crop
        self._open: dict[int, Opened] = {}
        self._lock = Lock()
        self._routes: Sequence[tuple[re.Pattern[str], Callable[..., Answer]]] = [
            (re.compile(r"/"), self._page),
            (re.compile(r"/assets/([a-z.]{1,40})"), self._asset),
            (re.compile(r"/slides\.json"), self._slides),
            (re.compile(rf"/slides/{_N}\.json"), self._slide),
            (re.compile(rf"/tiles/{_N}/{_N}/{_N}/{_N}_{_N}"), self._tile),
        ]

    def answer(self, address: str) -> Answer:
        """What belongs to an address (the path, without what follows a question mark)."""
        for pattern, make in self._routes:
            matched = pattern.fullmatch(address)
            if matched:
                try:
                    return make(*matched.groups())
                except LookupError:
                    break
                except MicrotomeError as error:
                    return _text(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        return _text(HTTPStatus.NOT_FOUND, "not found")

    def close(self) -> None:
        """Release the slides that are open."""
        while self._open:
            self._open.popitem()[1].close()

    def _page(self) -> Answer:
        return Answer(HTTPStatus.OK, "text/html; charset=utf-8", _own("view.html"))

    def _asset(self, name: str) -> Answer:
        kind, read = _ASSETS[name]
        return Answer(HTTPStatus.OK, f"{kind}; charset=utf-8", read(name), 3600)

    def _slides(self) -> Answer:
        slides = [
            {"id": s.id, "probability": s.probability, "target": s.target, "label": s.label}
            for s in self._library.shown
        ]
        return _json({"slides": slides, "notes": self._library.notes})

    def _slide(self, number: str) -> Answer:
        opened = self._opened(int(number))
        y, x, height, width = opened.zoom.box_px
        layers = [
            {"name": layer.name, "legend": [[s.name, *s.colour] for s in layer.legend]}
            for layer in opened.layers
        ]
        mpp = opened.info.mpp
        return _json(
            {
                "id": opened.shown.id,
                "width": width,
                "height": height,
                "origin_px": [y, x],
                "tile_px": opened.zoom.tile_px,
                "last": opened.zoom.last,
                "mpp": None if mpp is None else mpp[1],
                "layers": layers,
                "notes": opened.notes,
            }
        )

    def _tile(self, number: str, layer: str, level: str, column: str, row: str) -> Answer:
        opened = self._opened(int(number))
        drawn = tile(opened.zoom, opened.layers[int(layer)], int(level), int(column), int(row))
        return Answer(HTTPStatus.OK, drawn[0], drawn[1], 3600)

    def _opened(self, number: int) -> Opened:
        shown = self._library.shown[number]
        with self._lock:
            if number not in self._open:
                self._open[number] = open_shown(shown, crop=self._crop)
                while len(self._open) > _KEPT_OPEN:
                    # Whoever reads it still holds it: it is closed when nobody does.
                    del self._open[next(iter(self._open))]
            return self._open[number]


def tile(zoom: DeepZoom, layer: Layer, level: int, column: int, row: int) -> tuple[str, bytes]:
    """A tile's type and bytes; LookupError where there is none."""
    import cv2

    place = zoom.place(level, column, row)
    if place is None:
        raise LookupError(f"no tile {level}/{column}_{row}")
    drawn = layer.draw(place)
    if drawn.shape[2] == 3:
        bgr, end, options = drawn[..., ::-1], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    else:
        bgr, end, options = drawn[..., [2, 1, 0, 3]], ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
    packed = cv2.imencode(end, np.ascontiguousarray(bgr), options)[1]
    return f"image/{'jpeg' if end == '.jpg' else 'png'}", packed.tobytes()


def serve(library: Library, port: int = 0, *, crop: bool = True) -> Server:
    """A server that is bound and answers once ``serve_forever`` is called.

    Parameters
    ----------
    port
        0 takes any that is free: see ``server_address``.

    Raises
    ------
    InputError
        The port is taken.
    """
    try:
        return Server((HOST, port), Viewer(library, crop=crop))
    except OSError as error:
        raise InputError(
            f"port {port} cannot be had: {error.strerror}", remedy="Name another with --port"
        ) from error


class Server(ThreadingHTTPServer):
    """Bound to this machine alone; a thread for each connection."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], viewer: Viewer) -> None:
        self.viewer = viewer
        super().__init__(address, _Handler)

    def server_close(self) -> None:
        """Let go of the port and of the slides."""
        super().server_close()
        self.viewer.close()


class _Handler(BaseHTTPRequestHandler):
    """Reads requests, checks whom they are for, and sends answers."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "microtome", ""

    def do_GET(self) -> None:
        """Answer."""
        self._send(self._answer(), with_body=True)

    def do_HEAD(self) -> None:
        """Answer without what was asked for."""
        self._send(self._answer(), with_body=False)

    def _answer(self) -> Answer:
        # A page elsewhere may give this machine a name of its own, to read through the browser.
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            return _text(HTTPStatus.FORBIDDEN, "not a name of this machine")
        return self.server.viewer.answer(self.path.partition("?")[0])

    def _send(self, answer: Answer, *, with_body: bool) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        keep = f"private, max-age={answer.keep_s}" if answer.keep_s else "no-store"
        self.send_header("Cache-Control", keep)
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing of every tile."""


def _own(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


_ASSETS: Mapping[str, tuple[str, Callable[[str], bytes]]] = {
    OPENSEADRAGON: ("text/javascript", lambda name: read_asset(name).encode()),
    "view.js": ("text/javascript", _own),
    "view.css": ("text/css", _own),
}


def _json(value: Any) -> Answer:
    return Answer(HTTPStatus.OK, "application/json", json.dumps(value, allow_nan=False).encode())


def _text(status: HTTPStatus, words: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", words.encode())
