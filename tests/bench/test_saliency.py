"""The quality bench on made-up pairs."""

from __future__ import annotations

import json

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


def test_table_json_and_picture(pairs, capsys):
    result, picture = pairs / "r.json", pairs / "p.png"
    assert _run(pairs, "--methods", "fused,mbd", "--size", "64", "--json", str(result), "--picture", str(picture)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["6", "center", "fused", "mbd"]
    methods = json.loads(result.read_text())["saliency"]["methods"]
    assert methods["fused"]["maxF"] > 0.95 > methods["center"]["maxF"]
    assert methods["fused"]["cpu_ms"] > 0
    assert cv2.imread(str(picture)).shape[1] == 5 * (3 * 64 + 4)


def test_messages(pairs, capsys):
    assert _run(pairs, "--methods", "u2net") == 2
    assert "saliency: --methods: method must be one of fused" in capsys.readouterr().err
    (pairs / "none").mkdir()
    assert saliency.main(["--images", str(pairs / "images"), "--masks", str(pairs / "none")]) == 2
    assert "images must have masks" in capsys.readouterr().err


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
