"""What is installed: the wheel and the sdist hold every file of the four folders, and the wheel works elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("shards", "kernels", "pipeline", "bench")
SUFFIXES = {".py", ".cu", ".cuh", ".html", ".typed"}
CODE = """
import figureground.shards, figureground.kernels
from figureground.kernels.launch import source_path
import importlib.metadata, pathlib, sys
stems = sorted(p.stem for p in pathlib.Path(figureground.kernels.__file__).parent.glob("*.cu"))
assert all(source_path(stem).is_file() for stem in stems)
print(importlib.metadata.version("figureground"), len(stems), figureground.kernels.__file__)
"""
pytestmark = pytest.mark.slow


def package_files() -> set[str]:
    """Every file that a user needs, as `folder/name`; results and reports that the bench wrote are not among them."""
    paths = (p for folder in FOLDERS for p in (ROOT / folder).glob("*") if p.suffix in SUFFIXES or p.name == "py.typed")
    return {p.relative_to(ROOT).as_posix() for p in paths if p != ROOT / "bench" / "report.html"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Folder with a wheel and an sdist, built offline from a clean copy (`build/lib` of an old build could leak in)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_wheel_holds_every_file(dist):
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"figureground/{name}" for name in package_files()} <= names
    assert not [n for n in names if n.split("/")[0] in (*FOLDERS, "tests")], "a bare folder leaked into the wheel"
    assert not [n for n in names if n == "figureground/__init__.py"], "figureground is a namespace"


def test_sdist_holds_every_file(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = package_files() | {
        "tests/conftest.py",
        "tests/host_cuda/shim.h",
        "tests/cuda_budget.json",
        "pyproject.toml",
    }
    assert wanted <= names, f"the sdist lacks {sorted(wanted - names)}"


def test_wheel_works_elsewhere(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=empty, env=environment)
    assert done.returncode == 0, done.stderr
    version, kernels, where = done.stdout.split()
    assert Path(where).is_relative_to(target)
    assert int(kernels) == len(list((ROOT / "kernels").glob("*.cu")))
    assert version in wheel.name
