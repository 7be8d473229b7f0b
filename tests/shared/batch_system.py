"""A stand-in for SLURM's commands, where there is none: jobs run right here, in their sessions."""

from __future__ import annotations

from pathlib import Path

# As sbatch and scancel: a number for a script that runs elsewhere, and its end by that number.
SUBMIT = """#!/bin/bash
script=${@: -1}
cp "$script" "$JOBS/$$.sh"
SLURM_JOB_ID=$$ setsid bash "$JOBS/$$.sh" > "$JOBS/$$.log" 2>&1 < /dev/null &
echo $! > "$JOBS/$$.pid"
echo "Submitted batch job $$"
"""
CANCEL = """#!/bin/bash
for job in "$@"; do kill -TERM -- -$(cat "$JOBS/$job.pid"); done
"""


def stand_in(folder: Path, path: str) -> dict[str, str]:
    """Environment in which ``sbatch`` and ``scancel`` are these; jobs are kept in ``jobs``."""
    commands, jobs = folder / "commands", folder / "jobs"
    for place in (commands, jobs):
        place.mkdir()
    for name, text in (("sbatch", SUBMIT), ("scancel", CANCEL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return {"PATH": f"{commands}:{path}", "JOBS": str(jobs)}
