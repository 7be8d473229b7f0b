"""Entry point: runs the command line and turns errors into one clear line."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from .storage.errors import (
    BadModel,
    CohortError,
    MicrotomeError,
    MissingFile,
    OutputBusy,
    PlanError,
    StaleProduct,
    UnwritableOutput,
)

WRONG_USE, ITEMS_FAILED = 2, 3
_USER_CAN_MEND = (
    BadModel,
    CohortError,
    MissingFile,
    OutputBusy,
    PlanError,
    StaleProduct,
    UnwritableOutput,
)


def main() -> None:
    """Run ``microtome`` with the arguments of the process."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["MICROTOME_DEBUG"] = "1"
    debug = os.environ.get("MICROTOME_DEBUG") == "1"
    if not debug:
        sys.excepthook = _explain
    from .cli.app import app

    try:
        app(prog_name="microtome")
    except MicrotomeError as error:
        if debug:
            raise
        print(f"microtome: {error.reason}: {error}", file=sys.stderr)
        sys.exit(WRONG_USE if isinstance(error, _USER_CAN_MEND) else ITEMS_FAILED)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("microtome: stopped; run the same command again to go on", file=sys.stderr)
        return
    print(
        f"microtome: internal error: {kind.__name__}: {error}\n"
        "A fault of ours: run the command again with --debug and report what it prints.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
