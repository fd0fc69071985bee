"""Patterns to lists of shards."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import pytest

from figureground.shards.errors import ShardError
from figureground.shards.patterns import expand, expand_braces


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("t-000.tar", "t-001.tar", "t-002.tar", "v-0.tar", "t-000.masks.tar", "t-000.idx", "odd{1}[2].tar"):
        (tmp_path / name).touch()
    return tmp_path


def names(shards):
    return [os.path.basename(shard) for shard in shards]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{8..11}", ["a-8", "a-9", "a-10", "a-11"]),
        ("{0..6..3}{x,y}", ["0x", "0y", "3x", "3y", "6x", "6y"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b{1..2}}c", ["ac", "b1c", "b2c"]),
        ("{09..10}", ["09", "10"]),
        ("plain", ["plain"]),
        ("{one}", ["{one}"]),
        ("open{", ["open{"]),
        ("{,x}y", ["y", "xy"]),
        ("{one}{a,b}", ["{one}a", "{one}b"]),
    ],
)
def test_braces_as_a_shell(pattern, wanted):
    assert expand_braces(pattern) == wanted


def test_expand(folder: Path):
    assert names(expand(folder)) == ["odd{1}[2].tar", "t-000.tar", "t-001.tar", "t-002.tar", "v-0.tar"]
    assert names(expand(f"{folder}/t-*.tar")) == ["t-000.tar", "t-001.tar", "t-002.tar"]
    assert names(expand(f"{folder}/{{t-00{{0..1}},v-0}}.tar")) == ["t-000.tar", "t-001.tar", "v-0.tar"]
    assert names(expand(folder / "odd{1}[2].tar")) == ["odd{1}[2].tar"]
    assert names(expand(f"{folder}/*.masks.tar")) == ["t-000.masks.tar"]
    assert names(expand(folder / "t-000.masks.tar")) == ["t-000.masks.tar"]


def test_sorted_and_unique(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    assert expand(["v-0.tar", str(folder / "t-001.tar"), "./t-001.tar", "t-000.tar"]) == [
        "t-000.tar",
        str(folder / "t-001.tar"),
        "v-0.tar",
    ]


def test_messages(folder: Path):
    with pytest.raises(ShardError, match=r"none-\*\.tar: no shard matches; check the path"):
        expand(f"{folder}/none-*.tar")
    with pytest.raises(ShardError, match=r"gone\.tar: no shard matches"):
        expand([folder, folder / "gone.tar"])
    with pytest.raises(ShardError, match=r"2 of its shards do not exist, the first is .*t-003\.tar"):
        expand(f"{folder}/t-{{000..004}}.tar")
    with pytest.raises(ShardError, match="must name at least one shard, got an empty list"):
        expand([])
    with pytest.raises(ShardError, match="must be a local file, got a URL; fetch it"):
        expand("s3://bucket/x-{00..10}.tar")
    (folder / "empty").mkdir()
    with pytest.raises(ShardError, match="empty: no shard matches"):
        expand(folder / "empty")


@pytest.mark.parametrize("given", [None, 5, b"a.tar"])
def test_what_is_no_pattern(given):
    with pytest.raises(TypeError, match=f"must be a path or a sequence of paths, got {type(given).__name__}"):
        expand(given)


def test_file_urls_without_a_cache(tmp_path):
    with pytest.raises(ShardError, match="must be given by its path, without 'file://'"):
        expand(f"file://{tmp_path}/a.tar")


def test_what_a_shell_makes_of_a_glob(folder: Path):
    """`masks shards/*.tar` without quotes, run again when sidecars lie beside the shards; `Loader(glob.glob(...))`."""
    assert names(expand(glob.glob(f"{folder}/t-*.tar"))) == ["t-000.tar", "t-001.tar", "t-002.tar"]
    assert names(expand([folder / "t-000.masks.tar", folder / "t-001.tar"])) == ["t-000.masks.tar", "t-001.tar"]
