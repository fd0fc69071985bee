"""The decoder against Pillow: pixels, order, bad files, replacement batches, threads, other processes."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from figureground.pipeline.decode import Decoder

CUT = "truncated: the end of the file is missing"


def encode(image: Image.Image, kind: str, **options: object) -> np.ndarray:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def picture(number: int, height: int = 40, width: int = 56) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([4 * x + number, 5 * y, x * y + 9 * number], axis=2).astype(np.uint8))


def damaged(png: np.ndarray) -> np.ndarray:
    """A PNG that the guard accepts and no decoder reads: pixels flipped, checksum wrong."""
    png = png.copy()
    png[len(png) // 2] ^= 0x5A
    return png


def pixels(ragged, row: int) -> np.ndarray:
    height, width = ragged.sizes[row].tolist()
    flat = (ctypes.c_uint8 * (height * width * ragged.channels)).from_address(int(ragged.addresses[row]))
    return np.frombuffer(flat, np.uint8).reshape(height, width, ragged.channels)


def by_pillow(data: np.ndarray, mode: str = "RGB") -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data.tobytes()))).convert(mode)
    return np.asarray(image).reshape(image.height, image.width, -1)


JPEGS = [encode(picture(i, 30 + i, 60 - i), "JPEG") for i in range(12)]
MASK = encode(picture(3, 112, 112).convert("L"), "PNG")
HTML = np.frombuffer(b"<html>404</html>", np.uint8)


@pytest.fixture
def decoder():
    decoder = Decoder(8, masks=True, depth=3)
    yield decoder
    decoder.close()


def test_small_case(decoder):
    image = encode(Image.new("RGB", (3, 2), (10, 20, 30)), "PNG")
    mask = encode(Image.new("L", (1, 1), 51), "PNG")
    decoder.submit([image, image], [mask, None])
    batch = decoder.collect()
    assert pixels(batch.images, 1).tolist() == [[[10, 20, 30]] * 3] * 2
    assert pixels(batch.masks, 0).tolist() == [[[51]]]
    assert pixels(batch.masks, 1).tolist() == [[[0]]]
    assert batch.mask_valid.tolist() == [True, False]
    assert batch.mask_area.tolist() == [0.2, 0.0]
    assert batch.reasons == [None, None]
    assert (batch.images.channels, batch.masks.channels, batch.images.cuda) == (3, 1, False)


def variants() -> dict[str, tuple[np.ndarray, int]]:
    """File and the largest difference to Pillow, by name."""
    image, exif = picture(1), Image.Exif()
    exif[0x0112] = 8
    files = {
        "jpeg": (encode(image, "JPEG"), 0),
        "progressive": (encode(image, "JPEG", progressive=True), 0),
        "no subsampling": (encode(image, "JPEG", subsampling=0), 0),
        "gray": (encode(image.convert("L"), "JPEG"), 0),
        "cmyk": (encode(image.convert("CMYK"), "JPEG"), 1),
        "orientation": (encode(image, "JPEG", exif=exif), 0),
        "trailing zeros": (np.concatenate([encode(image, "JPEG"), np.zeros(2000, np.uint8)]), 0),
        "png orientation": (encode(image, "PNG", exif=exif), 0),
        "webp": (encode(image, "WEBP"), 0),
        "webp lossless": (encode(image, "WEBP", lossless=True), 0),
        "webp orientation": (encode(image, "WEBP", icc_profile=bytes(129), exif=exif), 0),
        "webp animated": (encode(image, "WEBP", save_all=True, append_images=[picture(5)]), 0),
        "gif": (encode(image, "GIF"), 0),
        "bmp": (encode(image, "BMP"), 0),
        "tiff": (encode(image, "TIFF"), 0),
    }
    for mode in ("L", "P", "1", "RGBA", "LA"):
        files[f"png {mode}"] = (encode(image.convert(mode), "PNG"), 0)
    return files


@pytest.mark.parametrize(("data", "tolerance"), variants().values(), ids=variants())
def test_as_pillow(decoder, data, tolerance):
    batch = decoder.decode([data])
    assert batch.reasons == [None]
    difference = pixels(batch.images, 0).astype(int) - by_pillow(data)
    assert np.abs(difference).max() <= tolerance


def test_16_bit_png_is_scaled(decoder):
    ramp = np.arange(256, dtype=np.uint16).reshape(8, 32)
    batch = decoder.decode([encode(Image.fromarray(ramp * 257), "PNG")])
    assert np.abs(pixels(batch.images, 0).astype(int) - ramp[:, :, None]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_masks_become_grey(decoder, mode):
    mask = encode(picture(2, 20, 30).convert(mode), "PNG")
    batch = decoder.decode(JPEGS[:1], [mask])
    expected = by_pillow(mask, "L")
    assert np.abs(pixels(batch.masks, 0).astype(int) - expected).max() <= 1
    assert batch.mask_area[0] == pytest.approx(expected.mean() / 255, abs=1 / 255)


def test_order_and_batch_sizes(decoder):
    sizes = [1, 8, 3, 5, 2, 7, 8, 1]
    submitted = 0
    for collected, count in enumerate(sizes):
        while submitted < len(sizes) and submitted - collected < decoder.depth:
            decoder.submit([JPEGS[(submitted + i) % 12] for i in range(sizes[submitted])])
            submitted += 1
        batch = decoder.collect()
        assert len(batch.images) == count
        for i in range(count):
            np.testing.assert_array_equal(pixels(batch.images, i), by_pillow(JPEGS[(collected + i) % 12]))


BAD = {
    "nothing": (np.zeros(0, np.uint8), "no bytes"),
    "html": (HTML, "not an image: HTML, text or garbage"),
    "cut jpeg": (JPEGS[0][:-9], CUT),
    "cut png": (MASK[:-9], CUT),
    "damaged png": (damaged(MASK), "no decoder reads it (OSError: broken data stream when reading image file)"),
    "cut gif": (encode(picture(1), "GIF")[:-99], "no decoder reads it (OSError: image file is truncated"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_bad_image_leaves_the_others_alone(decoder, data, reason):
    for where in (0, 4, 7):
        decoder.submit([data if i == where else JPEGS[i] for i in range(8)], [MASK] * 8)
    for where in (0, 4, 7):
        batch = decoder.collect()
        assert np.flatnonzero(~batch.valid).tolist() == [where]
        assert batch.reasons[where].startswith(reason)
        assert batch.images.sizes[where].tolist() == [1, 1]
        assert batch.mask_valid.all()
        for i in set(range(8)) - {where}:
            np.testing.assert_array_equal(pixels(batch.images, i), by_pillow(JPEGS[i]))


@pytest.mark.parametrize("mask", [data for data, _ in BAD.values()], ids=BAD)
def test_bad_mask_is_no_error(decoder, mask):
    decoder.submit(JPEGS[:3], [MASK, mask, None])
    batch = decoder.collect()
    assert batch.valid.all()
    assert batch.reasons == [None] * 3
    assert batch.mask_valid.tolist() == [True, False, False]
    assert batch.mask_area[1:].tolist() == [0, 0]
    np.testing.assert_array_equal(pixels(batch.masks, 0), by_pillow(MASK, "L"))


def test_all_bad(decoder):
    decoder.submit([HTML] * 8)
    decoder.submit([damaged(MASK)] * 8)
    for _ in range(2):
        batch = decoder.collect()
        assert not batch.valid.any()
        assert all(batch.reasons)


def test_pillows_pixels_if_dali_refuses_twice(decoder, monkeypatch, caplog):
    from figureground.pipeline import decode

    monkeypatch.setattr(decode._Graph, "take", lambda self: "refused")
    batch = decoder.decode([*JPEGS[:3], HTML], [MASK, None, damaged(MASK), MASK])
    assert "Pillow's pixels are used: refused" in caplog.text
    assert batch.valid.tolist() == [True, True, True, False]
    assert batch.mask_valid.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(pixels(batch.images, 2), by_pillow(JPEGS[2]))
    np.testing.assert_array_equal(pixels(batch.masks, 3), by_pillow(MASK, "L"))


def test_decode_beside_batches_in_flight(decoder):
    decoder.submit(JPEGS[:4])
    decoder.submit(JPEGS[4:8])
    extra = decoder.decode([*JPEGS, HTML, *JPEGS])  # more than max_batch
    first = decoder.collect()
    second = decoder.collect()
    decoder.submit(JPEGS[8:])
    decoder.collect()
    decoder.decode(JPEGS[:2])
    assert extra.valid.sum() == 24
    for i in range(12):  # owns its memory
        np.testing.assert_array_equal(pixels(extra.images, i), by_pillow(JPEGS[i]))
        np.testing.assert_array_equal(pixels(extra.images, 13 + i), by_pillow(JPEGS[i]))
    np.testing.assert_array_equal(pixels(first.images, 3), by_pillow(JPEGS[3]))
    np.testing.assert_array_equal(pixels(second.images, 3), by_pillow(JPEGS[7]))


def test_decode_of_nothing(decoder):
    batch = decoder.decode([])
    assert len(batch.images) == len(batch.masks) == len(batch.valid) == len(batch.mask_area) == 0


def test_size_limit():
    decoder = Decoder(4, max_pixels=40 * 56)
    batch = decoder.decode([encode(picture(0), "PNG"), encode(picture(0, 41), "PNG"), encode(picture(0, 41), "BMP")])
    decoder.close()
    assert batch.valid.tolist() == [True, False, False]
    assert batch.reasons[1] == batch.reasons[2] == "more pixels than max_pixels"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_odd_files(decoder, shared_data):
    """What is legal is decoded as Pillow does, all else has a reason; see also the fuzz test."""
    paths = sorted((shared_data / "odd").iterdir())
    batch = decoder.decode([np.fromfile(path, np.uint8) for path in paths])
    bad = {path.name[:3]: reason for path, reason in zip(paths, batch.reasons) if reason}
    groups = {
        "no bytes": "002",
        "truncated": "041 095",
        "more pixels": "062 063 078",
        "a format": "035 040 042 043 044 045 047",
        "no decoder": "021 022 023 024 025 026 046 049 050 066 086",
    }
    for reason, numbers in groups.items():
        assert sorted(number for number, why in bad.items() if why.startswith(reason)) == numbers.split()
    assert len(bad) == 24


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_close_stops_all_threads():
    def work(close: bool) -> None:
        decoder = Decoder(4, threads=3)
        decoder.submit([*JPEGS[:2], damaged(MASK), encode(picture(1), "GIF")])
        decoder.submit(JPEGS[:4])
        decoder.decode(JPEGS[:2])
        if close:
            decoder.collect()
            decoder.close()
            decoder.close()

    work(True)
    before = threads()
    for _ in range(5):
        work(True)
    work(False)
    gc.collect()
    patience = time.monotonic() + 5
    while threads() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threads() <= before


def run_script(code: str, folder) -> str:
    """Run a script in a process of its own; it must end by itself."""
    (folder / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(folder / "script.py")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True).stdout


SCRIPT = """
import multiprocessing
from figureground.pipeline.decode import Decoder
from figureground.pipeline.screen import PLACEHOLDER

def work():
    decoder = Decoder(8)
    decoder.submit([PLACEHOLDER] * 8)
    decoder.submit([PLACEHOLDER] * 3)
    print(len(decoder.collect().images), flush=True)
    return decoder
"""


def test_exit_without_close_does_not_hang(tmp_path):
    assert run_script(SCRIPT + "decoder = work()\n", tmp_path) == "8\n"


def test_spawned_process(tmp_path):
    spawn = """
if __name__ == "__main__":
    work().close()
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join(30)
    print("exit code", process.exitcode)
"""
    assert run_script(SCRIPT + spawn, tmp_path) == "8\n8\nexit code 0\n"


def test_messages(decoder):
    with pytest.raises(ValueError, match=r"Decoder: max_batch must be at least 1, got 0"):
        Decoder(0)
    with pytest.raises(ValueError, match=r"Decoder: device must be 'cpu', 'cuda' or 'cuda:<n>', got 'cuda:x'"):
        Decoder(1, device="cuda:x")
    with pytest.raises(ValueError, match=r"Decoder.submit: images must number 1..8 \(max_batch\), got 9"):
        decoder.submit(JPEGS[:9])
    with pytest.raises(ValueError, match=r"Decoder.submit: masks must number 2, as the images, got 1"):
        decoder.submit(JPEGS[:2], [MASK])
    with pytest.raises(TypeError, match=r"Decoder.decode: images\[1\] must be a NumPy array .*, got bytes"):
        decoder.decode([JPEGS[0], b"abc"])
    with pytest.raises(ValueError, match=r"Decoder.submit: masks\[0\] must be a contiguous .*, got \(1, 5\) uint8"):
        decoder.submit(JPEGS[:1], [np.zeros((1, 5), np.uint8)])
    with pytest.raises(RuntimeError, match=r"Decoder.collect: no batch is in flight; submit one first"):
        decoder.collect()
    for _ in range(3):
        decoder.submit(JPEGS[:1])
    with pytest.raises(RuntimeError, match=r"Decoder.submit: 3 batches are in flight \(depth\); collect one first"):
        decoder.submit(JPEGS[:1])
    without = Decoder(1)
    with pytest.raises(ValueError, match=r"Decoder.submit: masks must be None, since .* masks=False"):
        without.submit(JPEGS[:1], [MASK])
    without.close()
    with pytest.raises(RuntimeError, match=r"Decoder.submit: the decoder is closed; make a new one"):
        without.submit(JPEGS[:1])
