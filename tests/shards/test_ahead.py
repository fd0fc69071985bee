"""Shards are fetched before they are needed."""

from __future__ import annotations

import time

import pytest

from figureground.shards.ahead import ReadAhead
from figureground.shards.reader import Store
from figureground.shards.remote import RemoteError

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.usefixtures("short_waits")


def test_read_ahead(shards, make_cache):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        store.need([3, 1, 4])
        ahead = store._fetched._ahead
        assert ahead.wait_for([3, 1, 4], 5)
        assert ahead.held == [1, 3, 4]
        shards.asked.clear()
        for sample in (3, 12, 18):
            store.image(sample)
        assert shards.asked == []
        store.need([4])
        assert ahead.held == [4]
    assert ahead.held == []


def test_read_ahead_pauses_when_all_is_in_use(shards, folder, make_cache, monkeypatch):
    monkeypatch.setattr("figureground.shards.ahead._FULL_PAUSE_S", 0.05)
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.tar"))]
    cache = make_cache(max_bytes=sizes[3] + sizes[4])
    urls = [f"{shards.url}s/t-{number:03d}.tar" for number in range(5)]
    ahead = ReadAhead(cache, urls, max_bytes=10**9)
    lease = cache.lease(urls[4])
    ahead.want([3, 2])
    assert ahead.wait_for([3], 5)
    time.sleep(0.2)
    assert ahead.held == [3]
    lease.release()
    assert ahead.wait_for([2], 5)
    assert cache.used_bytes <= cache.max_bytes
    ahead.want([2])
    held = [cache.lease(urls[number]) for number in (0, 1)]
    ahead.want([3, 2])  # one of them fits: 2 is there, 3 is needed first
    assert ahead.wait_for([3], 5)
    assert ahead.held == [3]
    ahead.close()
    for lease in held:
        lease.release()
    bounded = ReadAhead(cache, urls, max_bytes=sizes[0] + sizes[1])
    bounded.want([0, 1, 2])
    assert bounded.wait_for([0, 1], 5)
    time.sleep(0.1)
    assert bounded.held == [0, 1]  # there is room for it elsewhere only
    bounded.close()
    with pytest.raises(ValueError, match="ReadAhead: threads must be at least 1, got 0"):
        ReadAhead(cache, urls, threads=0)


def test_errors_of_reading_ahead_reach_the_consumer(shards, make_cache, caplog):
    with Store(shards.url + "s/t-{000..004}.tar", cache=make_cache()) as store:
        tar = shards.files.pop("s/t-001.tar")
        store.need([1, 2])
        assert store._fetched._ahead.wait_for([1, 2], 5)
        shards.files["s/t-001.tar"] = tar
        assert store.image(7).size == 8_000  # another one
        with pytest.raises(RemoteError, match=r"t-001\.tar: not found \(404\)") as caught:
            store.image(3)
        assert caught.value.__notes__ == ["(raised while reading ahead)"]
        assert store.image(3).size == 8_000  # tried again
    assert "t-001.tar: could not be fetched ahead" in caplog.text


def test_read_ahead_ends_at_once(shards, make_cache):
    store = Store(shards.url + "s/t-{000..004}.tar", cache=make_cache())
    shards.seconds_per_piece = 3.0
    store.need([0, 1])
    threads = store._fetched._ahead._threads
    while not shards.gets("s/t-000.tar"):
        time.sleep(0.01)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 1
    assert not any(thread.is_alive() for thread in threads)
    store = Store(shards.url + "s/t-{000..004}.tar", cache=make_cache())
    store.need([0, 1])
    threads = store._fetched._ahead._threads
    del store  # not closed, but nobody has it any more
    assert not any(thread.is_alive() for thread in threads)
