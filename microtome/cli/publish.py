"""``microtome publish``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Jobs, Overwrite, exit_unless_all_done, run_with_progress

if TYPE_CHECKING:
    from ..storage.publishing import Published


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(publish)


def publish(
    folder: Annotated[Path, typer.Argument(help="Results: products, and files around them.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to: s3://BUCKET/FOLDER.")],
    *,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
) -> None:
    """Publish results to an object store.

    Each product's commit record is sent when all its files are there and checked. Run it again
    after whatever happened: what is there already is not sent again.

    Credentials, and another store than Amazon's, are configured as for its own tools:
    AWS_PROFILE, AWS_ENDPOINT_URL.

    Example: [bold]microtome publish results s3://lab/study-7[/]
    """
    from ..storage.objects import connect
    from ..tasks.publish_run import parts_of, publish_part

    connect(url)

    def name(part: Path) -> str:
        return str(part.relative_to(folder))

    def say(done: Published) -> str:
        return f"{done.sent} files sent, {done.bytes_sent / 1e6:.1f} MB; {done.kept} were there"

    work = partial(publish_part, folder=folder, url=url, overwrite=overwrite)
    parts = parts_of(folder)
    exit_unless_all_done(run_with_progress("publish", parts, work, name=name, jobs=jobs, say=say))
