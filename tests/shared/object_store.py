"""An S3 on loopback, moto's server, and a wire to it that is cut, or tampers, as a test says."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

BUCKET = "lab"


@dataclass
class Wire:
    """Forwards connections to a server.

    Attributes
    ----------
    cut
        (method, bytes): the next connection whose request has this method is cut when so many
        bytes have gone over it, either way; then that of the next pair is.
    flip
        Whether a bit of each long answer is turned.
    asked
        The first line of each request, as it goes by.
    cuts
        How many connections were cut.
    """

    to: tuple[str, int]
    cut: list[tuple[str, int]] = field(default_factory=list)
    flip: bool = False
    asked: list[str] = field(default_factory=list)
    cuts: int = 0

    def __post_init__(self) -> None:
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                inner, _ = self._door.accept()
                outer = socket.create_connection(self.to)
                left: list[int] = []
                for ends in ((inner, outer), (outer, inner)):
                    threading.Thread(
                        target=self._forward, args=(*ends, ends[0] is inner, left), daemon=True
                    ).start()

    def _forward(
        self, source: socket.socket, sink: socket.socket, is_request: bool, left: list[int]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_request:
                    lines = re.findall(rb"^((?:PUT|GET|HEAD|POST|DELETE) \S+) HTTP", data, re.M)
                    self.asked += [line.decode() for line in lines]
                    if self.cut and data.startswith(self.cut[0][0].encode()):
                        left.append(self.cut.pop(0)[1])
                elif self.flip and len(data) > 4096:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                if left:
                    data = data[: left[0]]
                    left[0] -= len(data)
                sink.sendall(data)
                if left and left[0] == 0:
                    self.cuts += 1
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def object_store(patch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """A bucket that is empty, and the wire that the environment leads to."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    wire = Wire(server.get_host_and_port())
    # What it holds outlives the server that held it.
    urllib.request.urlopen(f"http://{wire.to[0]}:{wire.to[1]}/moto-api/reset", data=b"").close()
    for name, value in (
        ("AWS_ENDPOINT_URL", wire.url),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client(wire).create_bucket(Bucket=BUCKET)
    wire.asked.clear()
    try:
        yield wire
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        wire.close()
        server.stop()


def client(wire: Wire) -> Any:
    """Amazon's own client, straight to the server: an independent look at what is there."""
    import boto3

    host, port = wire.to
    return boto3.client("s3", endpoint_url=f"http://{host}:{port}")


def contents(wire: Wire, prefix: str = "") -> dict[str, bytes]:
    """All objects of the bucket below a prefix, by their names below it."""
    asked = client(wire)
    pages = asked.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return {
        key.removeprefix(prefix): asked.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        for key in keys
    }


def upload(wire: Wire, key: str, data: bytes) -> str:
    """Put an object there; gives its URL."""
    client(wire).put_object(Bucket=BUCKET, Key=key, Body=data)
    return f"s3://{BUCKET}/{key}"
