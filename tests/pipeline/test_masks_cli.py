"""The commands `masks` and `show masks`: output, exit codes, signals."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline_shards import write_shards

from figureground.pipeline.masks_cli import Terminated, add_masks, add_show_masks, run_masks, run_show_masks
from figureground.pipeline.masks_estimate import EstimateMasks
from figureground.pipeline.masks_import import gray_mask
from figureground.pipeline.saliency_net import SaliencyNet, save_net
from figureground.shards import MaskStore, Store


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


def test_a_folder_that_cannot_be_made(shards, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert masks(shards, "--out", tmp_path / "file", "--size", 32) == 2
    assert (
        "file: no folder of sidecars can be made there (File exists); choose another (--out)" in capsys.readouterr().err
    )
    assert masks(shards, "--out", tmp_path / "out", "--size", 32) == 0
    assert show(shards, "--masks", tmp_path / "out", "--out", tmp_path / "file" / "page.html") == 2
    assert "file is no folder; choose another place" in capsys.readouterr().err


def test_update_makes_only_what_was_made_otherwise(shards, tmp_path, capsys):
    out = tmp_path / "out"
    assert masks(shards, "--out", out, "--size", 32) == 0
    before = {path: path.read_bytes() for path in sorted(out.glob("*.tar"))}
    # As a run with --overwrite that was killed after the first shard leaves them.
    assert masks(shards, "--out", out, "--size", 32, "--method", "rbd", "--overwrite", "--limit", 1) == 0
    capsys.readouterr()
    assert masks(shards, "--out", out, "--size", 32, "--method", "rbd") == 2
    assert "method 'fused', asked for 'rbd'); pass overwrite (--overwrite all anew, --update only these)" in (
        capsys.readouterr().err
    )
    assert masks(shards, "--out", out, "--size", 32, "--method", "rbd", "--update") == 0
    assert "rbd: 1 sidecars made, 1 kept" in capsys.readouterr().out
    assert masks(shards, "--out", out, "--size", 32, "--update") == 0
    assert "fused: 2 sidecars made, 0 kept" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in sorted(out.glob("*.tar"))} == before
    with pytest.raises(SystemExit):
        masks(shards, "--update", "--overwrite")


def test_an_import_without_any_match_is_a_problem(shards, tmp_path, capsys):
    folder = tmp_path / "pngs" / "class"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(folder / "00003.png")
    assert masks(shards, "--out", tmp_path / "out", "--from-folder", folder.parent) == 1
    assert "the mask of '00000' would be '00000.png' in the folder" in capsys.readouterr().out


def test_imported_masks_of_one_size(shards, tmp_path, capsys):
    (tmp_path / "pngs").mkdir()
    large = np.zeros((400, 600), np.uint8)
    large[:, 300:] = 255
    Image.fromarray(large).save(tmp_path / "pngs" / "00003.png")
    assert masks(shards, "--out", tmp_path / "own", "--from-folder", tmp_path / "pngs") == 0
    assert masks(shards, "--out", tmp_path / "one", "--from-folder", tmp_path / "pngs", "--size", 64) == 0
    found = []
    for name in ("own", "one"):
        with Store(shards) as store, MaskStore(store, tmp_path / name) as made:
            found.append(gray_mask(made.mask(3).tobytes()))
    np.testing.assert_array_equal(found[0], large)
    np.testing.assert_array_equal(found[1], np.repeat([[0] * 32 + [255] * 32], 64, axis=0))
    assert masks(shards, "--from-folder", tmp_path / "pngs", "--size", 4) == 2
    assert "size must be 16 to 1024 px, got 4" in capsys.readouterr().err


def test_a_network_wants_larger_masks(shards, tmp_path, capsys):
    save_net(tmp_path / "net.pt", SaliencyNet(4), side=32, card={})
    assert masks(shards, "--method", f"net:{tmp_path / 'net.pt'}", "--size", 20) == 2
    assert "size must be 32 to 256 px, got 20 for method 'net:net.pt'" in capsys.readouterr().err


def test_the_place_of_a_network_is_not_in_the_masks(shards, tmp_path, monkeypatch):
    """The same file by a relative path, by an absolute one and from another folder: one set of masks."""
    (tmp_path / "a").mkdir()
    save_net(tmp_path / "net.pt", SaliencyNet(4), side=32, card={})
    (tmp_path / "a" / "net.pt").write_bytes((tmp_path / "net.pt").read_bytes())
    monkeypatch.chdir(tmp_path)
    made = []
    for method in ("net:net.pt", f"net:{tmp_path}/net.pt", "net:a/net.pt"):
        assert masks(shards, "--out", tmp_path / "out", "--method", method, "--size", 32) == 0
        made.append([path.read_bytes() for path in sorted((tmp_path / "out").glob("*.tar"))])
        for path in (tmp_path / "out").iterdir():
            path.unlink()
    assert made[0] == made[1] == made[2]
    assert EstimateMasks("net:net.pt").method == f"net:{tmp_path}/net.pt", "it travels to workers elsewhere"


def test_lines_in_a_log(shards, tmp_path, capsys, monkeypatch):
    """Without a terminal a bar says nothing before its end, which may be days away."""
    monkeypatch.setattr("figureground.pipeline.masks_bar.LINES_S", 0.0)
    parser = argparse.ArgumentParser()
    add_masks(parser)
    arguments = [str(shards), "--out", str(tmp_path / "out"), "--size", "32", "--device", "cpu"]
    assert run_masks(parser.parse_args(arguments)) == 0
    assert re.search(r"^1/2 shards, \d+/12 images", capsys.readouterr().err, re.M)
    assert run_masks(parser.parse_args([*arguments, "--overwrite", "--quiet"])) == 0
    assert capsys.readouterr().err == ""


def test_the_shell_names_sidecars_too(shards, capsys):
    """Without quotes, `shards/*.tar` names them from the second run on."""
    for kept in (0, 2):
        assert masks(*sorted(shards.glob("*.tar")), "--size", 32) == 0
        assert f"{kept} kept" in capsys.readouterr().out


def test_unusable_masks_are_named_by_shard(shards, tmp_path, capsys):
    """In the report of the run that made them and of those that find them made."""
    (tmp_path / "pngs").mkdir()
    for key, value in (("00001", 0), ("00002", 255), ("00003", 127)):
        Image.fromarray(np.full((9, 9), value, np.uint8)).save(tmp_path / "pngs" / f"{key}.png")
    shutil.copy(tmp_path / "pngs" / "00001.png", tmp_path / "pngs" / "00007.png")
    for status in ("made", "kept"):
        assert masks(shards, "--out", tmp_path / "out", "--from-folder", tmp_path / "pngs", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["sidecars"][status] == 2
        unusable = [shard["unusable"] for shard in report["shards"]]
        assert unusable == [[["00001", "empty"], ["00002", "full"]], [["00007", "empty"]]]
        assert (report["empty"], report["full"]) == (2, 1)
