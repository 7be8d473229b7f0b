"""Products that tests make, and what is in them."""

from __future__ import annotations

from pathlib import Path

from microtome.engine.ingest import Ingested
from microtome.engine.schedule import Skipped
from microtome.storage.commit import new_product, product_key

KEY = product_key(input="a")


def make(path: Path, key: str = KEY, *, text: str = "content", **options: bool) -> None:
    """A product of one small file."""
    with new_product(path, kind="thing", key=key, about={"n": 1}, **options) as folder:
        (folder / "part").write_text(text)


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def done(result: Ingested | Skipped[Ingested]) -> Ingested:
    """What an ingest made, which was not there before."""
    assert isinstance(result, Ingested)
    return result
