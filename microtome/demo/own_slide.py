"""The pathology half on the user's own slide: what can be had without labels."""

from __future__ import annotations

from pathlib import Path

from ..cli.common import console
from ..engine.schedule import Skipped
from ..engine.slides import Mpp, open_slide
from ..report import KeyFigure, Report, SlidePanel, versions, write_report
from ..storage.bags import read_bag
from ..storage.errors import UnreadableFile
from ..tasks.cluster import cluster_map
from ..tasks.encode import EncodeOptions, encode_slide
from ..tasks.slide_list import SlideItem
from .steps import now

_CLUSTERS = 5


def run_own_slide(path: Path, out: Path, *, mpp: Mpp | None, overwrite: bool) -> Path:
    """Tissue, tiles, features, quality and an unsupervised map of one slide, in a report.

    Returns
    -------
    pathlib.Path
        ``out/report.html``.
    """
    console.print(f"encoding {path}")
    item = SlideItem(path.stem, path, mpp)
    made = encode_slide(item, out=out / "bags", options=EncodeOptions(), overwrite=overwrite)
    encoded = made.value if isinstance(made, Skipped) else made
    bag = read_bag(encoded.path)
    if len(bag) < 2:
        raise UnreadableFile(
            "the slide has a single tile of tissue: nothing to compare",
            where=path,
            remedy="Encode it with smaller tiles: microtome encode --tile-px",
        )
    count = min(_CLUSTERS, len(bag))
    with open_slide(path, mpp=mpp) as slide:
        products = cluster_map(bag, out, count, slide=slide)
        info = slide.info
    assert info.mpp is not None
    facts = {
        "size": f"{info.width_px:,} × {info.height_px:,} px at {info.mpp[0]:.4g} µm/px",
        "tile": f"{bag.tile_px} px at {bag.mpp} µm/px",
        "features": f"{bag.features.shape[1]} of {bag.encoder}",
    }
    for name, column in bag.quality.items():
        facts[f"median {name}"] = f"{float(sorted(column)[len(column) // 2]):.3g}"
    files = {"QuPath GeoJSON": products.geojson.name}
    panel = SlidePanel(
        id=bag.id,
        probability=None,
        tiles=len(bag),
        layers=products.layers,
        facts=facts,
        files=files,
        notes=products.notes,
    )
    report = Report(
        title=f"{path.name}: an unsupervised map",
        summary="Tiles of like appearance share a colour. Nothing was learnt from labels; what a "
        "colour means is for a pathologist to say.",
        made=now(),
        key_figures=(KeyFigure("tissue tiles", f"{len(bag):,}"),),
        slides=(panel,),
        groups=tuple(f"Cluster {number + 1}" for number in range(count)),
        versions=versions(("microtome", "openslide-python", "tifffile")),
        limits=("Colours are groups of like tiles, not diagnoses.", "For research only."),
    )
    return write_report(report, out / "report.html")
