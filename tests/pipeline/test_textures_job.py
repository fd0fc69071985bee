"""Textures: the job that makes them, their sidecars, and the loader's negatives from them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from loader_tools import make
from pipeline_shards import write_shards, write_tar

from figureground.kernels.fourier import randomize_phase
from figureground.kernels.quilt import quilt_textures
from figureground.pipeline import cli, recipes
from figureground.pipeline.textures_job import exemplar_rows, make_textures, texture_seed
from figureground.shards import MaskStore, Store, expand
from figureground.shards.errors import ShardError
from figureground.shards.index import write_index
from figureground.shards.masks import TEXTURES, MaskWriter, read_manifest, sidecar_path

RECIPE = recipes.moco_v2(32).with_negatives("texture-file")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 samples in two shards, and their textures beside them."""
    folder = tmp_path_factory.mktemp("textures")
    shards = write_shards(folder, 40, per_shard=20)
    report = make_textures(shards, size=64, progress=False)
    assert report["sidecars"] == {"made": 2, "kept": 0, "failed": 0}
    assert report["textures"] == report["samples"] == 40
    return folder


def _members(tar):
    with tarfile.open(tar) as file:
        return {member.name: file.extractfile(member).read() for member in file}


def test_exemplars_are_the_middle_and_a_random_place():
    sizes, seeds = np.array([[200, 300], [96, 96], [40, 90]]), np.array([1, 2, 3], np.uint64)
    rows = exemplar_rows(sizes, seeds).reshape(3, 2)
    assert rows["box"][:, 0].tolist() == [[102, 52, 96, 96], [0, 0, 96, 96], [25, 0, 40, 40]]
    assert rows["box"][1:, 1, 2:].tolist() == [[96, 96], [40, 40]]
    places = np.array([exemplar_rows(sizes[:1], np.array([s], np.uint64))["box"][1] for s in range(2000)])
    assert (places[:, 0].min(), places[:, 0].max(), places[:, 1].min(), places[:, 1].max()) == (0, 204, 0, 104)
    assert abs(places[:, 0].mean() - 102) < 6


def test_a_texture_is_quilted_of_its_images_exemplars(folder):
    """The whole way once more, by OpenCV's decoder and slices."""
    with Store(str(folder / "part-*.tar")) as store, MaskStore(store, kind=TEXTURES) as textures:
        assert textures.present.all()
        compared = 0
        for sample in range(40):
            image = cv2.imdecode(store.image(sample), cv2.IMREAD_COLOR)[..., ::-1]
            height, width = image.shape[:2]
            side = min(96, height, width)
            boxes = exemplar_rows(
                np.array([[height, width]]), np.array([texture_seed(0, store.key(sample))], np.uint64)
            )["box"]
            cuts = [image[int(y) : int(y) + side, int(x) : int(x) + side] for x, y, _, _ in boxes]
            if side < 96:
                continue
            exemplars = np.stack([cut.transpose(2, 0, 1) for cut in cuts])[None]
            want = quilt_textures(exemplars, seeds=np.array([texture_seed(0, store.key(sample))], np.uint64), size=64)[
                0
            ]
            got = cv2.imdecode(textures.mask(sample), cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
            assert got.shape == (3, 64, 64)
            assert np.abs(got.astype(int) - want).mean() < 6  # JPEG
            compared += 1
        assert compared > 3


def test_sidecars_are_plain_webdataset_and_pass_as_no_shard(folder):
    shards = expand(str(folder))
    assert [os.path.basename(s) for s in shards] == ["part-000000.tar", "part-000001.tar"]
    sidecar = sidecar_path(shards[0], kind=TEXTURES)
    assert os.path.basename(sidecar) == "part-000000.textures.tar"
    names = list(_members(sidecar))
    assert names[0] == "00000.texture.jpg"
    assert names[-1] == "manifest.json"
    manifest = read_manifest(sidecar, TEXTURES)
    assert (manifest.method, manifest.count, manifest.parameters["size"]) == ("quilting", 20, 64)
    with pytest.raises(ShardError, match="must be of format 'figureground masks 1'"):
        read_manifest(sidecar)
    with pytest.raises(ShardError, match="got a texture sidecar; name the shard itself"):
        sidecar_path(sidecar)


def test_the_job_is_pure_and_resumes(folder, tmp_path):
    shards = [str(folder / f"part-00000{i}.tar") for i in range(2)]
    first = make_textures(shards[:1], out=tmp_path, size=64, progress=False, threads=2)
    assert first["sidecars"]["made"] == 1
    report = make_textures(shards, out=tmp_path, size=64, progress=False)
    assert report["sidecars"] == {"made": 1, "kept": 1, "failed": 0}
    for shard in shards:
        assert (
            Path(sidecar_path(shard, tmp_path, TEXTURES)).read_bytes()
            == Path(sidecar_path(shard, kind=TEXTURES)).read_bytes()
        )
    with pytest.raises(ShardError, match=r"was made otherwise \(seed 0, asked for 1\)"):
        make_textures(shards, out=tmp_path, size=64, seed=1, progress=False)
    make_textures(shards, out=tmp_path, size=64, seed=1, overwrite=True, progress=False)
    name = "00003.texture.jpg"
    ours, theirs = (_members(sidecar_path(shards[0], where, TEXTURES)) for where in (None, tmp_path))
    assert ours[name] != theirs[name]


def test_processes_make_the_same(folder, tmp_path):
    report = make_textures(str(folder / "part-*.tar"), out=tmp_path, size=64, jobs=2, progress=False)
    assert report["sidecars"]["made"] == 2
    for shard in expand(str(folder)):
        assert (
            Path(sidecar_path(shard, tmp_path, TEXTURES)).read_bytes()
            == Path(sidecar_path(shard, kind=TEXTURES)).read_bytes()
        )


def test_bad_images_have_no_texture(tmp_path):
    good = cv2.imencode(".jpg", np.full((50, 60, 3), 90, np.uint8))[1].tobytes()
    write_tar(tmp_path / "a.tar", [("1.jpg", good), ("2.jpg", good[:-40]), ("3.jpg", good)])
    write_index(tmp_path / "a.tar")
    report = make_textures(str(tmp_path / "a.tar"), size=32, progress=False)
    assert (report["textures"], report["undecodable"]) == (2, 1)
    assert report["shards"][0]["without"][0][0] == "2"
    texture = cv2.imdecode(
        np.frombuffer(_members(tmp_path / "a.textures.tar")["1.texture.jpg"], np.uint8), cv2.IMREAD_COLOR
    )
    assert (np.abs(texture.astype(int) - 90) <= 1).all()


def test_command_line(folder, tmp_path, capsys):
    pattern = str(folder / "part-000000.tar")
    assert cli.main(["textures", pattern, "--out", str(tmp_path), "--size", "32", "--quiet"]) == 0
    assert "1 sidecars made, 0 kept, 0 failed; 20 textures of 20 images" in capsys.readouterr().out
    assert cli.main(["textures", pattern, "--out", str(tmp_path), "--size", "32", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sidecars"]["kept"] == 1
    assert cli.main(["textures", pattern, "--size", "8"]) == 2
    assert "size must be 16 to 1024 px, got 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 97}, "block must be 2 to 96 px, got 97"),
        ({"overlap": 17}, "overlap must be 1 to half a block, 16 px, got 17"),
        ({"tolerance": -1}, "tolerance must be in 0 .. 10, got -1"),
        ({"quality": 0}, "quality must be 1 to 100, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_messages(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        make_textures(str(folder), progress=False, **settings)


# ---------------------------------------------------------------------------- the loader


def _by_sample(loader):
    found = {}
    for batch in loader:
        for i, index in enumerate(batch["index"].tolist()):
            found[index] = (batch["negatives"][i].clone(), batch["params"][0][i])
    return found


@pytest.mark.parametrize("preset", ["moco_v2", "barlow_twins"])
def test_negatives_are_the_textures_with_the_querys_random_numbers(folder, tmp_path, preset):
    """Oracle: a loader over shards whose images are the textures, with the same keys and seed: its first view."""
    for shard in expand(str(folder)):
        members = _members(sidecar_path(shard, kind=TEXTURES))
        pictures = [(n.replace("texture.jpg", "jpg"), data) for n, data in members.items() if n.endswith(".jpg")]
        write_tar(tmp_path / os.path.basename(shard), pictures)
        write_index(tmp_path / os.path.basename(shard))
    recipe = recipes.PRESETS[preset](32)  # the second is resized by the bicubic filter
    with make(str(folder), recipe.with_negatives("texture-file"), seed=3) as loader:
        got = _by_sample(loader)
    with make(str(tmp_path), recipe, seed=3, masks=None) as loader:
        batches = list(loader)
    assert len(got) == 40
    for batch in batches:
        for i, index in enumerate(batch["index"].tolist()):
            negatives, row = got[index]
            assert negatives.shape == (1, 3, 32, 32)
            torch.testing.assert_close(negatives[0], batch["views"][0][i], rtol=0, atol=0)
            assert row["texture"] == 1
            assert (row["texture_crop"] == batch["params"][0][i]["crop"]).all()
            assert row["flip"] == batch["params"][0][i]["flip"]


def _some_missing(folder, tmp_path):
    """Every third texture is missing, and one is damaged."""
    for shard in expand(str(folder)):
        shutil.copy(shard, tmp_path)
        write_index(tmp_path / os.path.basename(shard))
        members = _members(sidecar_path(shard, kind=TEXTURES))
        with MaskWriter(tmp_path / os.path.basename(shard), method="some", kind=TEXTURES) as writer:
            for name, data in members.items():
                key = name.partition(".")[0]
                if name.endswith(".jpg") and int(key) % 3:
                    writer.add(key, data if int(key) != 1 else data[:100])
    return str(tmp_path)


def test_missing_textures_are_random_phase_and_said_so(folder, tmp_path):
    shards = _some_missing(folder, tmp_path)
    with make(str(folder), RECIPE) as loader:
        whole = _by_sample(loader)
    with make(shards, RECIPE, quarantine=tmp_path / "bad.jsonl") as loader:
        got = _by_sample(loader)
    assert not (tmp_path / "bad.jsonl").exists()
    with make(shards, recipes.moco_v2(32).with_negatives("texture"), masks=None) as loader:
        phase = _by_sample(loader)
    for index, (negatives, row) in got.items():
        there = index % 3 != 0 and index != 1
        assert row["texture"] == (1 if there else 2)
        torch.testing.assert_close(negatives, (whole if there else phase)[index][0], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"batch_size": 20, "threads": 1}, {"batch_size": 24, "drop_last": False}])
def test_negatives_depend_on_the_sample_alone(folder, tmp_path, options):
    shards = _some_missing(folder, tmp_path)
    recipe = RECIPE.with_background("swap", p=0.5).with_style_transfer(block=8).with_group_mixing(patch=8)
    with make(shards, recipe) as loader:
        want = _by_sample(loader)
        replayed = _by_sample([loader.replay([7, 20, 31], epoch=0)])
    with make(shards, recipe, **options) as loader:
        got = _by_sample(loader)
    assert want[5][0].shape == (2, 3, 32, 32)  # the swap negative, then the texture
    for found in (got, replayed):
        for index, (negatives, row) in found.items():
            torch.testing.assert_close(negatives, want[index][0], rtol=0, atol=0)
            assert row == want[index][1]


def test_textures_take_the_style_of_their_block(folder):
    recipe = RECIPE.with_style_transfer(block=8, window=0.0)
    with make(str(folder), recipe) as loader:
        batch = next(iter(loader))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (recipe.mean, recipe.std))
    query, negative = ((t * std + mean).mean((2, 3)) for t in (batch["views"][0], batch["negatives"][:, 0]))
    assert (negative - query).abs().mean() < 0.05


def test_phase_is_that_of_the_kernel(folder, tmp_path):
    """A sample without a texture, by hand: random phase of the coloured query."""
    shards = _some_missing(folder, tmp_path)
    recipe = recipes.Recipe("plain", recipes.mae(32).views, mean=(0.0,) * 3, std=(1.0,) * 3).with_negatives(
        "texture-file"
    )
    with make(shards, recipe) as loader:
        batch = loader.replay([0, 3, 6], epoch=0)
    queries = np.rint(batch["views"][0].numpy() * 255).astype(np.uint8)
    step = np.uint64(0x9E3779B97F4A7C15)
    want = randomize_phase(queries, seeds=batch["params"][0]["seed"] + step)
    np.testing.assert_array_equal(np.rint(batch["negatives"][:, 0].numpy() * 255).astype(np.uint8), want)


def test_no_textures_at_all_are_an_error(shards, folder, tmp_path):
    with pytest.raises(ValueError, match="found none beside the shards; run 'figureground textures'"):
        make(shards, RECIPE)
    with pytest.raises(ValueError, match=f"found none in {tmp_path}"):
        make(str(folder), RECIPE, textures_dir=tmp_path)
    with pytest.raises(ValueError, match="count must be 1 for kind 'texture-file'"):
        recipes.moco_v2(32).with_negatives("texture-file", count=2)
    with make(shards, RECIPE, format="moco") as loader:  # hands out no negatives
        next(iter(loader))


def test_stale_textures_are_refused(folder, tmp_path):
    shards = _some_missing(folder, tmp_path)
    shard = tmp_path / "part-000000.tar"
    with open(shard, "ab") as file:
        file.write(bytes(1024))
    write_index(shard)
    with pytest.raises(ShardError, match=r"made from another state of .*run 'figureground textures"):
        make(shards, RECIPE)
