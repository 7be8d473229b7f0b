"""Ingest: Microtome's profiles beside the scripts and converters that people use instead.

Run: ``python benchmarks/ingest.py`` (about four minutes; writes docs/benchmarks). The peers are
installed into ``.venv-peers`` the first time, each with what it needs, from benchmarks/peers.
``--quick`` takes a small slide, installs nothing, and writes nothing. ``--large`` writes a page of
its own: memory against size, up to ten gigapixels (some 25 GB of disk, six minutes).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from large_slide import write_large_slide
from limit import decoding_seconds
from tables import ROOT, measured_on, table, verdict, write_report

REAL = ROOT.parent / "shared" / "data" / "slides" / "aperio" / "CMU-1-Small-Region.svs"
PEERS, VENVS = Path(__file__).parent / "peers", ROOT / ".venv-peers"
SIDE_PX, QUICK_PX = 20_480, 4096
LARGE_PX, SCALING_PX = (10_240, 40_960, 100_000), 40_960
ARCHIVE, COMPATIBLE, TWO = "microtome archive", "microtome compatible", "microtome compatible, 2"
NAIVE = "naive: OpenSlide, dask, to_zarr"
PYTHON_PEERS = ("ome-zarr-py", "ngff-zarr", "wsic convert")

ABOUT = (
    "Written by `benchmarks/ingest.py`. One slide into a new folder, each tool in a process of its "
    "own, one after the other. *Start* is what the same tool takes for a slide of a single tile: "
    "Python and its imports; the rates are without it, for every tool alike. CPU is that of the "
    "process and its children. Memory is the most that one process of it ever held (resident). "
    "Pixels are those of level 0. Every tool writes what it writes by default, pyramids included "
    "unless said; Microtome syncs every file to disk before it counts, the others do not."
)

ABOUT_LARGE = (
    "Written by `benchmarks/ingest.py --large`. One painted square of tissue, its JPEG tiles "
    "repeated (`benchmarks/large_slide.py`). Everything counts: start of Python, reading, writing, "
    "and forcing each file to disk. Memory is the most that one process ever held (resident)."
)

Command = Callable[[Path, Path], Sequence[str]]


def microtome(profile: str, jobs: int = 1) -> Command:
    """Our command line."""

    def command(slide: Path, out: Path) -> Sequence[str]:
        words = ("-m", "microtome", "ingest", str(slide), "--out", str(out))
        return sys.executable, *words, "--profile", profile, "--jobs", str(jobs)

    return command


def script(name: str, venv: str | None = None) -> Command:
    """A script of benchmarks/peers, in our environment or in the peer's."""
    python = sys.executable if venv is None else str(VENVS / venv / "bin" / "python")
    return lambda slide, out: (python, str(PEERS / name), str(slide), str(out / "image.zarr"))


def wsic(*words: str) -> Command:
    """wsic's command line."""
    tool = str(VENVS / "wsic" / "bin" / "wsic")
    return lambda slide, out: (
        tool,
        words[0],
        "-i",
        str(slide),
        "-o",
        str(out / "i.zarr"),
        *words[1:],
    )


def ngff_zarr(slide: Path, out: Path) -> Sequence[str]:
    """ngff-zarr's command line."""
    tool = str(VENVS / "ngff-zarr" / "bin" / "ngff-zarr")
    return tool, "-q", "-i", str(slide), "-o", str(out / "image.ome.zarr")


TOOLS: dict[str, tuple[Command, str | None]] = {
    ARCHIVE: (microtome("archive"), None),
    COMPATIBLE: (microtome("compatible"), None),
    TWO: (microtome("compatible", 2), None),
    NAIVE: (script("write_naive.py"), None),
    "ome-zarr-py": (script("write_ome_zarr.py", "ome-zarr"), "ome-zarr"),
    "ngff-zarr": (ngff_zarr, "ngff-zarr"),
    "wsic convert": (
        wsic("convert", "-c", "zstd", "-w", "2", "-t", "256", "256"), "wsic",
    ),
    "wsic transcode (level 0, no metadata)": (wsic("transcode"), "wsic"),
    "libvips dzsave (JPEG again)": (script("write_dzsave.py", "libvips"), "libvips"),
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds of wall clock and processor, MiB of memory, files and bytes."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    files: int
    size_bytes: int


def install_peers(*names: str) -> None:
    """Make each peer's environment, where it is not there yet."""
    uv = str(Path(sys.executable).parent / "uv")
    for name in names:
        needs = PEERS / f"{name}.txt"
        venv = VENVS / needs.stem
        if (venv / "ready").exists():
            continue
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, venv], check=True)
        python = str(venv / "bin" / "python")
        install = [uv, "pip", "install", "-q", "--python", python, "--require-hashes", "-r", needs]
        subprocess.run(install, check=True)
        (venv / "ready").touch()


def run(command: Command, slide: Path) -> Cost:
    """Run a tool once, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory(dir=slide.parent) as folder:
        out = Path(folder)
        start, before = time.perf_counter(), os.times()
        with subprocess.Popen(
            list(command(slide, out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            watch = _Watch(process.pid)
            said = process.communicate()[1]
            peak = watch.stop()
        if process.returncode:
            raise SystemExit(f"{process.args} ended with {process.returncode}:\n{said[-2000:]}")
        wall, after = time.perf_counter() - start, os.times()
        cpu = sum(after[2:4]) - sum(before[2:4])
        files = [path for path in out.rglob("*") if path.is_file()]
        return Cost(wall, cpu, peak, len(files), sum(path.stat().st_size for path in files))


def seconds_apart(command: Command, slide: Path, count: int) -> float:
    """Wall clock of so many runs at once that know nothing of each other."""
    with tempfile.TemporaryDirectory(dir=slide.parent) as folder:
        start = time.perf_counter()
        running = [
            subprocess.Popen(list(command(slide, Path(folder, str(n)))), stdout=subprocess.DEVNULL)
            for n in range(count)
        ]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("a run beside another failed")
        return time.perf_counter() - start


class _Watch:
    """Looks at a process and its children all the time; keeps the most that one of them held."""

    def __init__(self, pid: int) -> None:
        self._process, self._over, self._peak = psutil.Process(pid), threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> float:
        """MiB that the largest process held at most."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._over.wait(0.02):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                sizes = [most_held_mib(process.pid) for process in tree]
            except (psutil.NoSuchProcess, OSError):
                continue
            self._peak = max(self._peak, *sizes)


def most_held_mib(pid: int) -> float:
    """The most memory that a process has held so far (Linux), or holds now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(psutil.Process(pid).memory_info().rss / 2**20)


@dataclass(frozen=True)
class Rates:
    """A tool's cost for a slide, beside its cost for next to nothing."""

    cost: Cost
    start: Cost
    mpix: float

    @property
    def wall(self) -> float:
        """MPix per second of wall clock."""
        return self.mpix / (self.cost.wall_s - self.start.wall_s)

    @property
    def cpu(self) -> float:
        """MPix per second of processor."""
        return self.mpix / (self.cost.cpu_s - self.start.cpu_s)


def compare(slide: Path, one_tile: Path, names: Sequence[str], rounds: int) -> dict[str, Rates]:
    """Run every tool in turns, the quickest of its rounds counts."""
    height, width = pixels_of(slide)
    runs = [
        {name: (run(TOOLS[name][0], slide), run(TOOLS[name][0], one_tile)) for name in names}
        for _ in range(rounds)
    ]
    quickest = {
        name: [min((r[name][n] for r in runs), key=lambda cost: cost.wall_s) for n in (0, 1)]
        for name in names
    }
    return {name: Rates(*costs, height * width / 1e6) for name, costs in quickest.items()}


def pixels_of(slide: Path) -> tuple[int, int]:
    """(height, width) of level 0."""
    from microtome.engine.slides import open_slide

    with open_slide(slide) as opened:
        return opened.info.height_px, opened.info.width_px


def as_table(rates: dict[str, Rates], *, with_rates: bool) -> list[str]:
    """One row a tool."""
    header = ["tool", "seconds", "start", "memory (MiB)", "files", "MB"]
    rows = [
        [
            name, f"{r.cost.wall_s:,.2f}", f"{r.start.wall_s:,.2f}", f"{r.cost.peak_mib:,.0f}",
            f"{r.cost.files:,}", f"{r.cost.size_bytes / 1e6:,.0f}",
        ]
        for name, r in rates.items()
    ]  # fmt: skip
    if with_rates:
        header += ["MPix/s", "MPix per CPU second"]
        for row, r in zip(rows, rates.values(), strict=True):
            row += [f"{r.wall:,.0f}", f"{r.cpu:,.0f}"]
    return table(header, rows)


def bars(rates: dict[str, Rates], source_bytes: int) -> list[str]:
    """What came of what was asked for."""
    archive, ours = rates[ARCHIVE], rates[COMPATIBLE]
    lines = [
        verdict("archive, MPix/s of wall clock", archive.wall, 1000),
        verdict("archive, bytes over the source's", archive.cost.size_bytes / source_bytes, -1.06),
        verdict("compatible over naive, per CPU second", ours.cpu / rates[NAIVE].cpu, 5),
        verdict("two workers over one, wall clock", rates[TWO].wall / ours.wall, 1.8),
        verdict("memory of a process, MiB", max(archive.cost.peak_mib, ours.cost.peak_mib), -500),
    ]
    peers = [rates[name].cpu for name in PYTHON_PEERS if name in rates]
    if peers:
        best = ours.cpu / max(peers)
        lines.append(verdict("compatible over the best Python peer, per CPU second", best, 2.5))
    return lines


def large(folder: Path) -> list[str]:
    """Memory against size, two workers beside one, and the slide of ten gigapixels."""
    rows = []
    costs: dict[tuple[str, int], Cost] = {}
    for side in (256, *LARGE_PX):
        slide = write_large_slide(folder / f"{side}.tif", side)
        for name in (ARCHIVE, COMPATIBLE, TWO) if side in (256, SCALING_PX) else (ARCHIVE, TWO):
            cost = costs[name, side] = run(TOOLS[name][0], slide)
            rows.append(
                (
                    f"{side:,} × {side:,}", name, f"{cost.wall_s:,.1f}",
                    f"{side * side / 1e6 / cost.wall_s:,.0f}", f"{cost.peak_mib:,.0f}",
                    f"{cost.files:,}", f"{cost.size_bytes / 1e9:,.2f}",
                )
            )  # fmt: skip
            print(rows[-1], flush=True)
            if (name, side) == (COMPATIBLE, SCALING_PX):
                apart_s = seconds_apart(TOOLS[name][0], slide, 2)
        slide.unlink()
    header = ("slide (px)", "tool", "seconds", "MPix/s", "memory (MiB)", "files", "GB")
    lines = ["# Ingest, from a hundred megapixels to ten gigapixels", "", ABOUT_LARGE, ""]
    lines += [*table(header, rows), ""]
    largest = max(LARGE_PX)
    fastest = largest**2 / 1e6 / costs[ARCHIVE, largest].wall_s
    lines.append(verdict("archive of the largest, MPix/s, start and all", fastest, 1000))
    one, two = (
        costs[name, SCALING_PX].wall_s - costs[name, 256].wall_s for name in (COMPATIBLE, TWO)
    )
    words = f"two workers over one at {SCALING_PX:,} px, each without its start"
    lines.append(verdict(words, one / two, 1.8))
    apart = 2 * costs[COMPATIBLE, SCALING_PX].wall_s / apart_s
    lines.append(f"- what two runs of one worker each, at once, do over one: {apart:.3g}")
    for name in (ARCHIVE, TWO):
        sizes = [costs[name, side].peak_mib for side in LARGE_PX]
        lines.append(verdict(f"{name}, most memory over least", max(sizes) / min(sizes), -1.1))
        lines.append(verdict(f"{name}, memory of a process, MiB", max(sizes), -500))
    return lines


def peers(folder: Path, *, quick: bool, rounds: int) -> list[str]:
    """Our profiles beside others, on a painted slide and on a real one."""
    names = [name for name, (_, venv) in TOOLS.items() if venv is None or not quick]
    slides = [painted(folder / "painted.tif", QUICK_PX if quick else SIDE_PX)]
    if REAL.is_file():
        slides.append(Path(shutil.copy(REAL, folder)))
    one_tile = write_large_slide(folder / "tile.tif", 256)
    lines = ["# Ingest", "", ABOUT]
    for slide in slides:
        height, width = pixels_of(slide)
        size = slide.stat().st_size
        rates = compare(slide, one_tile, names, rounds)
        lines += ["", f"## {slide.name}, {width:,} × {height:,} px, {size / 1e6:,.1f} MB", ""]
        # A small slide's time is within the start's own spread: rates would say nothing.
        is_large = slide is slides[0]
        lines += [*as_table(rates, with_rates=is_large), ""]
        limit = height * width / 1e6 / decoding_seconds(slide)
        lines.append(f"Decoding alone: {limit:,.0f} MPix per CPU second.")
        lines += ["", *bars(rates, size)] if is_large else []
        print("\n".join(lines), flush=True)
    return lines


def painted(path: Path, side_px: int) -> Path:
    """A slide of which no two parts are alike, as repeated ones compress too well."""
    from microtome.engine.synthetic import plan_slide, write_slide

    write_slide(path, plan_slide(0, height_px=side_px, width_px=side_px, tissue_fraction=0.7))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rounds", type=int, default=2, help="The quickest of so many counts.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT) as text:
        if asked.large:
            lines, page = large(Path(text)), "ingest_large.md"
        else:
            if not asked.quick:
                install_peers("libvips", "ngff-zarr", "ome-zarr", "wsic")
            rounds = 1 if asked.quick else asked.rounds
            lines, page = peers(Path(text), quick=asked.quick, rounds=rounds), "ingest.md"
    lines += ["", measured_on("zarr", "dask", "tifffile", "simplejpeg", "openslide-python")]
    if not asked.quick:
        write_report(page, lines)


if __name__ == "__main__":
    main()
