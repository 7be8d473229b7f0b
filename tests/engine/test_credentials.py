"""Who has a run's credentials works in it; whoever has none, or others, is not let in."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificate
from distributed import Client, Scheduler, Security, Worker

from microtome.engine.credentials import make_credentials

LOOPBACK = "127.0.0.1:0"
TIMEOUT_S = 3


def test_without_the_run_s_own_credentials_nobody_is_let_in(tmp_path: Path) -> None:
    ours, others = (tmp_path / name for name in ("ours", "others"))
    ours.mkdir()
    others.mkdir()
    asyncio.run(_intrude(make_credentials(ours), make_credentials(others)))
    assert {file.stat().st_mode & 0o777 for file in ours.iterdir()} == {0o600}


async def _intrude(ours: Security, others: Security) -> None:
    async with (
        Scheduler(host="127.0.0.1", port=0, protocol="tls://", security=ours,
                  dashboard_address=LOOPBACK) as scheduler,
        Worker(scheduler.address, security=ours, dashboard_address=LOOPBACK),
        Client(scheduler.address, security=ours, asynchronous=True) as client,
    ):  # fmt: skip
        assert scheduler.address.startswith("tls://")
        assert await client.submit(int, "7") == 7
        plain = scheduler.address.replace("tls://", "tcp://")
        for address, theirs in (
            (scheduler.address, others),
            (scheduler.address, Security()),
            (plain, Security()),
        ):
            with pytest.raises((OSError, TypeError)):
                await Client(address, security=theirs, asynchronous=True, timeout=TIMEOUT_S)
        await _hang_up_on(scheduler.address)
        assert set(scheduler.clients) - {client.id} == {"fire-and-forget"}
        assert await client.submit(int, "8") == 8


async def _hang_up_on(address: str) -> None:
    """One who takes anybody's certificate and shows none: the scheduler's own side ends it."""
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    host, port = address.removeprefix("tls://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
    with pytest.raises(ssl.SSLError, match="certificate required"):
        await asyncio.wait_for(reader.read(), TIMEOUT_S)
    writer.transport.abort()


def test_a_node_whose_clock_is_behind_takes_them_too(tmp_path: Path) -> None:
    made = make_credentials(tmp_path)
    certificate = load_pem_x509_certificate(Path(made.tls_ca_file).read_bytes())
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc <= now - timedelta(hours=12)
    # Longer than a batch system lets a coordinator run.
    assert certificate.not_valid_after_utc >= now + timedelta(days=30)
