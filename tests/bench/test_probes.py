"""Probes of shape and texture on models whose answers are known."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from pipeline_shards import write_tar

from figureground.bench import __main__ as bench
from figureground.bench import probes
from figureground.bench.invariance_sets import Objects
from figureground.bench.models import load_model
from figureground.bench.probe_sets import make_versions, other_classes
from figureground.shards.index import write_index

GROUNDS = np.array([(60, 90, 120), (120, 60, 90), (90, 120, 60), (110, 110, 50)], np.uint8)
MODELS = """
import torch
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
GROUNDS = torch.tensor([(60, 90, 120), (120, 60, 90), (90, 120, 60), (110, 110, 50)]) / 255
def color():  # the nearest ground colour: the mean colour, less the square's share
    return lambda x: -torch.cdist((x * STD + MEAN).mean((2, 3)), GROUNDS * 15 / 16 + 1 / 16)
def quarters(x):
    y = x.mean(1)
    h, w = y.shape[1] // 2, y.shape[2] // 2
    return torch.stack([y[:, :h, :w], y[:, :h, w:], y[:, h:, :w], y[:, h:, w:]], 1).mean((2, 3))
def shape():  # the brightest quarter
    return lambda x: quarters(x)
def shape_features():
    return lambda x: quarters(x) - quarters(x).mean(1, keepdim=True)
def color_features():
    return lambda x: (x * STD + MEAN).mean((2, 3))
def both():
    return lambda x: torch.cat([shape_features()(x), 9 * color_features()(x)], 1)
def constant():
    return lambda x: torch.tensor([[0.0, 0, 1, 0]]).repeat(len(x), 1)
"""


def _image(n, side=32):
    """Class n % 4: a white square in one quarter, on the ground colour of the class; grounds differ a little."""
    image = np.tile(GROUNDS[n % 4] + n // 4 % 5, (side, side, 1))
    y, x = (side // 2 * (n % 4 // 2), side // 2 * (n % 4 % 2))
    y, x = y + 3 + n // 4 % 3, x + 2 + n // 4 % 4
    image[y : y + side // 4, x : x + side // 4] = 255
    return image


@pytest.fixture(scope="module")
def objects():
    images = np.stack([_image(n).transpose(2, 0, 1) for n in range(80)])
    return Objects(images, np.zeros((80, 32, 32), np.uint8), np.arange(80) % 4, [f"{n:03d}" for n in range(80)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "models.py"
    path.write_text(MODELS)
    return lambda name: load_model(f"{path}:{name}")


def _accuracies(result):
    return {name: found["accuracy"] for name, found in result["versions"].items()}


def test_a_model_that_sees_colour(objects, models):
    result = probes.measure_probes(objects, models("color"))
    got = _accuracies(result)
    assert list(got) == [
        "original",
        "patches 2",
        "patches 4",
        "patches 8",
        "texture",
        "quilted",
        "style 0.1",
        "style 0.5",
    ]
    assert got["original"] == got["patches 2"] == got["patches 4"] == got["patches 8"] == 100
    assert got["texture"] > 90  # the mean colour is kept but for what is cut at 0 and 255
    for name in ("style 0.1", "style 0.5"):
        found = result["versions"][name]
        assert (found["accuracy"], found["texture"], found["shape_share"]) == (0, 100, 0)
    assert (result["samples"], result["majority"], result["probe"]) == (80, 25, None)


def test_a_model_that_sees_shape(objects, models):
    """The squares of all classes have the same amplitudes, but for the contrast to their grounds."""
    result = probes.measure_probes(objects, models("shape"))
    got = _accuracies(result)
    assert got["original"] == got["style 0.1"] == got["style 0.5"] == 100
    for name in ("style 0.1", "style 0.5"):
        assert (result["versions"][name]["texture"], result["versions"][name]["shape_share"]) == (0, 100)
    # A square inside one of four cells goes to each quarter with probability 1/4: 20 of 80 with a standard deviation of 3.9.
    assert 5 < got["patches 2"] < 45
    assert got["patches 4"] < 60
    assert got["texture"] < 60
    share = got["patches 2"] / 100
    error = 100 * np.sqrt(share * (1 - share) / 79)
    assert result["versions"]["patches 2"]["standard_error"] == pytest.approx(error)


def test_a_constant_answer(objects, models):
    result = probes.measure_probes(objects, models("constant"))
    assert set(_accuracies(result).values()) == {result["majority"]}
    silent = probes.measure_probes(objects, models("constant"), classes=[-1] * 4)
    assert silent["versions"]["style 0.5"]["shape_share"] is None


@pytest.mark.parametrize("probe", probes.PROBES)
def test_probes_of_encoders(objects, models, probe):
    shape = probes.measure_probes(objects, models("shape_features"), probe=probe, k=5)
    assert shape["probe"] == {"knn": "5-NN", "linear": "linear"}[probe]
    assert shape["versions"]["original"]["accuracy"] == 100
    assert shape["versions"]["style 0.5"]["shape_share"] == 100
    assert shape["versions"]["patches 2"]["accuracy"] < 50
    color = probes.measure_probes(objects, models("color_features"), probe=probe, k=5)
    assert color["versions"]["patches 4"]["accuracy"] == 100
    assert color["versions"]["style 0.5"]["texture"] == 100


@pytest.mark.parametrize("probe", probes.PROBES)
def test_neither_the_image_nor_its_donor_takes_part(objects, probe, monkeypatch):
    """The probe is asked not to use either, for each image of each version."""
    seen, fit = [], probes.fit_probe

    def spy(*arguments, **options):
        classify = fit(*arguments, **options)

        def spied(queries, *, forbidden):
            seen.append(forbidden)
            return classify(queries, forbidden=forbidden)

        return spied

    monkeypatch.setattr(probes, "fit_probe", spy)
    versions = list(make_versions(objects.views, objects.classes))
    probes.measure_probes(objects, lambda x: x.flatten(1)[:, ::50], probe=probe)
    assert len(seen) == len(versions) == 8
    for version, rows in zip(versions, seen, strict=True):
        assert rows[:, 0].tolist() == list(range(80))
        assert rows[:, 1].tolist() == ([-1] * 80 if version.donors is None else version.donors.tolist())


def test_versions_are_what_their_names_say(objects):
    versions = {v.name: v for v in make_versions(objects.views, objects.classes, seed=3)}
    views = objects.views
    np.testing.assert_array_equal(versions["original"].views, views)
    for grid in (2, 4, 8):
        cell = 32 // grid
        cells = [
            v.reshape(80, 3, grid, cell, grid, cell).transpose(0, 2, 4, 1, 3, 5).reshape(80, grid * grid, -1)
            for v in (views, versions[f"patches {grid}"].views)
        ]
        for before, after in zip(*cells, strict=True):
            np.testing.assert_array_equal(np.sort(before, 0), np.sort(after, 0))
        assert (versions[f"patches {grid}"].views != views).any()
    spectrum = [np.abs(np.fft.fft2(v.astype(float)))[:, :, 1:4, 1:4] for v in (views, versions["texture"].views)]
    assert np.corrcoef(spectrum[0].ravel(), spectrum[1].ravel())[0, 1] > 0.8
    for view, quilted in zip(
        views, versions["quilted"].views, strict=True
    ):  # pixels of the image, in another arrangement
        colors = {tuple(c) for c in view.reshape(3, -1).T.tolist()}
        assert {tuple(c) for c in quilted.reshape(3, -1).T.tolist()} <= colors
    assert (versions["quilted"].views != views).any((1, 2, 3)).mean() > 0.5
    style = versions["style 0.5"]
    assert (objects.classes[style.donors] != objects.classes).all()
    np.testing.assert_allclose(style.views.mean((2, 3)), views[style.donors].mean((2, 3)), atol=4)
    np.testing.assert_array_equal(style.donors, versions["style 0.1"].donors)


def test_versions_are_deterministic_and_independent(objects):
    one, two, other = (
        {v.name: v.views for v in make_versions(objects.views, objects.classes, **options)}
        for options in ({}, {"grids": (8, 2), "windows": (0.5,)}, {"seed": 1})
    )
    for name in two:
        np.testing.assert_array_equal(one[name], two[name])
    for name in one:
        assert name == "original" or (one[name] != other[name]).any()


def test_donors_are_of_another_class_and_uniform():
    classes = np.array([5, 0, 5, 0, 9, 5] * 2000)
    donors = other_classes(classes, np.random.default_rng(0))
    assert (classes[donors] != classes).all()
    assert set(donors.tolist()) <= set(range(12000))
    # Of the images of class 9 the donors are of class 5 with 3 / 5, of class 0 with 2 / 5.
    share = (classes[donors[classes == 9]] == 5).mean()
    assert share == pytest.approx(0.6, abs=0.04)
    assert len(np.unique(donors[classes == 9])) > 1500


def test_command(models, tmp_path, capsys):
    (tmp_path / "models.py").write_text(MODELS)
    members = []
    for n in range(40):
        image = cv2.copyMakeBorder(_image(n), 4, 4, 4, 4, cv2.BORDER_REPLICATE)  # the centre 7/8 is looked at
        png = cv2.imencode(".png", cv2.resize(image, (160, 160), interpolation=cv2.INTER_NEAREST)[..., ::-1])[1]
        members += [(f"{n:03d}.png", png.tobytes()), (f"{n:03d}.cls", b"%d" % (n % 4))]
    write_tar(tmp_path / "a.tar", members)
    write_index(tmp_path / "a.tar")
    arguments = [str(tmp_path / "a.tar"), "--model", f"{tmp_path / 'models.py'}:both", "--size", "32"]
    files = ["--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "p.png")]
    assert bench.main(["probes", *arguments, *files, "--probe", "linear", "--grids", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "40 samples", "original", "patches 2", "texture", "quilted", "style 0.1", "style 0.5", "largest class",
    ]  # fmt: skip
    found = json.loads((tmp_path / "r.json").read_text())["probes"]
    assert found["versions"]["original"]["accuracy"] == 100
    assert (found["probe"], found["size_px"]) == ("linear", 32)
    assert cv2.imread(str(tmp_path / "p.png")) is not None
    assert bench.main(["probes", *arguments, "--grids", "two"]) == 2
    assert "probes: --grids must be numbers with commas between them, got 'two'" in capsys.readouterr().err


def test_messages(objects, models):
    same = Objects(objects.views, objects.masks, objects.classes * 0, objects.keys)
    for chosen, options, says in (
        (objects, {"probe": "svm"}, "measure_probes: probe must be None, 'knn' or 'linear', got 'svm'"),
        (objects, {"classes": [0]}, "classes must name the class of each of the model's 4 outputs, got 1"),
        (objects, {"grids": (1,)}, "make_versions: grids must be 2 to 32 cells for these images, got 1"),
        (objects, {"windows": (0.6,)}, r"make_versions: windows must be in \(0, 0.5\], got 0.6"),
        (same, {}, "other_classes: classes must be at least two, got 1"),
    ):
        with pytest.raises(ValueError, match=says):
            probes.measure_probes(chosen, models("shape"), **options)
    with pytest.raises(ValueError, match="an output for each class of the sets, up to 3, got 2 outputs"):
        probes.measure_probes(objects, lambda x: torch.zeros(len(x), 2))
