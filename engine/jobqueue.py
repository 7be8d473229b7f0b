"""Workers that a batch system starts: SLURM, PBS, Grid Engine and LSF, through dask-jobqueue."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Literal

from ..storage.errors import MissingDependency, NoCluster, first_line
from .credentials import make_credentials
from .pools import ONE_THREAD, Pool, close_late, on_dask

BatchSystem = Literal["slurm", "pbs", "sge", "lsf"]
BATCH_SYSTEMS: tuple[BatchSystem, ...] = ("slurm", "pbs", "sge", "lsf")

_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
_QUEUE_WAIT_S = 7 * 24 * 3600
"""How long a run waits without a worker: jobs stand in a queue, over a week-end if need be."""

_WORKER_GIVES_UP_S = 300
_ADAPT = {"target_duration": "10ms", "wait_count": 60}
"""A worker for every item in flight, as how long one takes is not known before it is done; and
none is sent home that has been idle for less than a minute."""

_LOOPBACK = "127.0.0.1:0"
"""Where dashboards are heard: any free port, from the same machine only."""

_NAME = "microtome"
"""Of the coordinator's job, in the batch system's own lists; workers' have it with a suffix."""

_COORDINATOR = {"cores": 1, "processes": 1, "memory": "2GB"}


@dataclass(frozen=True)
class JobProfile:
    """What to ask a batch system for.

    Attributes
    ----------
    cores
        Of a job; each is a process with one thread.
    memory
        Of a job, as ``16GB``.
    walltime
        Of a job, as the system writes it.
    queue
        Or partition.
    jobs
        At most so many; fewer while there is less to do.
    interface
        Network that coordinator and workers talk over, such as ``ib0``.
    directives
        Further lines of the job script's head, without its prefix: ``--gres=gpu:1``.
    prologue
        Commands before the worker: ``module load python``.
    tls
        False for a network that nobody else is on: what goes over it is then neither encrypted
        nor protected from those who would run code of their own.
    """

    cores: int = 1
    memory: str = "4GB"
    walltime: str = "01:00:00"
    queue: str | None = None
    jobs: int = 1
    interface: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    tls: bool = True


@contextmanager
def open_job_pool(system: BatchSystem, profile: JobProfile) -> Iterator[Pool]:
    """Open a pool whose workers are jobs of a batch system, submitted as there is work for them.

    The coordinator, which is this process, is to be reached from the nodes; what they say to each
    other goes over TLS, with credentials made for this run, unless the profile says no. A job that
    ends, is killed or reaches its walltime costs what it had in flight; another is submitted.

    Raises
    ------
    MissingDependency
        TLS is wanted, and the package cryptography is absent.
    """
    import dask

    if profile.tls and find_spec("cryptography") is None:
        raise MissingDependency(
            "connections are to be encrypted, and the package cryptography is not installed",
            where=system,
            remedy="Install it; or say tls = false, on a network that nobody else is on",
        )

    settings = {
        # The first death ends the future; who tries again finds out whose fault it was.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.profile.enabled": False,
    }
    with dask.config.set(settings), ExitStack() as stack:
        cluster = stack.enter_context(_cluster(system, profile, worker_jobs=profile.jobs))
        from distributed import Client

        client = Client(cluster)
        stack.callback(close_late, client)
        yield on_dask(
            client,
            profile.cores * profile.jobs,
            where=system,
            remedy="See the batch system's own logs; run it again to go on",
            patience_s=_QUEUE_WAIT_S,
        )


@contextmanager
def _cluster(system: BatchSystem, profile: JobProfile, *, worker_jobs: int) -> Iterator[Any]:
    import dask_jobqueue

    exports = [f"export {name}={value}" for name, value in ONE_THREAD.items()]
    # Credentials lie here while the run goes on: nodes must see the folder, others must not.
    with TemporaryDirectory(dir=Path.cwd(), prefix=".microtome-jobs-") as folder:
        cluster = getattr(dask_jobqueue, _CLASSES[system])(
            cores=profile.cores,
            processes=profile.cores,
            memory=profile.memory,
            walltime=profile.walltime,
            queue=profile.queue,
            job_name=f"{_NAME}-worker",
            interface=profile.interface,
            protocol="tls://" if profile.tls else "tcp://",
            security=make_credentials(Path(folder)) if profile.tls else None,
            # Of the node; nothing is spilled.
            local_directory=gettempdir(),
            job_extra_directives=list(profile.directives),
            job_script_prologue=[*exports, *profile.prologue],
            worker_extra_args=["--dashboard-address", _LOOPBACK],
            death_timeout=_WORKER_GIVES_UP_S,
            scheduler_options={"dashboard_address": _LOOPBACK},
            n_workers=0,
        )
        try:
            if worker_jobs:
                cluster.adapt(minimum_jobs=0, maximum_jobs=worker_jobs, **_ADAPT)
            yield cluster
        finally:
            close_late(cluster)


def submit_coordinator(
    system: BatchSystem, profile: JobProfile, arguments: Sequence[str], folder: Path
) -> str:
    """Submit ``microtome`` with these arguments as a job of one core; says what the system says.

    Raises
    ------
    NoCluster
        It refuses the job, or is not here.
    """
    import dask_jobqueue

    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(dask_jobqueue, _CLASSES[system])
    job = kind.job_cls(
        scheduler="none",
        name=_NAME,
        job_name=_NAME,
        walltime=profile.walltime,
        queue=profile.queue,
        job_extra_directives=list(profile.directives),
        log_directory=str(folder),
        **_COORDINATOR,
    )
    command = shlex.join([sys.executable, "-m", "microtome", *arguments])
    script = folder / "coordinator.sh"
    text = "\n".join(["#!/usr/bin/env bash", job.job_header, *profile.prologue, f"exec {command}"])
    script.write_text(text + "\n", encoding="utf-8")
    submit = [*shlex.split(job.submit_command), str(script)]
    try:
        ended = subprocess.run(submit, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or first_line(error)
        raise NoCluster(
            f"the coordinator cannot be submitted ({said.strip()})",
            where=system,
            remedy="Submit it where jobs are submitted from, or leave --detach out",
        ) from error
    return ended.stdout.strip()
