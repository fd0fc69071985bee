"""The quality bench on made-up pairs."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from figureground.bench import saliency


@pytest.fixture
def pairs(tmp_path):
    """Six photos of a disc and their masks; a seventh photo has none."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for n in range(7):
        photo = np.full((60, 80, 3), (60 + 10 * n, 90, 40), np.uint8)
        cv2.circle(photo, (40, 30), 12 + n, (20, 30, 220), -1)
        cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), photo)
        if n < 6:
            mask = np.zeros((60, 80), np.uint8)
            cv2.circle(mask, (40, 30), 12 + n, 255, -1)
            cv2.imwrite(str(tmp_path / "masks" / f"{n}.png"), mask)
    return tmp_path


def _run(pairs, *more):
    return saliency.main(["--images", str(pairs / "images"), "--masks", str(pairs / "masks"), *more])


def test_scores_by_hand():
    truth = np.zeros((4, 4), bool)
    truth[:2] = True
    mask = np.where(truth, 255, 0).astype(np.uint8)
    mask[0] = 100  # half of the figure is missed at one half, all of it found by Otsu
    scores, ious = saliency.score_masks(mask[None], [truth])
    assert scores["IoU@.5"] == ious[0] == 0.5
    assert (scores["prec@.5"], scores["rec@.5"]) == (1.0, 0.5)
    assert scores["maxF"] == pytest.approx(1.0)
    assert scores["MAE"] == pytest.approx(4 * (155 / 255) / 16)


def test_halves(pairs):
    found = saliency.find_pairs(pairs / "images", pairs / "masks")
    assert [image.stem for image, _ in found] == list("012345")
    even, odd = (saliency.find_pairs(pairs / "images", pairs / "masks", half) for half in ("even", "odd"))
    assert [image.stem for image, _ in even] == list("024")
    assert [image.stem for image, _ in odd] == list("135")


def test_other_formats_in_one_folder(pairs, capsys):
    """Photos as JPEG beside PNG masks of the same stem: a mask is no photo, and a JPEG is no mask where there is a PNG."""
    folder = pairs / "both"
    folder.mkdir()
    for n in range(6):
        cv2.imwrite(str(folder / f"{n}.JPG"), cv2.imread(str(pairs / "images" / f"{n}.png")))
        cv2.imwrite(str(folder / f"{n}.png"), cv2.imread(str(pairs / "masks" / f"{n}.png")))
    found = saliency.find_pairs(folder, folder)
    assert [(image.name, mask.name) for image, mask in found] == [(f"{n}.JPG", f"{n}.png") for n in range(6)]
    assert capsys.readouterr().err == ""
    assert len(saliency.find_pairs(pairs / "images", pairs / "masks")) == 6
    assert "saliency: 1 images without a mask, 0 masks without an image: left out" in capsys.readouterr().err


def test_masks_of_ones_and_of_other_sizes(pairs, capsys):
    want = saliency.load_pairs(saliency.find_pairs(pairs / "images", pairs / "masks"), [64])[1]
    for n in (1, 2, 3):
        mask = cv2.imread(str(pairs / "masks" / f"{n}.png"), cv2.IMREAD_GRAYSCALE)
        (pairs / "masks" / f"{n}.png").unlink()
        if n == 1:
            cv2.imwrite(str(pairs / "masks" / "1.png"), mask // 255)
        elif n == 2:
            cv2.imwrite(str(pairs / "masks" / "2.jpg"), mask)
        else:
            cv2.imwrite(str(pairs / "masks" / "3.bmp"), cv2.resize(mask, (82, 61)))
    truths = saliency.load_pairs(saliency.find_pairs(pairs / "images", pairs / "masks"), [64])[1]
    np.testing.assert_array_equal(truths[1], want[1])
    assert (truths[2] != want[2]).mean() < 0.01
    assert truths[3].shape == (61, 82)
    capsys.readouterr()
    assert _run(pairs, "--methods", "mbd", "--size", "64") == 0
    assert "another shape" not in capsys.readouterr().err
    cv2.imwrite(str(pairs / "masks" / "4.png"), np.full((80, 60), 255, np.uint8))
    assert _run(pairs, "--methods", "mbd", "--size", "64") == 0
    assert (
        "saliency: 1 masks have another shape than their images, first 4.png (60 x 80 for 80 x 60)"
        in capsys.readouterr().err
    )


def test_table_json_and_picture(pairs, capsys):
    result, picture = pairs / "r.json", pairs / "p.png"
    assert _run(pairs, "--methods", "fused,mbd", "--size", "64", "--json", str(result), "--picture", str(picture)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["6", "center", "fused", "mbd"]
    methods = json.loads(result.read_text())["saliency"]["methods"]
    assert methods["fused"]["maxF"] > 0.95 > methods["center"]["maxF"]
    assert methods["fused"]["cpu_ms"] > 0
    assert cv2.imread(str(picture)).shape[1] == 5 * (3 * 64 + 4)


def test_missing_metrics_are_named(pairs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "py_sod_metrics", None)
    assert _run(pairs) == 2
    assert "saliency: score_masks: PySODMetrics must be installed" in capsys.readouterr().err


def test_messages(pairs, capsys):
    assert _run(pairs, "--methods", "u2net") == 2
    assert "saliency: --methods: method must be one of fused" in capsys.readouterr().err
    (pairs / "none").mkdir()
    assert saliency.main(["--images", str(pairs / "images"), "--masks", str(pairs / "none")]) == 2
    assert "images must have masks of the same stem" in capsys.readouterr().err
    assert saliency.main(["--images", str(pairs / "nowhere"), "--masks", str(pairs / "none")]) == 2
    assert "saliency: find_pairs: images must be a folder, got" in capsys.readouterr().err
    cv2.imwrite(str(pairs / "masks" / "4.png"), np.full((60, 80), 38, np.uint8))
    assert _run(pairs) == 2
    assert "4.png must hold 0 and 255, or 0 and 1, got values up to 38" in capsys.readouterr().err


def test_a_method_gets_its_own_side(pairs, monkeypatch):
    """As in the mask job: images are resized to the side that a method wants, its masks have the side that was asked."""
    seen = []

    class Wide:
        side = 100

        def __call__(self, images, size=None):
            seen.append((images.shape[2:], size))
            return np.full((len(images), size, size), 255, np.uint8)

    real = saliency.resolve_method
    monkeypatch.setattr(saliency, "resolve_method", lambda name: Wide() if name == "mbd" else real(name))
    result, picture = pairs / "r.json", pairs / "p.png"
    arguments = ["--methods", "mbd,fused", "--size", "64", "--json", str(result), "--picture", str(picture)]
    assert _run(pairs, *arguments) == 0
    assert set(seen) == {((100, 100), 64)}
    document = json.loads(result.read_text())["saliency"]
    assert document["sides_px"] == {"mbd": 100, "fused": 64}
    assert document["methods"]["mbd"]["rec@.5"] == 1.0
    assert cv2.imread(str(picture)).shape[1] == 5 * (3 * 100 + 4)
