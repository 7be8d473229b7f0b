"""Object stores: what is fetched and published is whole, whatever is cut on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from object_store import BUCKET, Wire, client, contents, object_store, upload
from products import files_of, make

from microtome.storage import objects
from microtome.storage.commit import new_product
from microtome.storage.errors import MissingFile, NoStore, StaleProduct
from microtome.storage.fetching import fetch_all, part_path, remote_files
from microtome.storage.objects import PART_BYTES, etag_of, url_of
from microtome.storage.publishing import Published, publish, published_key


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    monkeypatch.setattr(objects, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(objects, "_ATTEMPTS", 3)
    with object_store(monkeypatch) as wire:
        yield wire


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def fetched(url: str, folder: Path) -> None:
    fetch_all(*remote_files(url), folder)


def test_a_url_is_one_also_where_it_was_taken_for_a_path() -> None:
    assert (
        url_of(Path("s3://lab/a b/c.svs")) == url_of("s3://lab/a b/c.svs") == "s3://lab/a b/c.svs"
    )
    assert url_of("/slides/c.svs") is None
    assert url_of(Path("slides/s3/c:d.svs")) is None


def test_a_large_object_comes_whole_over_a_wire_that_is_cut(store: Wire, tmp_path: Path) -> None:
    data = noise(2 * PART_BYTES + 12345)
    url = upload(store, "slides/a.svs", data)
    store.cut += [("HEAD", 100), ("GET", 3_000_000), ("GET", 300)]
    fetched(url, tmp_path)
    assert store.cuts == 3
    assert (tmp_path / "a.svs").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["a.svs"]


def test_what_was_cut_off_is_gone_on_with(store: Wire, tmp_path: Path) -> None:
    data = noise(3 * PART_BYTES)
    remotes, files = remote_files(upload(store, "a.svs", data))
    # As a process leaves it that is killed on the way: two parts, and some of the third.
    part = part_path(files["a.svs"], tmp_path / "a.svs")
    part.write_bytes(data[: 2 * PART_BYTES] + b"torn")
    store.asked.clear()
    fetch_all(remotes, files, tmp_path)
    assert (tmp_path / "a.svs").read_bytes() == data
    assert sum(line.startswith("GET /lab/a.svs") for line in store.asked) == 1
    assert not part.exists()


def test_what_is_not_what_the_store_holds_is_refused(
    store: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(store, "a.svs", noise(100_000))
    found = remote_files(url)
    store.flip = True
    with pytest.raises(NoStore):
        fetch_all(*found, tmp_path)
    store.flip = False
    upload(store, "a.svs", noise(100_000, seed=1))
    with pytest.raises(NoStore, match="changed while it was fetched"):
        fetch_all(*found, tmp_path)
    assert not (tmp_path / "a.svs").exists()
    with pytest.raises(MissingFile):
        fetched(f"s3://{BUCKET}/b.svs", tmp_path)
    # The libraries between have patience of their own.
    monkeypatch.setattr(objects, "_ATTEMPTS", 1)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    store.close()
    with pytest.raises(NoStore, match="AWS_ENDPOINT_URL"):
        fetched(url, tmp_path)


def test_a_slide_of_several_files_comes_with_all_of_them(store: Wire, tmp_path: Path) -> None:
    for key in (
        "m/x.mrxs",
        "m/x/Slidedat.ini",
        "m/x/Data0000.dat",
        "m/xy.mrxs",
        "d/1.dcm",
        "d/2.dcm",
    ):
        upload(store, key, key.encode())
    fetched(f"s3://{BUCKET}/m/x.mrxs", tmp_path)
    fetched(f"s3://{BUCKET}/d/", tmp_path)
    assert files_of(tmp_path) == {
        "x.mrxs": b"m/x.mrxs",
        "x/Slidedat.ini": b"m/x/Slidedat.ini",
        "x/Data0000.dat": b"m/x/Data0000.dat",
        "d/1.dcm": b"d/1.dcm",
        "d/2.dcm": b"d/2.dcm",
    }


def test_a_product_is_published_with_its_record_last(store: Wire, tmp_path: Path) -> None:
    product = tmp_path / "a.thing"
    with new_product(product, kind="thing", key="1" * 64, about={}) as folder:
        (folder / "large").write_bytes(noise(2 * PART_BYTES + 1))
        (folder / ".zattrs").write_text("{}")
        (folder / "c").mkdir()
        (folder / "c/0").write_text("chunk")
    make(product / "labels" / "inner")
    (product / "labels" / ".inner.lock").touch()
    url = f"s3://{BUCKET}/out/a.thing"
    store.cut += [("GET", 100), ("PUT", 3_000_000), ("PUT", 0), ("HEAD", 9)]
    done = publish(product, url)
    # A small object is sent before 3 MB have gone by.
    assert store.cuts >= 3
    assert contents(store, "out/a.thing/") == {
        name: data for name, data in files_of(product).items() if not name.endswith(".lock")
    }
    puts = [line for line in store.asked if line.startswith(("PUT", "POST"))]
    assert puts[-1].split("?")[0].endswith("/out/a.thing/commit.json")
    assert published_key(url) == "1" * 64
    # Amazon's own tag of what was sent in parts is the one that we reckon with.
    head = client(store).head_object(Bucket=BUCKET, Key="out/a.thing/large")
    assert head["ETag"].strip('"') == etag_of(product / "large")
    store.asked.clear()
    assert publish(product, url) == Published(0, done.sent, 0)
    assert not [line for line in store.asked if line.startswith(("PUT", "POST", "DELETE"))]


def test_what_is_not_whole_has_no_record_and_is_gone_on_with(store: Wire, tmp_path: Path) -> None:
    with new_product(tmp_path / "a", kind="thing", key="1" * 64, about={}) as folder:
        for n in range(20):
            (folder / f"part-{n:02d}").write_text(f"{n}")
    url = f"s3://{BUCKET}/a"
    publish(tmp_path / "a", url)
    # As whoever is killed on the way leaves it.
    for key in ("a/commit.json", "a/part-03", "a/part-17"):
        client(store).delete_object(Bucket=BUCKET, Key=key)
    upload(store, "a/part-05", b"x")
    assert published_key(url) is None
    done = publish(tmp_path / "a", url)
    assert (done.sent, done.kept) == (4, 17)
    assert contents(store, "a/") == files_of(tmp_path / "a")


def test_another_product_is_replaced_only_when_told_and_record_first(
    store: Wire, tmp_path: Path
) -> None:
    url = f"s3://{BUCKET}/a"
    make(tmp_path / "a", key="1" * 64)
    (tmp_path / "a/old").write_text("of before")
    publish(tmp_path / "a", url)
    make(tmp_path / "a", key="2" * 64, text="other", overwrite=True)
    with pytest.raises(StaleProduct, match="--overwrite"):
        publish(tmp_path / "a", url)
    assert published_key(url) == "1" * 64
    store.asked.clear()
    publish(tmp_path / "a", url, overwrite=True)
    changes = [line.split("?")[0] for line in store.asked if line[:3] in ("PUT", "DEL", "POS")]
    assert changes[0] == "DELETE /lab/a/commit.json"
    assert changes[-1] == "PUT /lab/a/commit.json"
    assert contents(store, "a/") == files_of(tmp_path / "a")


def test_files_around_products_are_sent_and_secrets_are_not(store: Wire, tmp_path: Path) -> None:
    make(tmp_path / "out/bags/a")
    (tmp_path / "out/run").mkdir()
    (tmp_path / "out/run/0001-host-1.jsonl").write_text("{}\n")
    (tmp_path / "out/run/.names.key").write_text("secret")
    (tmp_path / "out/bags/.a.origin").write_text("{}")
    upload(store, "out/notes-of-others.txt", b"stay")
    publish(tmp_path / "out", f"s3://{BUCKET}/out")
    assert sorted(contents(store, "out/")) == [
        "bags/a/commit.json", "bags/a/part", "notes-of-others.txt", "run/0001-host-1.jsonl",
    ]  # fmt: skip
    publish(tmp_path / "out/run/0001-host-1.jsonl", f"s3://{BUCKET}/one.jsonl")
    assert contents(store, "one.jsonl") == {"": b"{}\n"}
