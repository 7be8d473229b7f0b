"""What the benchmarks share: how a table is written, and what it was measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "docs" / "benchmarks"


def processor() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def measured_on(*packages: str) -> str:
    """A sentence on the machine, and on the versions of some packages."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} × {processor()}"
    return f"{machine}; {versions}." if versions else f"{machine}."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, line by line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def verdict(what: str, value: float, bar: float, *, unit: str = "") -> str:
    """Whether a bar is met; a bar is a least value, below zero (-bar) a greatest."""
    met = value >= bar if bar > 0 else value <= -bar
    side = "at least" if bar > 0 else "at most"
    word = "met" if met else "**not met**"
    return f"- {what}: {value:,.3g}{unit} (bar: {side} {abs(bar):,.6g}{unit}): {word}"


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """What a part of a run came to, as JSON; made unless an earlier run kept it."""
    if not file.is_file():
        found = json.dumps(make())
        file.write_text(found, encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def write_report(name: str, lines: Sequence[str]) -> None:
    """Write a page of docs/benchmarks."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
