"""The page on slide formats says what the files really gave."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def test_the_page_is_current(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parents[2] / "scripts" / "reading_table.py"
    spec = importlib.util.spec_from_file_location("reading_table", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    written = module.REPORT.read_text(encoding="utf-8")
    assert module.document(shared_data / "slides") == written, "run scripts/reading_table.py"
