"""``microtome run --dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..tasks.run.coordinate import Shard
    from ..tasks.run.look import Look
    from ..tasks.run.plan import Plan


def show_look(plan: Plan, shard: Shard, overwrite: bool) -> None:
    """Print what would run: a line a step that is not fresh, then a table of the stages."""
    from collections import Counter

    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from ..tasks.run.look import costs, look_at

    def tell(look: Look) -> None:
        if look.seen != "fresh":
            reason = f"({look.reason})" if look.reason else ""
            words = f"{look.seen}{reason} {look.task.name}  {look.detail}"
            typer.echo(words.rstrip())

    looks = look_at(plan, shard, overwrite=overwrite, tell=tell)
    seen = Counter((look.task.stage, look.seen) for look in looks)
    table = Table("stage", "fresh", "to do", "stale", "other", "reads", "writes", "work")
    for stage, cost in costs(plan, looks).items():
        other = seen[stage, "in the way"] + seen[stage, "quarantined"]
        table.add_row(
            stage,
            str(seen[stage, "fresh"]),
            str(cost.to_make),
            str(seen[stage, "stale"]),
            str(other),
            decimal(cost.read_bytes),
            "?" if cost.write_bytes is None else f"~{decimal(cost.write_bytes)}",
            "?" if cost.seconds is None else f"~{cost.seconds:,.0f} s",
        )
    Console(highlight=False).print(table)
    typer.echo("writes and work: by what the same stage did of slides that are done; ? where none")
