"""Commands: exit codes and what they print."""

from __future__ import annotations

import argparse
import json
import os
import tarfile
from pathlib import Path

import pytest

from figureground.shards import cli
from figureground.shards.index import index_is_fresh, index_path, write_index


@pytest.fixture
def command(capsys):
    """Run a command; give its exit code, stdout and stderr."""

    def run(name, *arguments, **options):
        parser = argparse.ArgumentParser()
        getattr(cli, f"add_{name}")(parser)
        code = getattr(cli, f"run_{name}")(parser.parse_args([str(word) for word in arguments]), **options)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_pack_index_check(command, tmp_path: Path, jpeg):
    for name in ("cat/1.jpg", "dog/2.jpg", "dog/bad.jpg"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(jpeg if name != "dog/bad.jpg" else b"bad")
    out = tmp_path / "out"
    code, printed, log = command("pack", tmp_path / "src", out, "--jobs", 2, "--name", "x", "--shuffle", 3)
    assert (code, printed[:35]) == (0, "2 samples of 2 classes in 1 shards,")
    assert "left out 'dog/bad.jpg': is no image" in log
    assert "packing" in log
    os.unlink(out / "x-000000.idx")
    code, printed, _ = command("check", out)
    assert (code, printed) == (1, f"{out}/x-000000.tar: has no index; run 'figureground index {out}/x-000000.tar'\n")
    assert command("index", out) == (0, "", "")
    assert command("check", out) == (0, "", "")
    assert command("check", out, "--json") == (0, "[]\n", "")


def test_pack_quiet_and_errors(command, tmp_path: Path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    assert command("pack", tmp_path, tmp_path / "out", "--quiet", "--limit", 1, "--image-ext", "jpg")[::2] == (0, "")
    code, printed, log = command("pack", tmp_path, tmp_path / "out", "--quiet")
    assert (code, printed, "has shards named shard already" in log) == (1, "", True)
    code, _, log = command("pack", tmp_path, tmp_path / "out", "--shard-size-mb", -1)
    assert (code, log) == (2, "pack: shard_size_mb must be greater than 0, got -1.0\n")


@pytest.mark.parametrize("jobs", [1, 2])
def test_index_mends_what_is_stale(command, make_tar, jobs):
    shards = [make_tar(f"{i}.tar", [("a.jpg", b"x")]) for i in range(3)]
    write_index(shards[0])
    write_index(shards[1])
    with tarfile.open(shards[1], "a") as archive:
        archive.addfile(tarfile.TarInfo("b.jpg"))
    os.utime(index_path(shards[0]), (7, 7))
    assert command("index", *shards, "--jobs", jobs) == (0, "", "")
    assert all(index_is_fresh(shard) for shard in shards)
    assert os.stat(index_path(shards[0])).st_mtime == 7
    assert command("index", *shards, "--jobs", jobs, "--force")[0] == 0
    assert os.stat(index_path(shards[0])).st_mtime > 7


def test_index_errors(command, make_tar, tmp_path: Path, monkeypatch):
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    good = make_tar("good.tar", [("a.jpg", b"x")])
    code, printed, _ = command("index", tmp_path)
    assert code == 1
    assert printed.count("\n") == 1
    assert "bad.tar: the shard must be a tar file" in printed
    assert index_is_fresh(good)
    code, _, log = command("index", tmp_path / "gone.tar")
    assert (code, "gone.tar: no shard matches" in log) == (2, True)
    assert command("index", good, "--jobs", 0)[::2] == (2, "index: jobs must be at least 1, got 0\n")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cli, "write_index", refuse)
    assert command("index", good, "--force")[:2] == (1, f"{good}: its index cannot be written: Permission denied\n")


def test_index_mends_a_damaged_one(command, make_tar):
    tar = make_tar("x.tar", [("a.jpg", b"x")])
    Path(index_path(tar)).write_text("nonsense")
    assert command("index", tar) == (0, "", "")
    assert index_is_fresh(tar)


def test_check_json_and_inspect(command, make_tar):
    tar = make_tar("x.tar", [("a.jpg", b"x")])
    write_index(tar)
    code, printed, _ = command("check", tar, "--json", inspect=lambda data: "looks bad")
    assert code == 1
    assert json.loads(printed) == [{"shard": tar, "kind": "image", "key": "a", "message": "looks bad"}]
    code, _, log = command("check", "gone.tar")
    assert (code, log) == (2, "gone.tar: no shard matches; check the path\n")


def test_check_masks_folder(command, make_tar, tmp_path: Path):
    tar = make_tar("x.tar", [("a.jpg", b"x")])
    write_index(tar)
    (tmp_path / "m").mkdir()
    make_tar("m/x.masks.tar", [("a.mask.png", b"?")])
    assert command("check", tar)[0] == 0
    code, printed, _ = command("check", tar, "--masks", tmp_path / "m")
    assert code == 1
    assert "x.masks.tar: a: its mask is no PNG" in printed
