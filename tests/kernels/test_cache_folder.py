"""Compiled kernels on a machine where neither the package's folder nor the home can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from figureground.kernels import cache_folder
from figureground.kernels.cache_folder import choose_cache_folder, private_folder

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os
from figureground.pipeline import order
import numpy as np
print(sorted(order.Order(5, 1).sample_ids(0, np.arange(5)).tolist()), os.environ.get("NUMBA_CACHE_DIR"))
"""


def _run(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, check=False,
        env={**kept, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip


def test_neither_package_nor_home_can_be_written(tmp_path):
    tree, temporary = tmp_path / "site", tmp_path / "tmp"
    temporary.mkdir()
    for folder in ("shards", "kernels", "pipeline"):
        target = tree / "figureground" / folder
        shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__"))
        (target / "__pycache__").touch()  # a file: not even root can make a folder of this name
    done = _run(tree, HOME="/dev/null", TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr[-2000:]
    folder = temporary / f"figureground-numba-{os.getuid()}"
    assert done.stdout.split("] ") == ["[0, 1, 2, 3, 4", f"{folder}\n"]
    assert "set NUMBA_CACHE_DIR" in done.stderr
    assert list(folder.rglob("*.nbi"))
    assert folder.stat().st_mode & 0o777 == 0o700
    done = _run(tree, HOME=str(tmp_path / "home"), TMPDIR=str(temporary))  # Numba's own second place
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("None\n")


def test_a_folder_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder.tempfile, "tempdir", str(tmp_path))
    mine = private_folder("ours")
    assert private_folder("ours") == mine
    mine.chmod(0o777)
    assert private_folder("ours") not in (mine, private_folder("ours"))
    (tmp_path / f"link-{os.getuid()}").symlink_to(tmp_path)
    assert not private_folder("link").is_symlink()


def test_nothing_is_set_where_numba_finds_a_place(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    choose_cache_folder(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
