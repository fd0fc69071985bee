"""ShardCache: bounded, shared by processes, whole or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from loopback import Site, web_server

from figureground.shards import cache as cache_module
from figureground.shards import remote as remote_module
from figureground.shards.cache import CacheFull, ShardCache
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.locks import EXCLUSIVE, open_lock, try_lock
from figureground.shards.remote import Stopped

pytest.importorskip("aiohttp")

SIZE = 61_440
"""Bytes of the tars of `site`: 50 000 of data, two headers, padding."""
TREE = str(Path(__file__).resolve().parents[2] / "build" / "typing")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote_module, "_FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(cache_module, "_SPARE_BYTES", 0)


@pytest.fixture
def site(make_tar) -> Iterator[Site]:
    """Four tars on a web server."""
    with web_server() as site:
        for number in range(4):
            data = bytes([number, 7, 1, 2, 3]) * 10_000
            site.files[f"s-{number}.tar"] = Path(
                make_tar(f"{number}.tar", [("a.jpg", data), ("a.cls", b"1")])
            ).read_bytes()
        yield site


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., ShardCache]:
    def make(shards: float = 4, **options) -> ShardCache:
        return ShardCache(
            tmp_path / "cache",
            int(shards * SIZE),
            **{"block_bytes": 10_000, "deadline_s": 5.0, "timeout_s": 5.0, **options},
        )

    return make


def run(code: str, *args: str) -> subprocess.Popen:
    """Start another process that prints a line when it is ready."""
    environment = {**os.environ, "PYTHONPATH": TREE, "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment
    )


def lock_of(lease) -> str:
    return os.path.join(os.path.dirname(lease.path), "lock")


def test_by_hand(site, make_cache):
    cache = make_cache()
    with cache.lease(site.url + "s-0.tar") as lease:
        assert Path(lease.path).read_bytes() == site.files["s-0.tar"]
        assert os.path.basename(lease.path) == "s-0.tar"
        assert os.path.dirname(os.path.dirname(lease.path)) == cache.folder
    assert len(site.gets("s-0.tar")) == 7  # blocks of 10 000 bytes
    cache.lease(site.url + "s-0.tar").release()
    assert len(site.gets("s-0.tar")) == 7
    assert cache.stats() == {"fetched": 1, "fetched_bytes": SIZE, "evicted": 0}
    assert cache.used_bytes == SIZE
    lease.release()


def test_a_new_process_uses_what_is_there(site, make_cache):
    make_cache().lease(site.url + "s-0.tar").release()
    asked = len(site.gets("s-0.tar"))
    make_cache().lease(site.url + "s-0.tar").release()
    pickle.loads(pickle.dumps(make_cache())).lease(site.url + "s-0.tar").release()
    assert len(site.gets("s-0.tar")) == asked


def test_least_recently_used_goes(site, make_cache):
    cache = make_cache(shards=2.5)
    held = [cache.lease(f"{site.url}s-{number}.tar") for number in (0, 1)]
    for lease in held:
        lease.release()
    cache.lease(site.url + "s-0.tar").release()  # now 1 is the older one
    with cache.lease(site.url + "s-2.tar"):
        assert os.path.exists(held[0].path)
        assert not os.path.exists(held[1].path)
    assert cache.used_bytes <= cache.max_bytes
    assert cache.stats()["evicted"] == 1


def test_what_is_in_use_stays(site, make_cache):
    cache = make_cache(shards=2.5, deadline_s=0.3)
    held = [cache.lease(f"{site.url}s-{number}.tar") for number in (0, 1)]
    with pytest.raises(
        CacheFull, match=r"s-2\.tar: all of the cache .* is in use, \d+ bytes are missing; raise max_bytes"
    ):
        cache.lease(site.url + "s-2.tar", wait=False)
    with pytest.raises(CacheFull, match="or lower the window"):
        cache.lease(site.url + "s-2.tar")
    threading.Timer(0.2, held[0].release).start()
    with make_cache(shards=2.5).lease(site.url + "s-2.tar"):  # waits for the timer
        assert not os.path.exists(held[0].path)
        assert Path(held[1].path).read_bytes() == site.files["s-1.tar"]
    held[1].release()


def test_a_shard_that_never_fits(site, make_cache):
    with pytest.raises(
        ShardError, match=rf"s-0\.tar: has {SIZE} bytes, max_bytes of the cache must be more, got {SIZE // 2}"
    ):
        make_cache(shards=0.5).lease(site.url + "s-0.tar")


def test_a_broken_download_goes_on_in_another_process(site, make_cache):
    site.seconds_per_piece = 0.3
    code = (
        "import sys; from figureground.shards.cache import ShardCache\n"
        "ShardCache(sys.argv[1], 10**6, block_bytes=10_000, connections=1).lease(sys.argv[2])"
    )
    cache = make_cache()
    child = run(code, cache.folder, site.url + "s-0.tar")
    while len(site.gets("s-0.tar")) < 3:
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    parts = [path for path in Path(cache.folder).rglob("*.part")]
    assert [path.name for path in parts] == [f"s-0.tar.{SIZE}.part"]
    come = parts[0].stat().st_size
    assert come in (20_000, 30_000)
    assert cache.used_bytes == SIZE  # all of it is reserved
    site.seconds_per_piece = 0.0
    site.asked.clear()
    with cache.lease(site.url + "s-0.tar") as lease:
        assert Path(lease.path).read_bytes() == site.files["s-0.tar"]
    assert min(span[0] for span in site.gets("s-0.tar")) == come
    assert not list(Path(cache.folder).rglob("*.part"))


def test_two_processes_fetch_once(site, make_cache):
    site.seconds_per_piece = 0.02
    code = (
        "import sys; from figureground.shards.cache import ShardCache\n"
        "cache = ShardCache(sys.argv[1], 10**6, block_bytes=10_000)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "lease = cache.lease(sys.argv[2]); print(len(open(lease.path, 'rb').read()), cache.stats()['fetched'])"
    )
    children = [run(code, make_cache().folder, site.url + "s-0.tar") for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    answers = []
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        answers.append(child.communicate(timeout=20)[0].split())
        assert child.returncode == 0
    assert sorted(answers) == [[str(SIZE), "0"], [str(SIZE), "1"]]
    assert len(site.gets("s-0.tar")) == 7


def test_threads_fetch_once(site, make_cache):
    site.seconds_per_piece = 0.01
    cache = make_cache()
    threads = [threading.Thread(target=lambda: cache.lease(site.url + "s-0.tar").release()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.stats()["fetched"] == 1
    assert len(site.gets("s-0.tar")) == 7


def test_a_killed_process_holds_nothing(site, make_cache):
    cache = make_cache(shards=1.5)
    code = (
        "import sys; from figureground.shards.cache import ShardCache\n"
        "lease = ShardCache(sys.argv[1], 10**6).lease(sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()"
    )
    child = run(code, cache.folder, site.url + "s-0.tar")
    assert child.stdout.readline() == "ready\n"
    with pytest.raises(CacheFull):
        cache.lease(site.url + "s-1.tar", wait=False)
    child.kill()
    child.wait()
    cache.lease(site.url + "s-1.tar", wait=False).release()


def test_stop(site, make_cache):
    site.seconds_per_piece = 0.5
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        make_cache().lease(site.url + "s-0.tar", stop=stop)
    assert time.monotonic() - began < 1.5
    held = make_cache().lease(site.url + "s-1.tar")  # stopped while waiting for room
    stop.clear()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Stopped):
        make_cache(shards=1.5).lease(site.url + "s-2.tar", stop=stop)
    held.release()


def test_a_shard_that_changes(site, make_cache):
    cache = make_cache()
    file = cache.remote.look(site.url + "s-0.tar")
    with cache.lease(file) as old:
        site.files["s-0.tar"] = site.files["s-1.tar"]
        with cache.lease(site.url + "s-0.tar") as new:  # another state, another place
            assert Path(new.path).read_bytes() == site.files["s-1.tar"]
            assert Path(old.path).read_bytes() != Path(new.path).read_bytes()
    os.unlink(old.path)
    with pytest.raises(
        ShardError, match=r"s-0\.tar: the shard was changed while it was being read; open the Store again"
    ):
        cache.lease(file)
    assert not list(Path(cache.folder).rglob("*.part"))


def test_checksum(site, make_cache, caplog):
    site.md5 = True
    site.faults["s-0.tar"].append(("flip", 5))
    with make_cache().lease(site.url + "s-0.tar") as lease:
        assert Path(lease.path).read_bytes() == site.files["s-0.tar"]
    assert "wrong checksum; fetching it once more" in caplog.text
    site.faults["s-1.tar"].extend([("flip", 5)] * 14)
    with pytest.raises(
        ShardError, match=r"s-1\.tar: MD5 must be [0-9a-f]{32}, got [0-9a-f]{32} twice; upload the shard again"
    ):
        make_cache(connections=1).lease(site.url + "s-1.tar")


def test_full_disk(site, make_cache, monkeypatch):
    cache = make_cache()
    cache.lease(site.url + "s-1.tar").release()
    free = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr("figureground.shards.cache_room.shutil.disk_usage", lambda path: free)
        with pytest.raises(
            ShardError, match=rf"s-0\.tar: the disk of .* must have {SIZE} bytes free, lacks {SIZE - 1000}; free"
        ):
            cache.lease(site.url + "s-0.tar")
    assert cache.stats()["evicted"] == 1  # it made room as far as it could

    def write(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("figureground.shards.cache_place.os.write", write)
        with pytest.raises(
            ShardError, match=r"s-0\.tar: .* got 'No space left on device'; free some space, lower max_bytes"
        ):
            cache.lease(site.url + "s-0.tar")
    assert not list(Path(cache.folder).rglob("*.part"))
    cache.lease(site.url + "s-0.tar").release()


def test_real_full_disk(site, make_cache):
    cache = make_cache()
    file = cache.remote.look(site.url + "s-0.tar")
    place = cache._place(file)
    os.makedirs(place.folder)
    os.symlink("/dev/full", place.part)  # every write to it fails
    with pytest.raises(ShardError, match=r"got 'No space left on device'; free some space"):
        cache.lease(file)


def test_folder_that_cannot_be_written(tmp_path, site):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inside", Path("/proc/figureground")):
        with pytest.raises(
            ShardError, match=rf"ShardCache: folder must be writable, got {folder} \(.*\); choose another"
        ):
            ShardCache(folder, 10**6)
    cache = ShardCache(tmp_path / "cache", 10**6)
    os.unlink(tmp_path / "cache" / "lock")
    os.rmdir(tmp_path / "cache")
    (tmp_path / "cache").touch()
    with pytest.raises(
        ShardError, match=r"s-0\.tar: .*cache must take \d+ bytes, got 'Not a directory'; choose another"
    ):
        cache.lease(site.url + "s-0.tar")


def test_numbers_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        ShardCache(tmp_path, 0)
    for name, value in (("connections", 0), ("block_bytes", 0)):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            ShardCache(tmp_path, 1, **{name: value})
    for name in ("timeout_s", "deadline_s"):
        with pytest.raises(ValueError, match=f"{name} must be positive, got -1"):
            ShardCache(tmp_path, 1, **{name: -1})


def test_names_stay_inside(tmp_path, make_tar, make_cache):
    cache, store = make_cache(), fsspec.filesystem("memory")
    tar = Path(make_tar("x.tar", [("a.jpg", b"1")])).read_bytes()
    for name in ("..%2f..%2fevil.tar", "...tar", "lock", "x.idx", "a b;rm -rf *.tar", "é" * 90 + ".tar", ".hidden.tar"):
        store.pipe_file(f"/odd/{name}", tar)
        with cache.lease(f"memory://odd/{name}") as lease:
            assert os.path.dirname(os.path.dirname(lease.path)) == cache.folder
            assert Path(lease.path).read_bytes() == tar
            assert lease.path.endswith(".tar")
    store.rm("/odd", recursive=True)


def test_empty_shard(make_cache, site):
    site.files["none.tar"] = b""
    with pytest.raises(ShardError, match=r"none\.tar: the shard is empty \(0 bytes\); upload it again"):
        make_cache().lease(site.url + "none.tar")


def test_a_tar_that_does_not_fit_its_index(site, make_cache, make_tar):
    cache = make_cache()
    file = cache.remote.look(site.url + "s-0.tar")
    mend = r"; run 'figureground index' where the shard was made and upload the \.idx"
    for members, reason in (
        ([("b.jpg", b"1"), ("c.jpg", b"2")], r".*damaged header at byte 2048"),
        ([("a.jpg", bytes(50_000)), ("b.cls", b"1")], "it is older than the tar and its offsets do not match"),
        ([("a.jpg", bytes(50_000))], "the tar has more members after byte"),
    ):
        other = make_tar("other.tar", members)
        write_index(other)
        Path(cache.index_file(file)).write_bytes(Path(other[:-4] + ".idx").read_bytes())
        os.utime(cache.index_file(file), (1, 1))
        with pytest.raises(ShardError, match=rf"s-0\.idx: does not fit its tar: {reason}.*{mend}"):
            cache.lease(file)
        assert [path.name for path in Path(cache.folder).rglob("s-0*")] == []


def test_indexes_go_last(site, make_cache):
    cache = make_cache(shards=1.0)
    first = cache.remote.look(site.url + "s-0.tar")
    Path(cache.index_file(first)).write_bytes(b"v1.2 0\n" + b" " * 0)
    second = cache.remote.look(site.url + "s-1.tar")
    with pytest.raises(FileNotFoundError):
        os.stat(cache.index_file(second))
    cache.lease(second).release()  # one byte too many with the index of the first
    assert not os.path.exists(cache.index_file(first))


def test_lock_that_never_comes(site, make_cache):
    cache = make_cache(deadline_s=0.2, timeout_s=0.2)
    lease = cache.lease(site.url + "s-0.tar")
    handle = open_lock(lock_of(lease))
    assert not try_lock(handle, EXCLUSIVE)
    lease.release()
    assert try_lock(handle, EXCLUSIVE)
    with pytest.raises(ShardError, match=r"s-0\.tar: another process has held .*lock for 0 s without progress; end it"):
        cache.lease(site.url + "s-0.tar")
    os.close(handle)


def test_who_waits_to_fetch_takes_what_another_fetched(site, make_cache, monkeypatch):
    # Two find that the shard is missing; the one that is late must not wait for the other's lease to end.
    cache = make_cache()
    file = cache.remote.look(site.url + "s-0.tar")
    leases, late = [], threading.Event()
    real = cache_module.unlock

    def unlock_slowly(handle):
        real(handle)
        if threading.current_thread() is slow:
            late.wait(5)

    monkeypatch.setattr(cache_module, "unlock", unlock_slowly)
    slow = threading.Thread(target=lambda: leases.append(cache.lease(file)))
    slow.start()
    time.sleep(0.1)
    with cache.lease(file):
        late.set()
        slow.join(2)
        assert len(leases) == 1
    assert cache.stats()["fetched"] == 1
