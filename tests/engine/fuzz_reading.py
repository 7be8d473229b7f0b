"""Read damaged copies of slides and scans; run by test_fuzz as a process of its own.

python fuzz_reading.py SEED CASES SCRATCH FILE...

Prints a JSON object a line: a case before it is tried, its outcome after. A case that takes too
long ends the process with the stack that it hangs in; so does one that takes too much memory.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import sys
import traceback
from pathlib import Path

import numpy as np

from microtome.engine.slides import Slide, open_slide
from microtome.engine.tiles import read_overview
from microtome.engine.volumes import open_volume
from microtome.storage.errors import MicrotomeError

CASE_LIMIT_S = 20
MEMORY_LIMIT_BYTES = 4 * 1024**3
DAMAGE = ("cut", "bits", "header bits", "bytes", "zeros", "swapped", "doubled")
SCANS = (".nii", ".nii.gz", ".nrrd", ".mha", "CT_small.dcm")
_HEADER = 1024


def damage(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A copy with one kind of damage."""
    broken, n = bytearray(data), len(data)
    if kind == "cut":
        return data[: int(n * rng.random() ** 2)]
    if kind in ("bits", "header bits"):
        reach = min(n, _HEADER) if kind == "header bits" else n
        for at in rng.integers(0, reach, int(2 ** rng.integers(0, 7))):
            broken[at] ^= 1 << int(rng.integers(0, 8))
        return bytes(broken)
    size = int(rng.integers(1, min(n // 4, 4096)))
    at, other = (int(v) for v in rng.integers(0, n - size, 2))
    part = {
        "bytes": rng.bytes(size),
        "zeros": bytes(size),
        "swapped": data[other : other + size],
        "doubled": data[at : at + size] * 2,
    }[kind]
    broken[at : at + size] = part
    return bytes(broken)


def read(slide: Slide, rng: np.random.Generator) -> None:
    """Some of everything: every level, the associated images, an overview where that is quick."""
    for at, level in enumerate(slide.info.levels):
        height, width = min(level.height_px, 600), min(level.width_px, 600)
        y = int(rng.integers(0, level.height_px - height + 1))
        x = int(rng.integers(0, level.width_px - width + 1))
        if slide.info.channels:
            values = slide.read_channels(at, y, x, height, width)
            assert values.shape == (len(slide.info.channels), height, width), values.shape
            assert values.dtype == slide.info.dtype
            continue
        pixels = slide.read(at, y, x, height, width)
        assert pixels.shape == (height, width, 3), pixels.shape
        assert pixels.dtype == np.uint8
    for name in slide.info.associated:
        slide.associated_image(name)
    if not slide.info.channels and slide.info.height_px * slide.info.width_px < 10**8:
        read_overview(slide, max_px=200)


def read_scan(path: Path) -> None:
    """All of it."""
    volume = open_volume(path)
    assert volume.data[...].shape == volume.shape
    assert volume.affine.shape == (4, 4)


def outcome(path: Path, rng: np.random.Generator) -> dict[str, str]:
    """How the reading of a file ended: ``read``, a named error, or ``escaped`` with the stack."""
    try:
        if path.name.endswith(SCANS):
            read_scan(path)
        else:
            with open_slide(path) as slide:
                read(slide, rng)
    except MicrotomeError as error:
        return {"end": type(error).__name__, "message": str(error)}
    except BaseException:  # noqa: BLE001 - whatever it is, it is what we look for
        return {"end": "escaped", "message": traceback.format_exc()}
    return {"end": "read", "message": ""}


def main(seed: int, cases: int, scratch: Path, slides: list[Path]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    for number in range(cases):
        rng = np.random.default_rng((seed, number))
        original = slides[number % len(slides)]
        kind = DAMAGE[int(rng.integers(len(DAMAGE)))]
        case = {"seed": seed, "number": number, "slide": original.name, "damage": kind}
        print(json.dumps(case), flush=True)
        path = scratch / f"{seed}-{original.name}"
        path.write_bytes(damage(original.read_bytes(), kind, rng))
        faulthandler.dump_traceback_later(CASE_LIMIT_S, exit=True)
        end = outcome(path, rng)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(case | end), flush=True)
    print(json.dumps({"peak_mib": peak_mib()}), flush=True)


def peak_mib() -> int:
    """What this process held at most; ru_maxrss would count the one that started it as well."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), [Path(p) for p in sys.argv[4:]])
