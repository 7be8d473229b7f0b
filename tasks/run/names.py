"""Names that must not reach a log: of patients, of slides, of files."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...storage.commit import writable
from ..cohort import read_cohort
from .history import FOLDER
from .plan import Plan

_SALT = ".names.key"


def hider(plan: Plan) -> Callable[[str], str]:
    """A function that puts a pseudonym in place of each name of the plan's cohort in a text.

    Names are those of patients and slides, and the paths and stems of their files, wherever they
    stand, whatever their case. A pseudonym is a keyed hash (BLAKE2b): the same in all logs of one
    output, and not to be found by trying numbers without the key, ``<out>/run/.names.key``, which
    only its owner may read.
    """
    if plan.cohort is None:
        return lambda text: text
    key = _key(plan.out / FOLDER / _SALT)
    names: set[str] = set()
    for case in read_cohort(plan.cohort).cases:
        assert case.path is not None
        names |= {case.id, case.patient, str(case.path), case.path.name, case.path.stem}
    longest_first = sorted(filter(None, names), key=lambda name: (-len(name), name))
    # Not within a longer word: patient "1" is not every 1.
    pattern = re.compile(
        r"(?<![^\W_])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![^\W_])", re.IGNORECASE
    )

    def pseudonym(found: re.Match[str]) -> str:
        name = found[0].casefold().encode()
        return "#" + hashlib.blake2b(name, key=key, digest_size=5).hexdigest()

    return lambda text: pattern.sub(pseudonym, text)


def _key(path: Path) -> bytes:
    with writable(path):
        if not path.exists():
            own = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
            own.touch(mode=0o600)
            own.write_bytes(secrets.token_bytes(32))
            # Whole, or not there: of several that begin at once the first one's counts.
            with suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
        return path.read_bytes()
