"""The commands `masks` and `show masks`: output, exit codes, signals."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline_shards import write_shards

from figureground.pipeline.masks_cli import Terminated, add_masks, add_show_masks, run_masks, run_show_masks


def masks(*arguments):
    parser = argparse.ArgumentParser()
    add_masks(parser)
    return run_masks(parser.parse_args([*map(str, arguments), "--device", "cpu", "--quiet"]))


def show(*arguments):
    parser = argparse.ArgumentParser()
    add_show_masks(parser)
    return run_show_masks(parser.parse_args([*map(str, arguments), "--device", "cpu"]))


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", 12, per_shard=6, masks=False)
    return tmp_path / "shards"


def test_make_then_look(shards, tmp_path, capsys):
    assert masks(shards, "--out", tmp_path / "out", "--size", 32) == 0
    assert "fused: 2 sidecars made, 0 kept, 0 failed; 12 masks of 12 images" in capsys.readouterr().out
    assert masks(shards, "--out", tmp_path / "out", "--size", 32, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sidecars"]["kept"] == 2
    assert masks(shards, "--out", tmp_path / "out", "--size", 48) == 2
    assert "size 32, asked for 48" in capsys.readouterr().err
    assert show(shards, "--masks", tmp_path / "out", "--out", tmp_path / "page.html", "--limit", 5) == 0
    assert "page.html: 5 of 12 images, 5 with a mask" in capsys.readouterr().out


def test_import(shards, tmp_path, capsys):
    folder = tmp_path / "pngs"
    folder.mkdir()
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / "00003.png")
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / "surplus.png")
    assert masks(shards, "--out", tmp_path / "out", "--from-folder", folder, "--method", "by hand") == 0
    out, err = capsys.readouterr()
    assert "by hand: 2 sidecars made" in out
    assert "11 x no file" in out
    assert "files that belong to no sample: 1, the first is 'surplus.png'" in out
    assert "00000: no file" in err


def test_a_failed_shard_is_1(shards, tmp_path, capsys):
    (shards / "part-000001.tar").write_bytes(b"?" * 2000)
    (shards / "part-000001.idx").unlink()
    assert masks(shards, "--out", tmp_path / "out", "--size", 32) == 1
    out, err = capsys.readouterr()
    assert "1 sidecars made, 0 kept, 1 failed" in out
    assert "failed: " in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "magic"], "method must be one of"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--batch-size", "0"], "batch_size must be at least 1"),
        (["--address", "auto"], "--address and --gpus-per-worker need --engine ray"),
        (["--from-folder", "/nowhere"], "folder must be a folder of PNG masks"),
    ],
)
def test_usage_is_2(shards, capsys, arguments, says):
    assert masks(shards, *arguments) == 2
    assert says in capsys.readouterr().err


def test_no_shards_is_2(tmp_path, capsys):
    assert masks(tmp_path / "none-*.tar") == 2
    assert "no shard matches" in capsys.readouterr().err
    assert show(tmp_path / "none-*.tar") == 2


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_interrupted(shards, monkeypatch, capsys, raised, code):
    def stop(*_, **__):
        raise raised

    monkeypatch.setattr("figureground.pipeline.masks_job.make_masks", stop)
    before = signal.getsignal(signal.SIGTERM)
    assert masks(shards) == code
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_ends_a_run_cleanly(tmp_path):
    """A real SIGTERM in the middle of a shard: exit code 143, nothing half-made, no temporary file."""
    write_shards(tmp_path / "shards", 40, masks=False)
    code = (
        "import os, signal, sys, argparse\n"
        "from figureground.pipeline import masks_cli, masks_target\n"
        "real = masks_target.MaskWriter.add\n"
        "def add(self, key, mask):\n"
        "    real(self, key, mask)\n"
        "    if key.endswith('7'): os.kill(os.getpid(), signal.SIGTERM)\n"
        "masks_target.MaskWriter.add = add\n"
        "parser = argparse.ArgumentParser(); masks_cli.add_masks(parser)\n"
        "sys.exit(masks_cli.run_masks(parser.parse_args(sys.argv[1:])))\n"
    )
    arguments = [str(tmp_path / "shards"), "--out", str(tmp_path / "out"), "--device", "cpu", "--size", "32", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "build" / "typing")}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 143, done.stderr
    assert "interrupted" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_urls(shards, tmp_path, capsys):
    """Shards and sidecars behind URLs need a cache; the same bytes as local ones, and a page of them."""
    url, out = f"file://{tmp_path}/shards/part-{{000000..000001}}.tar", f"file://{tmp_path}/there"
    assert masks(url, "--out", out) == 2
    assert capsys.readouterr().err.endswith("behind a URL needs a cache; pass --cache DIR (a folder on a local disk)\n")
    assert masks(url, "--out", "https://host/masks", "--cache", tmp_path / "cache", "--cache-size", "1G") == 2
    assert "a web server is read-only" in capsys.readouterr().err
    assert masks(url, "--out", out, "--size", 32, "--cache", tmp_path / "cache", "--cache-size", "1G") == 0
    assert masks(shards, "--out", tmp_path / "here", "--size", 32) == 0
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
    capsys.readouterr()
    cache = ("--cache", tmp_path / "cache")
    assert show(url, "--masks", out, "--out", tmp_path / "page.html", "--compare", out) == 2
    assert "pass --cache DIR" in capsys.readouterr().err
    assert show(url, "--masks", out, "--out", tmp_path / "page.html", "--compare", out, *cache) == 0
    assert "12 of 12 images, 12 with a mask" in capsys.readouterr().out
    assert show(shards, "--masks", out, "--out", tmp_path / "page.html", *cache) == 0


def test_max_pixels(shards, tmp_path, capsys):
    assert masks(shards, "--out", tmp_path / "out", "--size", 32, "--max-pixels", 100) == 0
    assert "0 masks of 12 images" in capsys.readouterr().out
    assert masks(shards, "--out", tmp_path / "out", "--max-pixels", 0) == 2
    assert "max_pixels must be at least 1, got 0" in capsys.readouterr().err


def test_a_size_of_a_cache(capsys):
    parser = argparse.ArgumentParser()
    add_masks(parser)
    assert parser.parse_args(["x", "--cache-size", "1.5 MB"]).cache_size == 1_500_000
    for text in ("much", "0", "-1G", "5 XB"):
        with pytest.raises(SystemExit):
            parser.parse_args(["x", f"--cache-size={text}"])
        assert "a size must be a number of bytes, e.g. 50GB or 500M" in capsys.readouterr().err


def test_credentials_come_from_the_environment(shards, tmp_path, monkeypatch, capsys):
    import fsspec
    from s3_server import s3_server

    with s3_server() as options:
        fsspec.filesystem("s3").clear_instance_cache()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", options["key"]), ("AWS_SECRET_ACCESS_KEY", options["secret"]),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", options["endpoint_url"]),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        assert masks(shards, "--out", "s3://bucket/masks", "--size", 32) == 0
        assert "2 sidecars made" in capsys.readouterr().out
        assert masks(shards, "--out", "s3://bucket/masks", "--size", 32) == 0
        assert "0 sidecars made, 2 kept" in capsys.readouterr().out
        assert masks(shards, "--out", "s3://nowhere/masks", "--size", 32) == 2
        assert capsys.readouterr().err == "s3://nowhere/masks: the bucket does not exist; make it, or check the URL\n"
