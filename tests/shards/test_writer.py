"""Packing a folder: nothing lost, nothing changed, the same bytes each time."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from figureground.shards.check import check
from figureground.shards.errors import ShardError
from figureground.shards.folder import list_images, unique_keys
from figureground.shards.index import index_is_fresh, split_name
from figureground.shards.pictures import prepare_image
from figureground.shards.reader import Store
from figureground.shards.writer import pack


def picture(format: str, seed: int = 0, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    files = {
        "root.jpg": picture("JPEG", 1),
        "cat/a.b.jpg": picture("JPEG", 2),
        "cat/a_b.png": picture("PNG", 3),
        "cat/two words.webp": picture("WEBP", 4),
        "dog/x.bmp": picture("BMP", 5),
        "dog/wrong.png": picture("JPEG", 6),
        "dog/no_extension": picture("PNG", 7),
        "bird/tit/deep.jpg": picture("JPEG", 8),
        "bird/anim.gif": picture("GIF", 9),
        "dog/ü.jpeg": picture("JPEG", 10),
        "dog/empty.jpg": b"",
        "dog/cut.jpg": picture("JPEG", 11)[:-300],
        "dog/text.jpg": b"I am no image",
        "dog/notes.txt": b"notes",
        ".hidden.jpg": picture("JPEG"),
        ".git/x.jpg": picture("JPEG"),
    }
    for name, data in files.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "src"


def quiet(source, out, **options):
    return pack(source, out, progress=False, **options)


def test_round_trip(source: Path, tmp_path: Path):
    report = quiet(source, tmp_path / "out")
    store = Store(tmp_path / "out", index="require")
    got = {store.key(i): (bytes(store.image(i)), int(store.targets[i])) for i in range(len(store))}
    read = lambda name: (source / name).read_bytes()  # noqa: E731
    assert got == {
        "root": (read("root.jpg"), -1),
        "bird/tit/deep": (read("bird/tit/deep.jpg"), 1),
        "cat/a_b": (read("cat/a.b.jpg"), 2),
        "cat/a_b_2": (read("cat/a_b.png"), 2),
        "cat/two_words": (read("cat/two words.webp"), 2),
        "dog/x": (read("dog/x.bmp"), 3),
        "dog/wrong": (read("dog/wrong.png"), 3),
        "dog/no_extension": (read("dog/no_extension"), 3),
        "dog/ü": (read("dog/ü.jpeg"), 3),
    }
    assert report.classes == ["bird", "bird/tit", "cat", "dog"]
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == report.classes
    assert store.has("webp")
    assert (report.samples, len(report.shards)) == (9, 1)
    assert report.image_bytes == sum(len(data) for data, _ in got.values())
    assert "9 samples of 4 classes in 1 shards" in str(report)
    assert check(tmp_path / "out") == []


def test_left_out_with_a_reason(source: Path, tmp_path: Path):
    skipped = dict(quiet(source, tmp_path / "out").skipped)
    assert sorted(skipped) == [
        ".hidden.jpg", "bird/anim.gif", "dog/cut.jpg", "dog/empty.jpg", "dog/notes.txt", "dog/text.jpg",
    ]  # fmt: skip
    assert skipped[".hidden.jpg"] == "hidden file"
    assert skipped["bird/anim.gif"] == "DALI does not decode GIF; pack with image_ext 'jpg' or 'png' to re-encode it"
    assert "cannot be decoded: " in skipped["dog/cut.jpg"]
    assert skipped["dog/empty.jpg"] == "the file is empty (0 bytes)"
    assert skipped["dog/notes.txt"] == "no image, by its extension and first bytes"
    assert skipped["dog/text.jpg"] == "is no image that can be decoded, it starts with b'I am no '"


def test_same_bytes_for_any_jobs(source: Path, tmp_path: Path):
    names = []
    for jobs in (1, 3):
        out = tmp_path / f"out{jobs}"
        quiet(source, out, jobs=jobs, shard_size_mb=0.002)
        names.append(sorted(os.listdir(out)))
        assert len(names[-1]) > 5
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out3" / name).read_bytes()
    assert all(index_is_fresh(shard) for shard in (tmp_path / "out1").glob("*.tar"))


def test_shard_size(source: Path, tmp_path: Path):
    for i in range(30):
        (source / f"many{i}.bmp").write_bytes(picture("BMP", i))
    report = quiet(source, tmp_path / "out", shard_size_mb=0.01, name="part")
    sizes = [os.path.getsize(shard) for shard in report.shards]
    assert [os.path.basename(shard) for shard in report.shards] == [f"part-{i:06d}.tar" for i in range(len(sizes))]
    assert max(sizes) <= 10_240 + 10_240
    assert len(Store(tmp_path / "out")) == 39


def test_re_encoded(source: Path, tmp_path: Path):
    report = quiet(source, tmp_path / "out", image_ext="jpg")
    store = Store(tmp_path / "out")
    assert store.exts == ("cls", "jpg")
    keys = [store.key(i) for i in range(len(store))]
    assert bytes(store.image(keys.index("cat/a_b"))) == (source / "cat/a.b.jpg").read_bytes()
    again = cv2.imdecode(store.image(keys.index("dog/x")), cv2.IMREAD_COLOR)
    there = cv2.imread(str(source / "dog/x.bmp"))
    assert np.abs(again.astype(int) - there).mean() < 6
    assert "bird/anim" in keys
    assert "bird/anim.gif" not in dict(report.skipped)


def test_avif_as_gif(tmp_path: Path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.avif").write_bytes(picture("AVIF", quality=90))
    (tmp_path / "src" / "b.jpg").write_bytes(picture("JPEG"))
    skipped = dict(quiet(tmp_path / "src", tmp_path / "kept").skipped)
    assert skipped == {"a.avif": "DALI does not decode AVIF; pack with image_ext 'jpg' or 'png' to re-encode it"}
    assert quiet(tmp_path / "src", tmp_path / "made", image_ext="png").samples == 2


def test_re_encoded_losslessly():
    for mode, format in [("RGB", "BMP"), ("L", "WEBP"), ("RGBA", "TIFF"), ("P", "GIF"), ("CMYK", "TIFF")]:
        options = {"lossless": True} if format == "WEBP" else {}
        data, ext = prepare_image(picture(format, mode=mode, **options), "png")
        wanted = Image.open(io.BytesIO(picture(format, mode=mode, **options))).convert("RGB")
        assert ext == "png"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), np.asarray(wanted))


def test_re_encoded_upright_and_8_bit():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, exif=exif)
    data, _ = prepare_image(stream.getvalue(), "png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("L")), np.rot90(pixels, -1))
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16) * 257).save(stream, "TIFF")
    data, _ = prepare_image(stream.getvalue(), "png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.float32)).save(stream, "TIFF")
    with pytest.raises(ValueError, match="pixels of mode F have no 8-bit form; convert the file first"):
        prepare_image(stream.getvalue(), "png")
    assert prepare_image(stream.getvalue(), "keep")[1] == "tiff"


def test_limit_and_shuffle(source: Path, tmp_path: Path):
    assert quiet(source, tmp_path / "a", limit=3).samples == 3
    keys = []
    for name, seed in (("b", 1), ("c", 1), ("d", 2)):
        quiet(source, tmp_path / name, shuffle_seed=seed)
        store = Store(tmp_path / name)
        keys.append([store.key(i) for i in range(len(store))])
    assert keys[0] == keys[1] != keys[2]
    assert sorted(keys[0]) == sorted(keys[2])


def test_one_folder_without_classes(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(picture("JPEG"))
    report = quiet(tmp_path, tmp_path / "out")
    assert report.classes == []
    assert sorted(os.listdir(tmp_path / "out")) == ["shard-000000.idx", "shard-000000.tar"]
    assert Store(tmp_path / "out").exts == ("jpg",)


def test_long_names(tmp_path: Path):
    folder = tmp_path / "src" / ("d" * 120)
    folder.mkdir(parents=True)
    (folder / ("ü" * 100 + ".jpg")).write_bytes(picture("JPEG"))
    quiet(tmp_path / "src", tmp_path / "out")
    assert Store(tmp_path / "out").key(0) == "d" * 120 + "/" + "ü" * 100


def test_links(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(picture("JPEG"))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "src")
    (tmp_path / "src" / "b.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    (tmp_path / "src" / "dead.jpg").symlink_to(tmp_path / "gone")
    report = quiet(tmp_path / "src", tmp_path / "out")
    assert [source.key for source in list_images(str(tmp_path / "src")).sources] == ["b", "dead", "linked/a"]
    assert report.samples == 2
    assert report.skipped == [("dead.jpg", "cannot be read: No such file or directory")]


def test_output_inside_the_source(source: Path):
    assert quiet(source, source / "shards").samples == 9
    assert not any(name.startswith("shards/") for name, _ in quiet(source, source / "shards", name="b").skipped)


def test_nothing_left_after_an_error(source: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("figureground.shards.writer.prepare_image", lambda data, ext: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    calls = iter(range(100))

    def fail_at_the_fourth(data, ext):
        return data, f"jpg{1 // (3 - next(calls))}"

    monkeypatch.setattr("figureground.shards.writer.prepare_image", fail_at_the_fourth)
    with pytest.raises(ZeroDivisionError):
        quiet(source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


LETTERS = st.characters(exclude_characters="\0", exclude_categories=[])


@given(st.lists(st.text(LETTERS, min_size=1), unique=True, max_size=12))
def test_keys_are_safe_and_unique(names):
    names = [name for name in names if not name.endswith("/") and not os.path.basename(name).startswith(".")]
    keys = unique_keys(names)
    assert len(set(keys)) == len(keys) == len(names)
    for key in keys:
        assert not re.search(r"[\x00-\x20\x7f]", key)
        assert split_name(key.encode() + b".jpg") == (key.encode(), b"jpg")


def test_odd_files(shared_data: Path, tmp_path: Path):
    shutil.copytree(shared_data / "odd", tmp_path / "src", ignore=shutil.ignore_patterns("066_*"))
    kept = quiet(tmp_path / "src", tmp_path / "keep", jobs=2)
    again = quiet(tmp_path / "src", tmp_path / "jpg", image_ext="jpg", jobs=2)
    assert kept.samples > 60
    assert Store(tmp_path / "jpg").exts == ("jpg",)
    assert again.samples + len(again.skipped) == kept.samples + len(kept.skipped)


def test_messages(source: Path, tmp_path: Path):
    for options, message in [
        ({"shard_size_mb": 0}, "shard_size_mb must be greater than 0, got 0"),
        ({"image_ext": "gif"}, "image_ext must be 'keep', 'jpg' or 'png', got 'gif'"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"name": "../x"}, r"name must be letters, digits, '-' and '_', got '../x'"),
        ({"name": ""}, "name must be letters"),
    ]:
        with pytest.raises(ValueError, match=f"pack: {message}"):
            quiet(source, tmp_path / "out", **options)
    with pytest.raises(ShardError, match="gone: the source must be a folder of images, got no folder; check the path"):
        quiet(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(ShardError, match="none: the source holds no image file; check the path"):
        quiet(tmp_path / "none", tmp_path / "out")
    (tmp_path / "none" / "a.jpg").touch()
    with pytest.raises(ShardError, match=r"none of its images can be read; the first: a.jpg: the file is empty"):
        quiet(tmp_path / "none", tmp_path / "out")
    quiet(source, tmp_path / "out")
    with pytest.raises(ShardError, match=r"has shards named shard already \(shard-000000.tar\); remove them or choose"):
        quiet(source, tmp_path / "out")
