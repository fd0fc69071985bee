"""Temporary files of killed jobs: ours go, all others stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from figureground.pipeline.masks_leftovers import remove_leftovers


def test_only_ours_and_only_of_dead_writers(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    parent = os.getppid()
    ours = [f".a.masks.tar.{gone.pid}-0123abcd.tmp", f".a.masks.idx.{gone.pid}-0123abcd.tmp"]
    mine = [f".a.masks.tar.{os.getpid()}-00000000.tmp"]
    old = [f".a.masks.tar.{parent}-11111111.tmp"]
    others = [
        f".a.masks.tar.{parent}-22222222.tmp", f".b.masks.tar.{gone.pid}-0123abcd.tmp", "a.masks.tar", ".a.masks.tar.tmp",
        f"a.masks.tar.{gone.pid}-0123abcd.tmp", f".a.masks.tar.{gone.pid}-0123ABCD.tmp",
    ]  # fmt: skip
    for name in ours + mine + old + others:
        (tmp_path / name).touch()
    os.utime(tmp_path / old[0], (time.time() - 7200,) * 2)
    removed = remove_leftovers([str(tmp_path / "a.masks.tar")])
    assert sorted(map(os.path.basename, removed)) == sorted(ours + mine + old)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_number_that_a_younger_process_got(tmp_path):
    """Process numbers are used again: who began after the file was written did not write it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as younger:
        names = [f".a.masks.tar.{younger.pid}-{k}0000000.tmp" for k in range(2)]
        for name in names:
            (tmp_path / name).touch()
        os.utime(tmp_path / names[0], (time.time() - 60,) * 2)
        removed = remove_leftovers([str(tmp_path / "a.masks.tar")])
        younger.communicate(b"\n")
    assert removed == [str(tmp_path / names[0])]


def test_a_writer_that_has_ended_and_is_not_yet_buried(tmp_path):
    """In a container the first process may be slow to ask how orphans ended; until then their numbers are taken."""
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert ended.stdout is not None
    ended.stdout.read()  # its end
    deadline = time.monotonic() + 60
    while Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / f".a.masks.tar.{ended.pid}-0123abcd.tmp").touch()
    assert len(remove_leftovers([str(tmp_path / "a.masks.tar")])) == 1
    ended.wait()


def test_a_folder_that_is_not_there(tmp_path):
    assert remove_leftovers([str(tmp_path / "no" / "a.masks.tar")]) == []
