"""Fixtures that every floor's tests share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

_LONGEST = ("test_docs.py", "test_demo.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end one process would work on them, the other on nothing."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides, scans and connectomes beside the checkout; used in place, never copied."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not there: {folder}")
    return folder


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system of memory: ``mounted(size_kib=512)``; remount it with ``ro``.

    Root ignores permissions, so only a real file system says no.
    """
    places: list[Path] = []

    def mount(*, size_kib: int) -> Path:
        place = tmp_path / f"mount{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system may be mounted here ({error})")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def read_only(mounted: Callable[..., Path]) -> Path:
    """A folder on a file system that may only be read."""
    place = mounted(size_kib=256)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    return place


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """What ``microtome demo --small`` writes; made once for all tests, which only read it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    out = shared / "demo" / "demo-out"
    with FileLock(shared / "demo.lock"):
        if not (out / "report.html").is_file():
            command = [sys.executable, "-m", "microtome", "demo", "--small", "--out", str(out)]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ended.returncode == 0, ended.stderr[-3000:]
    return out


@pytest.fixture
def own_demo(small_demo: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may work in."""
    return Path(shutil.copytree(small_demo, tmp_path / "demo-out"))
