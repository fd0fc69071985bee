"""Mutated files through the decoder, in processes of their own: no crash, no lost batch, good neighbours untouched.

The suite runs a few hundred batches. For thousands, and for the crash rate without the guard:

    PYTHONPATH=build/typing python tests/pipeline/test_decode_fuzz.py --rounds 5000 --seed 1
    PYTHONPATH=build/typing python tests/pipeline/test_decode_fuzz.py --rounds 500 --no-guard
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import subprocess
import sys
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BATCH, PER_PROCESS = 32, 500  # without the guard batches of 8 survive, batches of 32 do not


def picture(height: int = 48, width: int = 64) -> Image.Image:
    """A smooth colour picture with a bit of noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 30, (height, width, 3))
    return Image.fromarray((np.stack([3 * x, 4 * y, x + y], axis=2) % 226 + noise).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> np.ndarray:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def corpus() -> dict[str, list[np.ndarray]]:
    """Legal files of every kind the decoder meets."""
    image, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    modes = [image.convert(mode) for mode in ("L", "P", "1", "RGBA", "LA")]
    wide = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21)
    frames = {"save_all": True, "append_images": [image.rotate(9), image.rotate(18)]}
    return {
        "jpeg": [
            encode(image, "JPEG"),
            encode(image, "JPEG", progressive=True),
            encode(image, "JPEG", subsampling=0, restart_marker_blocks=4),
            encode(image, "JPEG", exif=exif),
            encode(image.convert("L"), "JPEG"),
            encode(image.convert("CMYK"), "JPEG"),
        ],
        "png": [encode(image, "PNG"), encode(image, "PNG", exif=exif), encode(wide, "PNG")]
        + [encode(mode, "PNG") for mode in modes],
        "webp": [
            encode(image, "WEBP"),
            encode(image, "WEBP", lossless=True),
            encode(image.convert("RGBA"), "WEBP"),
            encode(image, "WEBP", icc_profile=bytes(129), exif=exif),
            encode(image, "WEBP", **frames),
        ],
        "other": [
            encode(image, "GIF", **frames),
            encode(image, "BMP"),
            encode(image, "TIFF"),
            encode(image, "TIFF", compression="tiff_lzw"),
            encode(image, "TIFF", compression="jpeg"),
            encode(image, "PPM"),
            encode(image, "JPEG2000"),
            encode(wide, "TIFF"),
        ],
    }


def mutate(data: np.ndarray, rng: np.random.Generator, files: list[np.ndarray]) -> np.ndarray:
    """Damage a file in one of eight ways."""
    data, n = data.copy(), data.size
    first, last = sorted(rng.integers(0, n, 2).tolist())
    way = rng.integers(8)
    if way == 0:  # flipped bits
        for at in rng.integers(0, n, rng.integers(1, 20)):
            data[at] ^= 1 << int(rng.integers(8))
    elif way == 1:  # header bytes
        data[rng.integers(0, min(n, 200), rng.integers(1, 6))] = rng.integers(0, 256)
    elif way == 2:
        data = data[:last]
    elif way == 3:  # head of one, tail of another
        other = files[rng.integers(len(files))]
        data = np.concatenate([data[:first], other[rng.integers(other.size) :]])
    elif way == 4:
        data = np.concatenate([data[:first], data[last:]])
    elif way == 5:  # extreme lengths
        at = rng.integers(0, min(n, 400))
        data[at : at + int(rng.choice([1, 2, 4]))] = rng.choice([0, 127, 128, 255])
    elif way == 6:
        data[first:last] = rng.integers(0, 256, last - first)
    else:  # a part twice
        data = np.concatenate([data[:last], data[first:]])
    return np.ascontiguousarray(data)


def pixels(batch: Any, row: int) -> np.ndarray:
    height, width = batch.sizes[row].tolist()
    flat = (ctypes.c_uint8 * (height * width * batch.channels)).from_address(int(batch.addresses[row]))
    return np.frombuffer(flat, np.uint8).reshape(height, width, batch.channels)


def fuzz(rounds: int, seed: int, guard: bool, kinds: list[str]) -> None:
    """Run batches in this process; a line with the round's number for each that came out right, then the tally."""
    from figureground.kernels import guard as guard_module
    from figureground.pipeline import screen
    from figureground.pipeline.decode import Decoder

    if not guard:
        screen.inspect_images = lambda addresses, *_, **__: (  # type: ignore[assignment]
            np.full(len(addresses), guard_module.OK, np.uint8),
            np.full((len(addresses), 2), -1, np.int32),
        )
    rng, files = np.random.default_rng(seed), corpus()
    chosen = [file for kind in kinds for file in files[kind]]
    good = [encode(picture(60 + 9 * i, 200 - 4 * i), "JPEG", quality=90) for i in range(BATCH)]
    expected = [np.asarray(Image.open(io.BytesIO(file.tobytes()))) for file in good]
    mask = encode(picture(112, 112).convert("L"), "PNG")
    tally: Counter[str] = Counter()
    decoder, flight = Decoder(BATCH, masks=True, depth=3), deque[tuple[int, int]]()

    def check(batch: Any, bad_image: int, bad_mask: int) -> None:
        assert len(batch.images) == len(batch.masks) == len(batch.valid) == BATCH
        for i in range(BATCH):
            assert batch.valid[i] == (batch.reasons[i] is None)
            if i != bad_image:
                assert batch.valid[i]
                np.testing.assert_array_equal(pixels(batch.images, i), expected[i])
            elif not batch.valid[i]:
                tally[(batch.reasons[i] or "").split(" (")[0]] += 1
            if i != bad_mask:
                assert batch.mask_valid[i]
                assert batch.masks.sizes[i].tolist() == [112, 112]

    for number in range(rounds):
        images, masks = list(good), [mask] * BATCH
        bad = (int(rng.integers(BATCH)), int(rng.integers(-BATCH, BATCH)))
        images[bad[0]] = mutate(chosen[rng.integers(len(chosen))], rng, chosen)
        if bad[1] >= 0:
            masks[bad[1]] = mutate(mask, rng, files["png"])
        decoder.submit(images, masks)
        flight.append(bad)
        if number % 16 == 0:
            check(decoder.decode(images, masks), *bad)
        if len(flight) == decoder.depth:
            check(decoder.collect(), *flight.popleft())
            print(number, flush=True)
    while flight:
        check(decoder.collect(), *flight.popleft())
    decoder.close()
    print(json.dumps(tally), flush=True)


def run(rounds: int, seed: int, *, guard: bool = True, kinds: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fuzz in processes of their own, a new one after a crash."""
    done, crashes, tally, errors = 0, 0, Counter[str](), []
    command = [sys.executable, __file__, "--worker", "--kinds", *(kinds or ("jpeg", "png", "webp", "other"))]
    command += [] if guard else ["--no-guard"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    while done < rounds:
        count = min(PER_PROCESS, rounds - done)
        worker = subprocess.run(
            [*command, "--rounds", str(count), "--seed", str(seed + done)],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=600,
            check=False,
        )
        lines = worker.stdout.splitlines()
        if worker.returncode == 0:
            tally.update(json.loads(lines[-1]))
            done += count
            continue
        done += max(1, len(lines) + 1)
        crashes += worker.returncode < 0
        if worker.returncode > 0:
            errors.append(worker.stderr[-2000:])
    return {"rounds": done, "crashes": crashes, "errors": errors, "bad": dict(tally)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "other"])
def test_nothing_crashes(kind):
    result = run(120, seed=2026, kinds=(kind,))
    assert result["errors"] == []
    assert result["crashes"] == 0
    assert sum(result["bad"].values()) > 10


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=Path(__file__).name)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["jpeg", "png", "webp", "other"])
    parser.add_argument("--no-guard", action="store_true")
    parser.add_argument("--worker", action="store_true")
    chosen = parser.parse_args()
    if chosen.worker:
        fuzz(chosen.rounds, chosen.seed, not chosen.no_guard, chosen.kinds)
    else:
        print(
            json.dumps(run(chosen.rounds, chosen.seed, guard=not chosen.no_guard, kinds=tuple(chosen.kinds)), indent=1)
        )
