"""Store: random access to many shards."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from figureground.shards.errors import ShardError
from figureground.shards.index import index_path, write_index
from figureground.shards.reader import Store, shard_fingerprint


@pytest.fixture
def folder(make_tar, tmp_path: Path) -> Path:
    document = b'{"label": 7}'
    make_tar("s/a-0.tar", [("x/1.jpg", b"one"), ("x/1.cls", b"4\n"), ("x/2.PNG", b"two"), ("x/2.json", document)])
    make_tar("s/a-1.tar", [])
    make_tar("s/a-2.tar", [("ü ö.jpeg", b""), ("no.txt", b"text"), ("b.png", b"p"), ("b.jpg", b"j"), ("b.cls", b"dog")])
    return tmp_path / "s"


def test_by_hand(folder: Path):
    with Store(folder) as store:
        assert len(store) == 5
        assert [store.key(i) for i in range(5)] == ["x/1", "x/2", "ü ö", "no", "b"]
        assert [bytes(store.image(i)) for i in range(5)] == [b"one", b"two", b"", b"", b"j"]
        assert [store.shard_of(i) for i in range(5)] == [0, 0, 2, 2, 2]
        assert store.starts.tolist() == [0, 2, 2, 5]
        assert store.targets.tolist() == [4, 7, -1, -1, -1]
        assert [store.target(i) for i in range(5)] == [4, 7, -1, -1, -1]
        assert store.exts == ("cls", "jpeg", "jpg", "json", "png", "txt")
        assert store.has("PNG")
        assert store.has(".txt")
        assert not store.has("webp")
        assert bytes(store.component(3, "txt")) == b"text"
        assert bytes(store.component(4, "png")) == b"p"
        assert store.component(0, "txt") is None
        assert store.component(0, "webp") is None
        assert [os.path.basename(shard) for shard in store.shards] == ["a-0.tar", "a-1.tar", "a-2.tar"]
        assert "5 samples in 3 shards" in repr(store)
        image = store.image(np.int64(0))
        assert (image.dtype, image.ndim, image.flags.writeable) == (np.uint8, 1, False)


def test_choice_of_image(folder: Path):
    assert bytes(Store(folder, image_exts=["png", "jpg"]).image(4)) == b"p"
    assert Store(folder, image_exts=["txt"]).image(0).size == 0


def test_classes(make_tar):
    documents = [b"{", b"[1]", b'{"label": true}', b'{"label": "1"}', b'{"label": 3}', b"{}", b'{"label": 1e3}']
    files = [(f"{i}.json", text) for i, text in enumerate(documents)]
    classes = [b" -3 ", b"+5", b"1_0", b"", b"\xff", b"9" * 30, "٣".encode()]
    files += [(f"c{i}.cls", text) for i, text in enumerate(classes)]
    files += [("both.cls", b"x"), ("both.json", b'{"label": 8}')]
    wanted = [-1, -1, -1, -1, 3, -1, -1, -3, 5, -1, -1, -1, -1, -1, 8]
    store = Store(make_tar("x.tar", files))
    assert store.targets.tolist() == wanted
    assert store.targets.dtype == np.int64
    assert store.targets is store.targets


def test_index_modes(folder: Path):
    with pytest.raises(ShardError, match="has no index; run 'figureground index"):
        Store(folder, index="require")
    Store(folder)
    assert len(Store(folder, index="require")) == 5
    with pytest.raises(ValueError, match="index must be 'auto' or 'require', got 'never'"):
        Store(folder, index="never")
    with pytest.raises(ValueError, match="image_exts must be a sequence of extensions, got 'jpg'"):
        Store(folder, image_exts="jpg")
    with pytest.raises(ValueError, match="max_open must be at least 1, got 0"):
        Store(folder, max_open=0)


def test_read_only_folder(folder: Path, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("figureground.shards.index.write_index", refuse)
    read_only = Store(folder)
    assert caplog.text.count("index kept in memory") == 3
    monkeypatch.undo()
    written = Store(folder)
    assert read_only.fingerprint == written.fingerprint
    assert read_only.targets.tolist() == written.targets.tolist()


def test_indices_out_of_range(folder: Path):
    store = Store(folder)
    for sample in (-1, 5):
        with pytest.raises(IndexError, match=rf"a sample must be in 0..4, got {sample}"):
            store.image(sample)
    with pytest.raises(TypeError):
        store.key(1.5)


def test_no_image_is_logged(make_tar, caplog):
    Store(make_tar("x.tar", [("a.txt", b"1")]))
    assert "no sample has an image (looked for jpg, " in caplog.text
    assert "found txt)" in caplog.text


def test_fingerprint(folder: Path, tmp_path: Path, make_tar):
    first = Store(folder)
    shutil.move(folder, tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").fingerprint == first.fingerprint
    assert Store(tmp_path / "elsewhere" / "a-0.tar").fingerprint != first.fingerprint
    shard = tmp_path / "elsewhere" / "a-0.tar"
    assert shard_fingerprint(shard) == first.shard_fingerprint(0)
    shutil.copy(shard, tmp_path / "renamed.tar")
    assert shard_fingerprint(tmp_path / "renamed.tar") == first.shard_fingerprint(0)
    assert Store(tmp_path / "renamed.tar").fingerprint != Store(shard).fingerprint
    make_tar("renamed.tar", [("x/1.jpg", b"one!"), ("x/1.cls", b"4\n")])
    write_index(tmp_path / "renamed.tar")
    assert shard_fingerprint(tmp_path / "renamed.tar") != first.shard_fingerprint(0)
    with pytest.raises(ShardError, match="does not exist"):
        shard_fingerprint(tmp_path / "gone.tar")


def test_views_outlive_everything(make_tar):
    tars = [make_tar(f"{i}.tar", [(f"{i}.jpg", bytes([i]) * 5000)]) for i in range(9)]
    store = Store(tars, max_open=2)
    views = [store.image(i) for i in range(9)]
    assert len(store._maps._recent) == 2
    again = store.image(0)
    assert np.shares_memory(again, views[0])
    store.close()
    del store
    for i, view in enumerate(views):
        assert (view == i).all()
    for tar in tars:
        os.unlink(tar)
    assert (views[3] == 3).all()


def test_a_shard_cut_while_it_is_read(make_tar):
    """Reading beyond the end of a mapped file would kill the process without a word."""
    tars = [make_tar(f"{i}.tar", [(f"{i}-{k}.jpg", bytes([k]) * 5000) for k in range(4)]) for i in range(2)]
    store = Store(tars)
    held = store.images(np.arange(8))
    os.truncate(tars[1], 1024)
    says = r"1\.tar: the shard was changed while it was read \(\d+ bytes before, 1024 now\); restore it"
    for read in (lambda: store.images(np.arange(8)), lambda: store.image(5)):
        with pytest.raises(ShardError, match=says):
            read()
    assert bytes(store.image(3)) == bytes([3]) * 5000, "the other shard is read on"
    os.replace(tars[0], tars[1])  # a new file of that name: what is mapped stays
    assert held.arrays[0] is not None
    assert bytes(store.image(1)) == bytes(held.arrays[1]) == bytes([1]) * 5000


def test_closed(folder: Path):
    store = Store(folder)
    store.close()
    with pytest.raises(RuntimeError, match="Store: is closed; open a new one"):
        store.image(0)
    assert store.key(0) == "x/1"


def test_changed_after_opening(folder: Path, make_tar):
    store = Store(folder)
    tar = make_tar("s/a-0.tar", [("x/1.jpg", b"three")])
    os.utime(tar, (1, 1))
    with pytest.raises(ShardError, match=r"a-0.tar: the shard was changed since its index was read \(10240 bytes then"):
        store.image(0)
    os.unlink(tar)
    with pytest.raises(ShardError, match=r"a-0.tar: the shard is gone since its index was read; open the Store again"):
        store.image(0)
    assert store.image(2).size == 0


def test_pickle(folder: Path):
    store = Store(folder)
    store.image(0)
    copy = pickle.loads(pickle.dumps(store))
    assert bytes(copy.image(1)) == b"two"
    assert copy.fingerprint == store.fingerprint
    assert copy.targets.tolist() == store.targets.tolist()


def test_spawned_process(folder: Path):
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer); print(bytes(s.image(4)), s.key(2) == 'ü ö')"
    path = os.pathsep.join(sys.path)
    result = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(Store(folder)), capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": path}, cwd="/",
    )  # fmt: skip
    assert result.stdout.split() == [b"b'j'", b"True"]


def test_threads(make_tar):
    tars = [make_tar(f"{s}.tar", [(f"{i}.jpg", b"%d-%d" % (s, i)) for i in range(20)]) for s in range(12)]
    store = Store(tars, max_open=3)
    order = [os.path.basename(shard).split(".")[0].encode() for shard in store.shards]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for sample in np.random.default_rng(seed).integers(0, 240, 500).tolist():
            if bytes(store.image(sample)) != order[sample // 20] + b"-%d" % (sample % 20):
                wrong.append(sample)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory(make_tar):
    files = [(f"n01440764/n01440764_{i}.{ext}", b"%d" % i) for i in range(1000) for ext in ("jpg", "cls")]
    store = Store(make_tar("x.tar", files))
    arrays = [value for value in vars(store).values() if isinstance(value, np.ndarray)]
    # 9 bytes a component, 8 and the key (of 10 + 1 + 10 to 13 letters) a sample; some bytes of each array's end.
    assert sum(array.nbytes for array in arrays) + len(store._keys) <= (2 * 9 + 8 + 24) * 1000 + 100


def test_offsets_beyond_4_gib(tmp_path: Path, make_tar):
    small = Path(make_tar("small.tar", [("b.jpg", b"behind")])).read_bytes()
    big = bytearray(Path(make_tar("part.tar", [("a.bin", b"")])).read_bytes()[:512])
    size = 5 << 30
    big[124:136] = b"%011o\0" % size
    big[148:156] = b" " * 8
    big[148:156] = b"%06o\0 " % sum(big)
    with open(tmp_path / "big.tar", "wb") as file:
        file.write(big)
        file.seek(512 + size)
        file.write(small)
    store = Store(tmp_path / "big.tar")
    assert bytes(store.image(1)) == b"behind"
    assert store.component(0, "bin").size == size


def test_no_python_object_for_a_sample(folder: Path):
    store = Store(folder)
    assert all(not isinstance(value, dict) or len(value) < 10 for value in vars(store).values())


def test_real_shards(shared_data: Path, tmp_path: Path):
    shutil.copy(shared_data / "cifar10_small" / "cifar10_2500.tar", tmp_path / "cifar.tar")
    store = Store(tmp_path / "cifar.tar")
    assert len(store) == 2500
    assert all(bytes(store.image(i)[:3]) == b"\xff\xd8\xff" for i in range(2500))
    assert store.key(0) == "test/airplane/0346"
    assert (store.targets == -1).all()


def test_log_of_indexing(folder: Path, caplog):
    with caplog.at_level(logging.INFO):
        Store(folder)
    assert "writing the indexes of 3 shards" in caplog.text
    assert os.path.exists(index_path(str(folder / "a-0.tar")))


def test_many_are_as_each(make_tar):
    files = [
        ("x/1.jpg", b"one"), ("x/1.cls", b"4"), ("x/2.PNG", b"two"), ("x/2.json", b'{"label": 7}'), ("x/2.cls", b"seven"),
        ("ü ö.cls", b" -3\n"), ("no.txt", b""), ("b.webp", b""), ("b.png", b"p"), ("b.jpg", b"j"),
    ]  # fmt: skip
    plain = [("a.jpg", b"a" * n) for n in (1,)]
    with Store([make_tar("x.tar", files), make_tar("y.tar", plain)]) as store:
        samples = np.array([5, 0, 3, 1, 4, 2, 0])
        images = store.images(samples)
        assert [bytes(image) for image in images] == [b"a", b"one", b"", b"two", b"j", b"", b"one"]
        assert [image.ctypes.data for image in images if image.size] == images.addresses[images.sizes > 0].tolist()
        assert images.sizes.tolist() == [1, 3, 0, 3, 1, 0, 3]
        assert [bytes(image) for image in images[1:3]] == [b"one", b""]
        assert store.keys(samples) == [store.key(i) for i in samples.tolist()]
        assert store.targets_of(samples).tolist() == [-1, 4, -1, 7, -1, -3, 4]
        assert len(store.images([])) == 0
        assert store.keys([]) == []
        for read in (store.images, store.keys, store.targets_of):
            with pytest.raises(IndexError, match=r"samples must be in 0\.\.5, got -1\.\.6"):
                read([6, -1])
