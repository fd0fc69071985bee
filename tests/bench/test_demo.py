"""The demo on a folder of the user's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from pipeline_shards import disc_image

from figureground.bench import demo, photos


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        target = tmp_path / "mine" / f"class{i % 3}" / "deeper"
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / f"{i}.{('jpg', 'png', 'webp', 'bmp')[i % 4]}"), disc_image(rng, 60, 80)[0])
    (tmp_path / "mine" / "broken.jpg").write_bytes(b"no image")
    return tmp_path / "mine"


def test_demo_takes_a_users_folder(folder, tmp_path, capsys):
    assert demo.main(["--images", str(folder), "--out", str(tmp_path / "out"), "--rows", "9"]) == 0
    out = capsys.readouterr().out
    assert "demo on the CPU" in out
    assert "24 samples of 3 classes" in out
    assert out.count("images/s") == 7
    sheet = Image.open(tmp_path / "out" / "contact_sheet.png")
    assert sheet.width > 1500
    assert np.asarray(sheet).std() > 20


def test_demo_names_what_is_wrong(tmp_path, capsys):
    assert demo.main(["--images", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "images must be a folder" in capsys.readouterr().err


def test_photographs_come_from_the_wheel(tmp_path):
    assert photos.write_photos(tmp_path, count=20) == 20
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 20
    shapes = {cv2.imread(str(f)).shape for f in files}
    assert len(shapes) > 3
    assert {f.parent.name for f in files} == {name.partition(".")[0] for name in photos.PHOTOS}
