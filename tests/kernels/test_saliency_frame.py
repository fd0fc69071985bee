"""Frames around pictures."""

from __future__ import annotations

import numpy as np
import pytest

from figureground.kernels import saliency_frame
from figureground.kernels.saliency import estimate_saliency
from figureground.kernels.saliency_frame import blank_frames, find_frames, paint_frames


def _framed(height=60, width=80, frame=(3, 4, 5, 6), color=(250, 250, 250), count=1, seed=0):
    """Pictures of a little noise in frames."""
    top, bottom, left, right = frame
    images = np.empty((count, 3, height, width), np.uint8)
    images[:] = np.reshape(color, (3, 1, 1))
    inside = images[:, :, top : height - bottom, left : width - right]
    inside[:] = np.random.default_rng(seed).integers(60, 72, inside.shape)
    return images


@pytest.mark.parametrize("frame", [(3, 4, 5, 6), (1, 1, 1, 1), (6, 6, 8, 8), (2, 3, 0, 0), (0, 0, 4, 4), (0, 5, 0, 2)])
def test_finds_frames(frame):
    assert find_frames(_framed(frame=frame)).tolist() == [list(frame)]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ((0, 0, 0, 0), "no frame"),
        ((3, 0, 0, 0), "one side is a sky or a floor"),
        ((7, 7, 9, 9), "wider than a tenth"),
    ],
)
def test_what_is_no_frame(frame, why):
    assert find_frames(_framed(frame=frame)).tolist() == [[0, 0, 0, 0]], why


def test_a_faint_or_rough_frame_is_none():
    faint = np.full((1, 3, 40, 40), 100, np.uint8)
    faint[:, :, 2:38, 2:38] = 115  # a step of 45 in sum
    assert not find_frames(faint).any()
    faint[:, 0, 2:38, 2:38] += 1
    assert find_frames(faint).tolist() == [[2, 2, 2, 2]]
    rough = _framed(frame=(2, 2, 2, 2))
    rough[:, :, ::2, ::2] -= 30
    rough[:, :, 1::2, 1::2] -= 30
    assert not find_frames(rough).any()


def test_a_wide_product_on_white_is_no_frame():
    image = np.full((1, 3, 96, 96), 255, np.uint8)
    image[:, :, 4:92, 30:66] = 60  # it ends near the border, but takes little of the line
    assert not find_frames(image).any()


def test_paints_and_blanks():
    images = _framed(count=2)
    frames = np.array([[3, 4, 5, 6], [0, 0, 0, 0]], np.int32)
    painted = paint_frames(images, frames)
    np.testing.assert_array_equal(painted[0, :, 3:56, 5:74], images[0, :, 3:56, 5:74])
    np.testing.assert_array_equal(painted[0, :, :3, 5:74], images[0, :, 3:4, 5:74].repeat(3, axis=1))
    np.testing.assert_array_equal(painted[0, :, 56:, 74:], np.broadcast_to(images[0, :, 55:56, 73:74], (3, 4, 6)))
    np.testing.assert_array_equal(painted[1], images[1])
    assert images[0, 0, 0, 0] == 250
    assert paint_frames(images, np.zeros((2, 4), np.int32)) is images
    masks = blank_frames(np.full((2, 60, 80), 7, np.uint8), frames)
    assert masks[0].sum() == 7 * 53 * 69
    assert masks[0, 3, 5] == masks[0, 55, 73] == 7
    assert masks[1].min() == 7


def _disc():
    """A figure on a ground, 64 px."""
    y, x = np.mgrid[:64, :64]
    truth = (y - 30) ** 2 + (x - 34) ** 2 < 13**2
    image = np.where(truth, np.reshape((210, 60, 50), (3, 1, 1)), np.reshape((60, 110, 70), (3, 1, 1)))
    return (image + np.random.default_rng(1).integers(-9, 10, image.shape)).astype(np.uint8), truth


@pytest.mark.parametrize("method", ["fused", "cells", "rbd", "mb+"])
@pytest.mark.parametrize("color", [255, 0])
def test_a_frame_does_not_hide_the_figure(method, color):
    image, truth = _disc()
    for side in (image[:, :3], image[:, -3:], image[:, :, :3], image[:, :, -3:]):
        side[:] = color
    mask = estimate_saliency(image[None], method=method)[0]
    found = mask > 127
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert mask[:3].max() == mask[:, -3:].max() == 0


@pytest.mark.parametrize("shape", [(60, 80), (37, 53), (16, 16), (256, 250)])
def test_cuda_source_equals_cpu(host_orders, shape):
    height, width = shape
    kinds = [(1, 1, 1, 1), (0, 0, 0, 0), (height // 10, 0, 0, width // 10), (1, 0, 0, 0)]
    images = np.concatenate([_framed(height, width, kind, seed=n) for n, kind in enumerate(kinds)])
    masks = np.random.default_rng(2).integers(0, 256, (4, height, width), dtype=np.uint8)
    frames = find_frames(images)
    want = frames, paint_frames(images, frames), blank_frames(masks.copy(), frames)
    assert want[0].any(axis=1).tolist() == [True, False, True, False]
    with host_orders() as device:
        got = (
            saliency_frame._find_cuda(device.array(images)),
            saliency_frame._cover(device.array(images), device.array(frames), 3),
            saliency_frame._cover(device.array(masks), device.array(frames), 1),
        )
        for there, here in zip(got, want, strict=True):
            np.testing.assert_array_equal(device.numpy(there), here)


def test_whole_methods_are_equal_on_cuda_source(host_cuda):
    image, _ = _disc()
    images = np.stack([image, image])
    images[0, :, :2] = images[0, :, :, -3:] = 250
    want = estimate_saliency(images)
    with host_cuda(dispatch=True):
        got = estimate_saliency(images)
    np.testing.assert_array_equal(got, want)
    assert find_frames(images).tolist() == [[2, 0, 0, 3], [0, 0, 0, 0]]
    assert want[0].max() == 255
