"""Places to write to are looked at before the work: no run ends with its result in hand and nowhere to put it."""

from __future__ import annotations

import os

import pytest

from figureground.pipeline import cli
from figureground.pipeline.outputs import new_file, new_folder


def test_places_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "old.json").touch()
    for place in ("old.json", "new.json", "deep/er/new.json"):
        assert new_file(tmp_path / place) == tmp_path / place
    assert new_folder(tmp_path / "deep" / "er") == tmp_path / "deep" / "er"
    assert not (tmp_path / "deep").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert new_file("~/a.json") == tmp_path / "a.json"
    monkeypatch.chdir(tmp_path)
    assert new_file("a.json").as_posix() == "a.json"


def test_places_that_cannot(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"is a folder; name a file in it"):
        new_file(tmp_path)
    with pytest.raises(ValueError, match=r"file is no folder; choose another place"):
        new_file(tmp_path / "file" / "a.json")
    with pytest.raises(ValueError, match=r"file/deep cannot be made, .*/file is no folder; choose another place"):
        new_file(tmp_path / "file" / "deep" / "a.json")
    with pytest.raises(ValueError, match="file is no folder"):
        new_folder(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # to root every place is one that can be written
    with pytest.raises(ValueError, match=r"a\.json cannot be written|takes no files; choose another place"):
        new_file(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"file cannot be written; choose another place"):
        new_file(tmp_path / "file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "views", "--out", "file/a.png"], "show: --out file is no folder; choose another place"),
        (["show", "views", "--out", "a.exe"], "show: --out must end in .png, .jpg or another picture's ending, got a.exe"),
        (["show", "views", "--out", "a"], "show: --out must end in .png"),
        (["show", "masks", "--out", "file/a.html"], "write_page: out file is no folder; choose another place"),
        (["show", "masks", "--out", "."], "write_page: out . is a folder; name a file in it"),
        (["show", "views", "--cache-size", "5MB"], "--cache-size is of no use without --cache DIR, got 5000000 bytes"),
        (["masks", "--cache-size", "5MB"], "--cache-size is of no use without --cache DIR"),
        (["show", "views", "--recipe", "r.py:one"], "one of r.py must take no arguments, got a function with some (missing a req"),
    ],
    ids=str,
)
def test_commands_say_so_before_they_work(shards, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "r.py").write_text("def one(size): return None\n")
    monkeypatch.setattr("figureground.pipeline.preview.draw_sheet", lambda *_, **__: pytest.fail("worked"))
    monkeypatch.setattr("figureground.pipeline.masks_report._items", lambda *_, **__: pytest.fail("worked"))
    verb = 2 if words[0] == "show" else 1
    assert cli.main([*words[:verb], shards, "--device", "cpu", *words[verb:]]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "masks.html").exists()


def test_a_sheet_in_a_new_folder(shards, tmp_path):
    out = tmp_path / "new" / "sheet.png"
    assert cli.main(["show", "views", shards, "--rows", "1", "--size", "16", "--device", "cpu", "--out", str(out)]) == 0
    assert out.stat().st_size > 1000


def test_an_error_of_the_system_is_a_sentence(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "file").touch()
    assert cli.main(["pack", str(tmp_path / "images"), str(tmp_path / "out")]) == 1
    out = capsys.readouterr()
    assert "the source holds no image file" in out.err
    assert out.out == ""
    import cv2
    import numpy as np
    from pipeline_shards import disc_image  # a picture, so that the folder of shards is wanted

    cv2.imwrite(str(tmp_path / "images" / "a.png"), disc_image(np.random.default_rng(0), 40, 40)[0])
    assert cli.main(["pack", str(tmp_path / "images"), str(tmp_path / "file")]) == 1
    assert "file: cannot be read or written (File exists); check the path, or choose another" in capsys.readouterr().err
