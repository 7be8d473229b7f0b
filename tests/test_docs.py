"""Every command in the documentation is run, in the order of its page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


LONG = {
    "docs/tutorials/camel.md",
    "docs/how-to/encoders.md",
    "docs/how-to/exchange-bags.md",
    "docs/how-to/mil.md",
    "docs/how-to/qupath.md",
    "docs/how-to/tissue-graphs.md",
    "docs/how-to/train-an-encoder.md",
}
"""Pages whose commands take half a minute and more: for make test-all."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def marked(page: Path) -> Any:
    """A page as a parameter, with its length."""
    return pytest.param(page, marks=[pytest.mark.slow] if name_of(page) in LONG else [])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [marked(p) for p in PAGES if commands(p)], ids=name_of)
def test_commands_of_a_page_run(
    page: Path, own_demo: Path, shared_data: Path, tmp_path: Path
) -> None:
    assert own_demo == tmp_path / "demo-out"
    svs = shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    (tmp_path / "case-17.svs").symlink_to(svs)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in commands(page):
        assert shlex.split(command)[0] == "microtome", command
        ended = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stderr[-2000:]}"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_the_script_of_a_page_runs(page: Path, shared_data: Path, tmp_path: Path) -> None:
    svs = shared_data / "slides" / "aperio" / "CMU-1-Small-Region.svs"
    (tmp_path / "case-17.svs").symlink_to(svs)
    script = tmp_path / "script.py"
    script.write_text("\n".join(blocks(page, "python")))
    ended = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for expected in re.findall(r"^print\(.*# prints (.*)$", script.read_text(), re.MULTILINE):
        assert expected in ended.stdout, ended.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text())):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
