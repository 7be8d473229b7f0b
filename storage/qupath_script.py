"""The script that loads a folder of results into the images of a QuPath project."""

from __future__ import annotations

from pathlib import Path

from .files import writable, write_text

NAME = "load_results.groovy"


def write_load_script(folder: Path, results: Path | None = None) -> Path:
    """Write ``load_results.groovy`` into a folder; what it says is in itself.

    Parameters
    ----------
    results
        Folder of the GeoJSON files; that of the script by default.

    Raises
    ------
    UnwritableOutput
        Permission denied, read-only or full file system.
    """
    text = (Path(__file__).parent / NAME).read_text(encoding="utf-8")
    path = folder / NAME
    with writable(path):
        write_text(path, text.replace("@FOLDER@", _groovy_text(str((results or folder).resolve()))))
    return path


def _groovy_text(text: str) -> str:
    """A text as Groovy has it in single quotes, in which nothing is filled in."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"
