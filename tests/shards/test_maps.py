"""Mapped files: read-only, without descriptors, unmapped when nobody holds them."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from figureground.shards.maps import Maps, map_file


def mapped(path):
    """How often this process maps a file."""
    with open("/proc/self/maps") as file:
        return sum(str(path) in line for line in file)


def opened(path):
    file = os.open(path, os.O_RDONLY)
    try:
        return map_file(file, os.path.getsize(path), str(path))
    finally:
        os.close(file)


def test_a_map_outlives_its_file_descriptor_and_dies_with_its_last_array(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(range(256)) * 64)
    before = len(os.listdir("/proc/self/fd"))
    array = opened(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert (array.dtype, array.shape, bytes(array[:3])) == (np.uint8, (16384,), b"\0\1\2")
    piece = array[100:200]
    del array
    gc.collect()
    assert (mapped(path), piece[0]) == (1, 100)
    del piece
    gc.collect()
    assert mapped(path) == 0


def test_nobody_can_write(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"abc")
    array = opened(path)
    for view in (array, array[1:]):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    assert opened(tmp_path / "a.tar").tobytes() == b"abc"


def test_an_empty_file_and_a_refusal(tmp_path):
    (tmp_path / "none").write_bytes(b"")
    assert opened(tmp_path / "none").shape == (0,)
    with pytest.raises(OSError, match="cannot be mapped: Bad file descriptor"):
        map_file(-1, 10, "gone.tar")


def test_more_shards_than_open_files(tmp_path):
    for number in range(120):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]) * 10)
    code = (
        "import os, resource, sys; import numpy as np\n"
        "from figureground.shards.maps import Maps\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "paths = [f'{sys.argv[1]}/{number}.tar' for number in range(120)]\n"
        "found = [os.stat(path) for path in paths]\n"
        "maps = Maps(paths, np.array([(each.st_size, each.st_mtime_ns) for each in found]))\n"
        "held = [maps[number][2:4] for number in range(120)]\n"
        "print(sum(int(piece[0]) for piece in held))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{sum(range(120))}\n", done.stderr


def test_the_least_recently_used_goes(tmp_path):
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(b"x" * (number + 1))
        paths.append(str(path))
    found = [os.stat(path) for path in paths]
    maps = Maps(paths, np.array([(each.st_size, each.st_mtime_ns) for each in found]), limit=2)
    for number in (0, 1, 0, 2):
        assert len(maps[number]) == number + 1
    gc.collect()
    assert [mapped(path) for path in paths] == [1, 0, 1]
    maps.close()
    gc.collect()
    assert [mapped(path) for path in paths] == [0, 0, 0]
