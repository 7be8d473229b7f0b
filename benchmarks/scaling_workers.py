"""Stand-in workers for ``scaling.py``: as many as a cluster has, each of which sleeps for work.

Run: ``python benchmarks/scaling_workers.py ADDRESS COUNT``: real Dask workers, in one process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time


def nap(item: object, *, seconds: float) -> float:
    """Stand in for work on an item."""
    time.sleep(seconds)
    return seconds


async def serve(address: str, count: int) -> None:
    """Work for a scheduler until it ends."""
    import dask
    from distributed import Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        workers = [
            Worker(address, nthreads=1, memory_limit=0, dashboard_address="127.0.0.1:0")
            for _ in range(count)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
