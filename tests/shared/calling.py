"""Commands, called as a user calls them, in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from microtome.cli.app import app


def call(*arguments: object, code: int = 0) -> str:
    """What a command prints, in a wide terminal; its own errors are raised as they are."""
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output
