"""Masks by the kernels: the same as calling them by hand, whatever the batch; bad samples; arguments."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pipeline_shards import write_shards, write_tar

from figureground.kernels.arrays import Ragged
from figureground.pipeline.augment import estimate_masks
from figureground.pipeline.masks_estimate import EstimateMasks, Estimator, kernel_record
from figureground.shards import Store


def results(store, **options):
    estimator = Estimator(EstimateMasks(**{"size": 32, **options}))
    try:
        return [result for batch in estimator.results(store) for result in batch]
    finally:
        estimator.close()


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """23 images, of which three cannot be decoded and one is missing."""
    folder = tmp_path_factory.mktemp("estimate")
    with Store(write_shards(folder, 19, masks=False)) as store:
        members = [(f"{store.key(i)}.jpg", store.image(i).tobytes()) for i in range(19)]
    members[5:5] = [("cut.jpg", members[0][1][:-300]), ("html.jpg", b"<html>"), ("text.txt", b"no image at all")]
    members.append(("empty.png", b""))
    write_tar(folder / "bad-0.tar", members)
    return str(folder / "bad-0.tar")


def test_equals_the_kernels_called_by_hand(shard):
    with Store(shard) as store:
        got = results(store, batch_size=64)
        for i in (0, 3, 20):
            image = cv2.cvtColor(cv2.imdecode(store.image(i), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            expected = estimate_masks(Ragged.from_arrays([image]), size=32)[0]
            mask = cv2.imdecode(np.frombuffer(got[i].png, np.uint8), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(mask, expected)
            assert got[i].area == expected.mean(dtype=np.float64) / 255


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (5, 2), (7, 3)])
def test_batches_and_threads_change_nothing(shard, batch_size, threads):
    with Store(shard) as store:
        assert results(store, batch_size=batch_size, threads=threads) == results(store)


def test_bad_samples_say_why(shard):
    with Store(shard) as store:
        notes = {result.key: result.note for result in results(store) if result.png is None}
    assert notes.keys() == {"cut", "html", "text", "empty"}
    assert "truncated" in notes["cut"]
    assert notes["text"] == notes["empty"] == "no image"


def test_stopping_early_leaves_nothing_for_the_next_shard(shard):
    estimator = Estimator(EstimateMasks(size=32, batch_size=4))
    with Store(shard) as store:
        broken_off = estimator.results(store)
        next(broken_off)
        broken_off.close()
        again = [result for batch in estimator.results(store) for result in batch]
        assert again == results(store)
    estimator.close()


def test_manifest_names_code_and_constants():
    record = kernel_record()
    assert len(record["code"]) == 16
    assert record["constants"]["saliency_cells"]["GRID"] == 16


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "magic"}, "method must be one of fused, "),
        ({"size": 4}, "size must be 16 to 256 px, got 4"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"device": "tpu"}, "device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
    ],
)
def test_messages(options, says):
    with pytest.raises(ValueError, match=says):
        EstimateMasks(**options)
