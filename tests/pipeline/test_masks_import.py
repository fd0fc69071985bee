"""Masks made elsewhere: every mode of PNG, keys in folders, what is missing and what is too much."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pipeline_shards import disc_image, write_tar

from figureground.pipeline.masks_import import ImportMasks, gray_mask, surplus_files
from figureground.pipeline.masks_job import import_masks
from figureground.shards import MaskStore, ShardError, Store
from figureground.shards.masks import read_manifest

HALVES = np.array([[0, 255]], np.uint8)


def png(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def palette(colors) -> Image.Image:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L")
    image.putpalette([value for color in colors for value in color])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(HALVES),
        Image.fromarray(HALVES).convert("1"),
        Image.fromarray(HALVES).convert("RGB"),
        Image.fromarray(HALVES.astype(np.uint16) * 257),
        Image.fromarray(np.dstack([np.full((1, 2, 3), 90, np.uint8), HALVES])),
        Image.fromarray(np.dstack([np.full((1, 2), 90, np.uint8), HALVES]), "LA"),
        Image.fromarray(np.dstack([HALVES] * 3 + [np.full((1, 2), 255, np.uint8)])),
        palette([(0, 0, 0), (128, 0, 0)]),
        palette([(0, 0, 0), (255, 255, 255)]),
    ],
    ids=["L", "1", "RGB", "16 bit", "cut-out", "gray cut-out", "opaque RGBA", "labels in colour", "gray palette"],
)
def test_every_mode_becomes_gray(image):
    np.testing.assert_array_equal(gray_mask(png(image)), HALVES)


def test_soft_values_survive():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(gray_mask(png(Image.fromarray(ramp))), ramp)
    np.testing.assert_array_equal(
        gray_mask(png(Image.fromarray(np.array([[128, 129, 65535]], np.uint16)))), [[0, 1, 255]]
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GIF89a", "not a PNG"),
        (png(Image.fromarray(np.zeros((64, 64), np.uint8)))[:60], "a damaged PNG"),
        (png(Image.fromarray(np.array([[0, 1, 2]], np.uint8))), "its largest value is 2: labels in place of 0..255"),
    ],
)
def test_what_is_no_mask(data, says):
    with pytest.raises(ValueError, match=says):
        gray_mask(data)


@pytest.fixture
def data(tmp_path):
    """Six samples in folders; masks for four of them, one of those damaged, and two files too many."""
    rng = np.random.default_rng(0)
    keys = ["n01/a", "n01/b", "n02/a", "n02/c", "d", "e"]
    members, masks = [], {}
    for key in keys:
        image, masks[key] = disc_image(rng, 40, 50)
        members.append((key + ".png", png(Image.fromarray(image))))
    write_tar(tmp_path / "s-0.tar", members[:3])
    write_tar(tmp_path / "s-1.tar", members[3:])
    folder = tmp_path / "pngs"
    for key in ("n01/a", "n02/a", "n02/c", "d", "n01/x", "y"):
        path = folder / (key + ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(Image.fromarray(masks.get(key, np.zeros((4, 4), np.uint8)))))
    (folder / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "notes.txt").write_text("no mask")
    return tmp_path, masks


def test_import_into_sidecars(data):
    folder, masks = data
    report = import_masks(folder / "s-{0..1}.tar", folder / "pngs", out=folder / "out", progress=False)
    assert (report.total("masks"), report.total("missing"), report.total("undecodable")) == (3, 2, 1)
    assert report.surplus == ("n01/x.png", "y.png")
    assert dict(pair for shard in report.shards for pair in shard.without)["n01/b"] == "no file"
    with Store(folder / "s-*.tar") as store, MaskStore(store, folder / "out") as made:
        found = {store.key(i): made.mask(i) for i in range(len(store))}
    assert {key for key, mask in found.items() if mask is not None} == {"n01/a", "n02/a", "n02/c"}
    np.testing.assert_array_equal(gray_mask(found["n02/c"].tobytes()), masks["n02/c"])
    assert read_manifest(folder / "out" / "s-0.masks.tar").method == "imported"


def test_import_again_keeps_or_refuses(data):
    folder, _ = data
    arguments = {"shards": folder / "s-0.tar", "folder": folder / "pngs", "out": folder / "out", "progress": False}
    import_masks(**arguments)
    assert import_masks(**arguments).count("kept") == 1
    (folder / "pngs" / "n01" / "b.png").write_bytes(png(Image.fromarray(HALVES)))
    with pytest.raises(ShardError, match="was made otherwise"):
        import_masks(**arguments)
    assert import_masks(**arguments, overwrite=True).total("masks") == 3


def test_keys_never_lead_out_of_the_folder(tmp_path):
    task = ImportMasks(str(tmp_path))
    assert task.path("a/b") == str(tmp_path / "a" / "b.png")
    assert task.path("../a") == task.path("/etc/a") == ""


def test_surplus(tmp_path):
    for name in ("a/b.png", "a/c.png", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert surplus_files(str(tmp_path), ["a/b"]) == ["a/c.png"]


def test_folder_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="folder must be a folder of PNG masks"):
        ImportMasks(str(tmp_path / "nowhere"))


def test_a_file_that_is_to_be_turned_is_turned():
    upright = np.zeros((4, 6), np.uint8)
    upright[:, :2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn it clockwise by 90 degrees
    stream = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(gray_mask(stream.getvalue()), upright)
