"""The table of techniques: every row runs, and differs from the base."""

from __future__ import annotations

import json

import numpy as np
import pytest

from figureground.bench import techniques
from figureground.bench.harness import Timing
from figureground.kernels.arrays import Ragged
from figureground.pipeline.augment import Augmenter
from figureground.pipeline.extras import Extras, hide_tokens


def test_differences_are_taken_round_by_round():
    table = techniques.over_base({"moco_v2": Timing([], [1.0, 2.0, 3.0]), "x": Timing([], [1.5, 2.5, 3.6])})
    assert table["moco_v2"] == {"us_per_image": 2000, "over_base_us": 0, "iqr_us": 0}
    assert table["x"] == {"us_per_image": 2500, "over_base_us": 500, "iqr_us": pytest.approx(50)}


def test_a_row_is_a_recipe_that_makes_other_views_or_negatives(monkeypatch):
    """The augmenter is run as the loader runs it; what comes out is looked at on the way."""
    rng = np.random.default_rng(0)
    images = Ragged.from_arrays([rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(8)])
    masks = np.zeros((8, 20, 20), np.uint8)
    masks[:, 5:15, 5:15] = 255
    right, found, beside = Augmenter.augment, [], []

    def augment(self, *arguments):
        found.append(right(self, *arguments))
        return found[-1]

    monkeypatch.setattr(Augmenter, "augment", augment)
    monkeypatch.setattr(techniques, "Extras", lambda *given: beside.append(Extras(*given)) or beside[-1])
    monkeypatch.setattr(techniques, "hide_tokens", lambda *given: beside.append(hide_tokens(*given)))
    made = {}
    for name, recipe in techniques.techniques(48).items():
        beside.clear()
        case = techniques.make_case(recipe, images, masks)
        assert [case(), case()] == [8, 8]
        first, second = found[-2:]
        assert all(a is b for a, b in zip(first[0], second[0], strict=True))  # buffers are used again
        made[name] = [*first[0], *([] if first[2] is None else [first[2]])]
        if name in ("token masks", "block corruption", "group mixing"):  # which leave the views as they are
            assert len(beside) == 2
            beside_views = {"token masks": beside[0]} if name == "token masks" else vars(beside[0])
            key = {"block corruption": "corrupted", "group mixing": "mixed"}.get(name, name)
            made[name] = [*made[name], *beside_views[key]]
    base = made[techniques.BASE]
    for name, views in made.items():
        if name != techniques.BASE:
            assert len(views) != len(base) or any((a != b).any() for a, b in zip(views, base, strict=True)), name


def test_main_writes_every_row(tmp_path, capsys):
    arguments = ["--count", "8", "--size", "32", "--rounds", "2", "--json", str(tmp_path / "t.json")]
    assert techniques.main(arguments) == 0
    table = json.loads((tmp_path / "t.json").read_text())["techniques"]
    assert set(table) == set(techniques.techniques())
    assert all(row["us_per_image"] > 0 for row in table.values())
    assert "background swap" in capsys.readouterr().out
