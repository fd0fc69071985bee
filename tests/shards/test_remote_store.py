"""A Store of shards behind URLs reads them as local ones."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from remote_tools import same_samples

from figureground.shards.errors import ShardError
from figureground.shards.reader import Store
from figureground.shards.remote import RemoteError

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.usefixtures("short_waits")


def test_store_equals_the_local_one(shards, folder, make_cache):
    with Store(folder) as local, Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        assert store.is_remote
        assert not local.is_remote
        assert store.starts.tolist() == local.starts.tolist() == [0, 3, 7, 12, 18, 25]
        assert not any(path.endswith(".tar") and method == "GET" for method, path, _ in shards.asked)  # not fetched yet
        assert store.shards[2] == shards.url + "s/t-002.tar"
        same_samples(store, local)
        assert store.fingerprint == local.fingerprint
        assert store.shard_fingerprint(3) == local.shard_fingerprint(3)
        np.testing.assert_array_equal(store.targets, local.targets)
        local.need([1])


def test_the_second_epoch_uses_the_cache(shards, folder, make_cache):
    cache = make_cache()
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store:
        for _ in range(2):
            for sample in range(len(store)):
                store.image(sample)
    asked = [(path, span) for method, path, span in shards.asked if method == "GET"]
    assert len(asked) == len(set(asked))
    assert cache.stats()["fetched"] == 5
    shards.asked.clear()
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as again, Store(folder) as local:
        same_samples(again, local)
    assert [method for method, _, _ in shards.asked] == ["HEAD"] * 5  # still the same? then nothing is fetched


def test_a_small_cache(shards, folder, make_cache):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=int(2.2 * largest))
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
        for _ in range(2):
            same_samples(store, local)
            assert cache.used_bytes <= cache.max_bytes
    assert cache.stats()["evicted"] >= 5
    sizes = sorted((path.stat().st_size for path in folder.glob("*.tar")), reverse=True)
    with pytest.raises(
        ShardError, match=rf"the cache must hold two shards, {sum(sizes[:2])} bytes, got \d+; raise it$"
    ):
        Store(shards.url + "s/t-{000..004}.tar", cache=make_cache(max_bytes=sum(sizes[:2]) - 1))
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store:
        with pytest.raises(
            ShardError, match=rf"two windows of 1 shards and two more, {sum(sizes[:4])} bytes, .* lower the window"
        ):
            store.plan_windows(1)
        cache.max_bytes = sum(sizes)
        store.plan_windows(100)  # all of it fits


def test_room_for_lanes(shards, folder, make_cache):
    sizes = sorted((path.stat().st_size for path in folder.glob("*.tar")), reverse=True)
    cache = make_cache(max_bytes=sum(sizes) - 1)
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store:
        store.plan_windows(1, lanes=1, node_lanes=1)
        with pytest.raises(
            ShardError,
            match=rf"two windows of 1 shards for each of this node's 2 lanes and two more, {sum(sizes)} bytes, got "
            rf"{sum(sizes) - 1}; raise it or lower the window or the lanes$",
        ):
            store.plan_windows(1, lanes=1, node_lanes=2)
        cache.max_bytes = 4 * sum(sizes)
        # Each process reads ahead within its share, less a window of each of its lanes that batches may still hold, and two shards.
        for lanes, share in ((1, 2), (2, 4)):
            store.plan_windows(1, lanes=lanes, node_lanes=2)
            assert store.fetched._ahead_bytes == share * sum(sizes) - sum(sizes[: lanes + 2])


def test_views_keep_their_shard(shards, folder, make_cache):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=int(2.2 * largest), deadline_s=0.3)
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
        first = store.image(12)
        second = store.image(7)
        with pytest.raises(ShardError, match=r"all of the cache .* is in use"):
            store.image(20)  # 61 + 51 + 72 kB
        del second
        assert bytes(store.image(20)) == bytes(local.image(20))
        assert bytes(first) == bytes(local.image(12))


def test_what_is_needed_now_goes_before_what_is_needed_later(shards, folder, make_cache):
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=4 * largest, deadline_s=0.3)
    with Store(shards.url + "s/t-{000..004}.tar", cache=cache) as store, Store(folder) as local:
        store.need([3, 2, 1])
        ahead = store._fetched._ahead
        assert ahead.wait_for([3, 2], 5)
        views = [store.image(0), store.image(3)]
        cache.max_bytes = cache.used_bytes  # full
        assert bytes(store.image(20)) == bytes(local.image(20))
        assert ahead.held == []
        assert not ahead.give_way()
        del views


def test_without_indexes(shards, folder, make_cache, caplog):
    urls = shards.url + "s/t-{000..004}.tar"
    for name in ("t-001.idx", "t-003.idx"):
        del shards.files[f"s/{name}"]
    shards.forbidden.add("s/t-003.idx")  # what S3 answers for a missing file to those who may not list
    with pytest.raises(
        ShardError, match=r"t-001\.tar: has no index beside it \(2 of 5 shards\); run 'figureground index' where"
    ):
        Store(urls, cache=make_cache(), index="require")
    largest = max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = make_cache(max_bytes=int(2.2 * largest))
    with Store(urls, cache=cache) as store, Store(folder) as local:
        assert cache.stats()["fetched"] == 2
        assert store.fingerprint == local.fingerprint
        same_samples(store, local)
    assert caplog.text.count("has no index beside it, so all of it is fetched now (2 of 5 shards)") == 1
    shards.asked.clear()
    Store(urls, cache=cache, index="require").close()  # kept, though the tars may be gone
    assert [method for method, _, _ in shards.asked] == ["HEAD"] * 5


def test_what_is_wrong_at_the_start(shards, make_cache, caplog):
    urls = shards.url + "s/t-{000..004}.tar"
    with pytest.raises(
        ShardError, match=r"must be a local file, got a URL; .* open it with Store\(\.\.\., cache=ShardCache"
    ):
        Store(urls)
    with pytest.raises(
        ShardError, match=r"t-005\.tar: not found \(404\); check the URL \(3 of 8 shards are not there\)"
    ):
        Store(shards.url + "s/t-{000..007}.tar", cache=make_cache())
    with pytest.raises(RemoteError, match=r"t-005\.tar: not found \(404\); check the URL$"):
        Store(shards.url + "s/t-{000..005}.tar", cache=make_cache())
    good = shards.files["s/t-001.idx"]
    for text, message in (
        (
            b"<html>no such page</html>",
            r"t-001\.idx: must start with 'v1.2 <samples>'.*; run 'figureground index' where the shard",
        ),
        (
            good.replace(b" 512 ", b" 99512 "),
            r"t-001\.idx: stale: its last member ends at byte 107512, the tar has \d+ bytes; run",
        ),
    ):
        shards.files["s/t-001.idx"] = text
        with pytest.raises(ShardError, match=message):
            Store(urls, cache=make_cache())
    shards.files["s/t-001.idx"] = good
    Store(urls, cache=make_cache()).close()
    kept = next(path for path in Path(make_cache().folder).rglob("t-001.idx"))
    kept.write_bytes(b"v1.2 7\n")
    Store(urls, cache=make_cache()).close()
    assert "t-001.idx: promises 7 samples, has 0; fetching it again" in caplog.text
    shards.files["s/t-002.tar"] = b""
    with pytest.raises(ShardError, match=r"t-002\.tar: the shard is empty \(0 bytes\)"):
        Store(urls, cache=make_cache())
    with pytest.raises(ShardError, match="no shard matches"):
        Store("memory://nowhere/*.tar", cache=make_cache())


def test_a_tar_that_fails_later(shards, make_cache):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        tar = shards.files.pop("s/t-001.tar")
        with pytest.raises(RemoteError, match=r"t-001\.tar: not found \(404\)"):
            store.image(3)
        shards.files["s/t-001.tar"] = tar[:-1024] + bytes(1024) + b"more"
        with pytest.raises(ShardError, match=r"t-001\.tar: the shard was changed|gave up"):
            store.image(3)
        shards.files["s/t-001.tar"] = tar
        assert store.image(3).size == 8_000


def test_local_and_remote_in_one_list(shards, folder, make_cache, tmp_path):
    local = [str(folder / f"t-{number:03d}.tar") for number in (0, 1)]
    with Store([*local, shards.url + "s/t-{002..004}.tar"], cache=make_cache()) as store, Store(folder) as other:
        same_samples(store, other)
        store.need([0, 3])
        same_samples(store, other)
    with Store(local, cache=make_cache()) as store:  # a cache does no harm
        assert not store.is_remote


def test_pickled_and_closed(shards, folder, make_cache):
    store = Store(shards.url + "s/t-{000..004}.tar", cache=make_cache())
    store.need([0, 1])
    image = store.image(0)
    with pickle.loads(pickle.dumps(store)) as other, Store(folder) as local:
        same_samples(other, local)
    store.close()
    assert image.size == 8_000
    for call in (lambda: store.image(0), lambda: store.need([2])):
        with pytest.raises(RuntimeError, match="Store: is closed; open a new one"):
            call()


def test_one_slow_shard_stops_no_other(shards, make_cache):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        store.image(0)
        shards.seconds_per_piece = 0.5
        slow = threading.Thread(target=store.image, args=(24,))
        slow.start()
        time.sleep(0.1)
        began = time.monotonic()
        store.image(1)
        assert time.monotonic() - began < 0.2
        slow.join()
