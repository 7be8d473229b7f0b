"""Which formats of slides and scans are read, by what, and what of them: docs/reference/formats.md.

Run: ``python scripts/reading_table.py [FOLDER]``. FOLDER has slides, by default those beside the
checkout, and ``scans`` lie beside it. Every line is of a file that was read while this ran.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.engine.slides import Slide, open_slide
from microtome.engine.slides.base import ChannelSlide
from microtome.engine.slides.registry import Reader, readers
from microtome.engine.volumes import open_volume
from microtome.storage.errors import MicrotomeError

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "reference" / "formats.md"
SLIDES = ROOT.parent / "shared" / "data" / "slides"
LOOK_PX = 768
"""Side of the part in the middle of level 0 that readers are compared by."""

FILES = (
    "aperio/CMU-1-Small-Region.svs",
    "derived/CMU-1-Small-Region.ome.tif",
    "derived/CMU-1-Small-Region_dicom_exact",
    "derived/CMU-1-Small-Region_dicom_pyramid",
    "dicom/multi_frame_jpeg_camelyon_challenge_image.dcm",
    "plain/kidney-48-5.tif",
    "akoya/small_vectra.qptiff",
    "synthetic/boxes.tiff",
    "synthetic/boxes_0.dcm",
    "synthetic/boxes_1.dcm",
    "synthetic/small.svs",
    "synthetic/cells.ome.tif",
    "synthetic/cells-2c.ome.tif",
    "synthetic/cells-2t.ome.tif",
    "synthetic/cells-2z.ome.tif",
    "synthetic/cells-gray16.tif",
    "bad/broken.svs",
    "bad/broken-html.svs",
    "bad/unopenable.tiff",
    "bad/unreadable.svs",
)
SCANS = (
    "ct_abdomen_3slice/dicom",
    "ct_abdomen_3slice/liver_seg.nrrd",
    "ct_philips_head_phantom/dicom",
    "mr_ge_epi_4d/dicom",
    "mr_rle_compressed/dicom",
    "mr_siemens_mosaic/dicom",
    "mr_siemens_multiframe/dicom",
    "single/CT_small.dcm",
    "single/MR_small.dcm",
    "nifti/nibabel_example4d.nii.gz",
    "nifti/nibabel_example_nifti2.nii.gz",
    "nifti/spm12_PET.nii",
    "ct_abdomen_3slice",
    "ct_abdomen_3slice/liver.dcm",
    "bad/MR_truncated.dcm",
    "bad/badVR.dcm",
    "bad/DICOMDIR",
    "bad/no_meta.dcm",
    "bad/notavolume",
    "bad/rtplan_truncated.dcm",
)
UNTRIED = (
    ("Hamamatsu", ".ndpi, .vms, .vmu"),
    ("MIRAX", ".mrxs"),
    ("Leica", ".scn"),
    ("Philips", ".tiff"),
    ("Ventana", ".bif, .tif"),
    ("Sakura", ".svslide"),
    ("Trestle", ".tif"),
)

ABOUT = f"""# Formats of slides and scans

Written by `scripts/reading_table.py` from files that were read while it ran; a test fails when
it no longer holds. *Opened with* is the reader that is chosen by the file's content; of the
others, asked for by name, those are listed that open it. *Equal* means that the middle of level 0
({LOOK_PX} px) has the very same pixels as with the chosen reader.
"""

ABOUT_SCANS = """## Scans

What a scan is opened as is decided by its content too. *Axes* says where the columns, rows and
slices run to (R right, A front, S head of the patient). MetaImage (MHA, MHD), PET with a dose, and
tilted or uneven stacks are read from files that the tests write; see
[the page on scans](../how-to/scans.md).
"""

SCAN_COLUMNS = (
    "| file or folder | opened with | modality | [t,] z, y, x | z, y, x (mm) | axes | values "
    "| unit |"
)

COLUMNS = (
    "| file | opened with | format | values | size (px) | downsamples | tiles (px) | µm/px (from) "
    "| associated | other readers |"
)


@dataclass(frozen=True)
class Reading:
    """What one reader made of one file: a look at its pixels, or why there is none."""

    slide: str
    pixels: NDArray[Any] | None


def attempt(path: Path, reader: str | None) -> tuple[str, Reading]:
    """Open and read with a reader: its name, and what came of it."""
    try:
        with open_slide(path, reader=reader) as slide:
            return slide.info.backend, Reading(describe(slide), look(slide))
    except MicrotomeError as error:
        return "", Reading(f"{error.reason}: {error.what}", None)


def look(slide: Slide) -> NDArray[Any]:
    """The middle of level 0."""
    height, width = min(LOOK_PX, slide.info.height_px), min(LOOK_PX, slide.info.width_px)
    y, x = (slide.info.height_px - height) // 2, (slide.info.width_px - width) // 2
    if slide.info.channels and isinstance(slide, ChannelSlide):
        return slide.read_channels(0, y, x, height, width)
    return slide.read(0, y, x, height, width)


def describe(slide: Slide) -> str:
    """Vendor, size, levels, tiles, resolution and associated images, in cells of a row."""
    info = slide.info
    levels = ", ".join(f"{level.downsample_y:.4g}" for level in info.levels)
    tile = info.levels[0].tile_px
    mpp = "none" if info.mpp is None else f"{info.mpp[1]:.4g} ({info.mpp_source})"
    cells = (
        info.vendor,
        f"{info.dtype}: {', '.join(info.channels)}" if info.channels else "RGB",
        f"{info.height_px} × {info.width_px}",
        levels,
        "strips" if tile is None else f"{tile[0]} × {tile[1]}",
        mpp,
        ", ".join(info.associated) or "none",
    )
    return " | ".join(cells)


def compared(ours: Reading, theirs: Reading) -> str:
    """What another reader made of a file, beside the chosen one."""
    if ours.pixels is None or theirs.pixels is None or ours.pixels.shape != theirs.pixels.shape:
        return "another image"
    difference = np.abs(ours.pixels.astype(int) - theirs.pixels).max()
    return "equal" if difference == 0 else f"differs by up to {difference}"


def rows(folder: Path, known: tuple[Reader, ...]) -> tuple[list[str], list[str]]:
    """Lines of the files that are read, and of those that are refused."""
    read, refused = [], []
    for name in FILES:
        path = folder / name
        chosen, ours = attempt(path, None)
        if ours.pixels is None:
            refused.append(f"| {name} | {ours.slide} |")
            continue
        others = [
            f"{reader.name}: {compared(ours, theirs)}"
            for reader in known
            if reader.name != chosen
            and (theirs := attempt(path, reader.name)[1]).pixels is not None
        ]
        read.append(f"| {name} | {chosen} | {ours.slide} | {', '.join(others) or 'none'} |")
    return read, refused


def scan_row(path: Path, name: str) -> tuple[bool, str]:
    """Whether a scan is read, and its line."""
    import nibabel

    try:
        volume = open_volume(path)
        volume.data[tuple(n // 2 for n in volume.shape[:-2])]
    except MicrotomeError as error:
        return False, f"| {name} | {error.reason}: {error.what} |"
    cells = (
        name,
        volume.backend,
        volume.modality,
        " × ".join(str(n) for n in volume.shape),
        " × ".join(f"{mm:.4g}" for mm in volume.spacing_mm),
        "".join(nibabel.aff2axcodes(volume.affine)),
        str(volume.stored.dtype),
        volume.unit or "not stated",
    )
    return True, f"| {' | '.join(cells)} |"


def scan_lines(folder: Path) -> list[str]:
    """The part on scans."""
    found = [scan_row(folder / name, name) for name in SCANS]
    return [
        ABOUT_SCANS,
        SCAN_COLUMNS,
        "|" + "---|" * (SCAN_COLUMNS.count("|") - 1),
        *(line for is_read, line in found if is_read),
        "",
        "| refused | why |",
        "|---|---|",
        *(line for is_read, line in found if not is_read),
    ]


def document(folder: Path) -> str:
    """The whole page."""
    known = readers()
    read, refused = rows(folder, known)
    lines = [
        ABOUT,
        "| reader | for |",
        "|---|---|",
        *(f"| {reader.name} | {reader.what} |" for reader in known),
        "",
        "## Slides",
        "",
        COLUMNS,
        "|" + "---|" * (COLUMNS.count("|") - 1),
        *read,
        "",
        "| refused | why |",
        "|---|---|",
        *refused,
        "",
        "### Not tried",
        "",
        "OpenSlide reads these as well. No real file of theirs was at hand: nothing is promised.",
        "",
        "| scanner | files |",
        "|---|---|",
        *(f"| {scanner} | {suffix} |" for scanner, suffix in UNTRIED),
        "",
        *scan_lines(folder.parent / "scans"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    text = document(Path(sys.argv[1]) if len(sys.argv) > 1 else SLIDES)
    REPORT.write_text(text, encoding="utf-8")
    print(text)
