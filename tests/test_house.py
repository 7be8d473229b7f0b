"""The rules of the house that a machine can hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("storage", "engine", "graphs", "tasks", "microtome")


def modules() -> list[Path]:
    found = [p for floor in FLOORS[:-1] for p in sorted((ROOT / floor).rglob("*.py"))]
    face = ROOT / "microtome"
    own = [p for p in sorted(face.rglob("*.py")) if p.relative_to(face).parts[0] not in FLOORS]
    return found + own


def package_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    inside = parts if parts[0] == "microtome" else ["microtome", *parts]
    return inside[:-1]


def floor_of(dotted: list[str]) -> str:
    return dotted[1] if len(dotted) > 1 and dotted[1] in FLOORS else "microtome"


def imported(path: Path) -> list[list[str]]:
    """Every module of ours that a file imports, at the top or inside a function, resolved."""
    here, found = package_of(path), []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            target = base + (node.module.split(".") if node.module else [])
            found += [[*target, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".") for alias in node.names]
    return [dotted for dotted in found if dotted[0] == "microtome"]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_floor_or_below(path: Path) -> None:
    mine = FLOORS.index(floor_of([*package_of(path), "_"]))
    climbs = [".".join(d) for d in imported(path) if FLOORS.index(floor_of(d)) > mine]
    assert not climbs


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_swallows_every_error_or_runs_what_a_file_says(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            assert caught not in ("", "Exception", "BaseException"), f"line {node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), node.lineno


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("statement", ["import microtome", "import microtome.cli.app"])
def test_importing_pulls_in_nothing_heavy(statement: str) -> None:
    heavy = ("torch", "tiatoolbox", "dgl", "nilearn", "sklearn", "pandas", "numpy", "zarr", "dask")
    listed = run("-c", f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])")
    assert listed.stdout.strip() == "[]", listed.stderr


def test_every_public_name_resolves() -> None:
    code = "import microtome; [getattr(microtome, n) for n in microtome.__all__]"
    assert run("-c", code).returncode == 0


def test_the_tree_has_the_top_level_that_the_design_names() -> None:
    for name in ("engine", "tasks", "graphs", "storage", "tests", "benchmarks"):
        assert (ROOT / name).is_dir()
    for floor in FLOORS[:-1]:
        assert (ROOT / "microtome" / floor).readlink() == Path("..") / floor


def test_locked_requirements_carry_hashes_and_name_no_host() -> None:
    for name in ("lock.txt", "uv.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert "://" not in text
        assert "--index" not in text
        assert text.count("--hash=sha256:") >= text.count("==")
