"""A GPU for each worker, and a device that is found; no GPU is needed, and none was there."""

from __future__ import annotations

import pytest
import torch
from distributed import Client, LocalCluster

from microtome.storage.errors import MissingDependency
from microtome.tasks.devices import in_words, own_gpu, pick_device, worker_name


@pytest.mark.parametrize(
    ("worker", "gpu"),
    [(0, 0), (3, 3), (4, 0), ("7", 3), ("SLURMCluster-5", 1), (None, 0), ("tcp://node:x", 0)],
)
def test_workers_that_are_numbered_share_four_gpus_evenly(worker: object, gpu: int) -> None:
    assert own_gpu(worker, 4) == gpu


def test_a_worker_of_dask_knows_its_name_and_others_have_none() -> None:
    assert worker_name() is None
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        assert sorted(client.run(lambda dask_worker: dask_worker.name).values()) == [0, 1]
        asked = [
            client.submit(worker_name, workers=[address], pure=False)
            for address in client.scheduler_info()["workers"]
        ]
        assert sorted(client.gather(asked)) == [0, 1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of machines without a GPU")
def test_without_cuda_auto_is_the_cpu_in_words_and_cuda_an_error() -> None:
    assert pick_device("auto") == "cpu"
    assert "no CUDA device" in in_words("auto")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(MissingDependency, match="no CUDA device"):
            pick_device(device)
