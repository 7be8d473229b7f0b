"""Makes the pictures of the documentation anew: docs/pictures/report.png and view.png.

Run: ``microtome demo --small --out demo-out && python scripts/pictures.py demo-out``. A Chromium
is needed (``sh scripts/browser.sh``).
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
REPORT_PX = (1300, 3200)
VIEW_PX = (1300, 900)
"""(width, height) of the windows."""

sys.path.insert(0, str(ROOT / "tests" / "shared"))

from browser import Page, open_page  # noqa: E402

from microtome.view import open_library, serve  # noqa: E402

DRAWN = "v.world.getItemCount() && v.world.getItemAt(0).getFullyLoaded()"


def of_report(page: Page, demo: Path) -> NDArray[np.uint8]:
    """The report of the demonstration, from its top to the end of the first slide."""
    page.open((demo / "report.html").resolve().as_uri(), size=REPORT_PX)
    page.wait(f"viewersOf.size && [...viewersOf.values()].every((v) => v.every((v) => {DRAWN}))")
    end = page.run("document.getElementById('panel-0').getBoundingClientRect().bottom")
    return page.picture()[: round(end) + 20]


def of_viewer(page: Page, demo: Path) -> NDArray[np.uint8]:
    """The viewer with the most suspicious slide of the demonstration."""
    with serve(open_library([demo])) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        page.open(f"http://127.0.0.1:{server.server_port}/", size=VIEW_PX)
        page.wait(
            "viewer.world.getItemCount() > 1 && [...Array(viewer.world.getItemCount()).keys()]"
            ".every((n) => viewer.world.getItemAt(n).getFullyLoaded())"
        )
        shown = page.picture()
        server.shutdown()
    return shown


def save(picture: NDArray[np.uint8], path: Path) -> None:
    """As PNG of 256 colours: a page has few, and the file stays small."""
    Image.fromarray(picture).quantize(256).save(path, optimize=True)


def main() -> None:
    """Make both."""
    demo = Path(sys.argv[1])
    with open_page() as page:
        save(of_report(page, demo), PICTURES / "report.png")
        save(of_viewer(page, demo), PICTURES / "view.png")
        if page.troubles:
            raise SystemExit("\n".join(page.troubles))


if __name__ == "__main__":
    main()
