"""How many threads a fit may use: one."""

from __future__ import annotations

from contextlib import AbstractContextManager


def one_thread() -> AbstractContextManager[object]:
    """Hold the numerical libraries that are loaded by now to one thread, inside ``with``.

    On matrices as small as connectomes, threads wait for each other more than they work; and with
    one, sums come in one order on every machine.
    """
    from threadpoolctl import threadpool_limits

    limit: AbstractContextManager[object] = threadpool_limits(1)
    return limit
