"""``microtome doctor``."""

from __future__ import annotations

import typer

_STYLE = {"ok": "green", "absent": "yellow", "broken": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor() -> None:
    """Say what is installed and works here, and how to mend what does not.

    Example: [bold]microtome doctor[/]
    """
    from rich.console import Console
    from rich.table import Table

    from ..doctor import examine

    table = Table("what", "state", "found", "for", "mend", title="microtome doctor")
    checks = list(examine())
    for check in checks:
        state = f"[{_STYLE[check.state]}]{check.state}[/]"
        table.add_row(check.name, state, check.found, check.purpose, check.mend)
    Console().print(table)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(3)
