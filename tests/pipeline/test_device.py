"""Memory of batches on the host: used again only when nobody holds it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from figureground.pipeline.device import HostDevice, make_device


def _tensor(device, value, dtype=torch.float32):
    array = device.empty((4, 3, 8, 8), dtype)
    array[...] = value
    return device.tensor(array, dtype)


def test_held_tensors_keep_their_memory():
    device = HostDevice()
    held = [_tensor(device, i) for i in range(40)]
    assert [float(t.max()) for t in held] == list(range(40))
    assert len({t.data_ptr() for t in held}) == 40


@pytest.mark.parametrize(
    "keep",
    [
        lambda t: t[1:2],
        lambda t: t.permute(0, 2, 3, 1),
        lambda t: t.numpy(),
        lambda t: t.view(-1)[5:],
        lambda t: t[:, None],
    ],
)
def test_views_of_tensors_keep_the_memory_too(keep):
    device = HostDevice()
    view = keep(_tensor(device, 1.0))
    gc.collect()
    for _ in range(5):
        _tensor(device, 2.0)
    assert np.asarray(view).max() == 1.0


def test_dropped_memory_is_used_again():
    device = HostDevice()
    places = set()
    for i in range(10):
        tensor = _tensor(device, i)
        places.add(tensor.data_ptr())
        del tensor
    assert len(places) == 1


def test_bfloat16_shares_memory():
    device = HostDevice()
    array = device.empty((2, 2), torch.bfloat16)
    array[...] = 0x3F80
    assert device.tensor(array, torch.bfloat16).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_names_of_devices():
    assert not make_device("cpu").cuda
    for name in ("gpu", "cuda:x", "cpu:0"):
        with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'cuda:N'"):
            make_device(name)
