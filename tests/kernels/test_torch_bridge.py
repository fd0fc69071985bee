"""Kernels on torch tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from figureground.kernels.blur import gaussian_blur
from figureground.kernels.normalize import normalize_views
from figureground.kernels.resample import full_rows, render_views
from figureground.kernels.torch_bridge import on_tensors, ragged_from_tensors

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture
def views():
    return np.random.default_rng(0).integers(0, 256, (3, 3, 20, 24), dtype=np.uint8)


def test_tensors_in_tensors_out(views):
    sigma = np.array([0, 1, 2], np.float32)
    got = on_tensors(gaussian_blur)(torch.from_numpy(views), sigma)
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), gaussian_blur(views, sigma))


def test_out_is_the_tensor_given(views):
    out = torch.empty((3, 3, 20, 24), dtype=torch.uint8)
    on_tensors(gaussian_blur)(torch.from_numpy(views), np.ones(3, np.float32), out=out)
    np.testing.assert_array_equal(out.numpy(), gaussian_blur(views, np.ones(3, np.float32)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_torch_dtypes(views, dtype):
    got = on_tensors(normalize_views)(torch.from_numpy(views), MEAN, STD, dtype=dtype)
    assert got.dtype == dtype
    want = (torch.from_numpy(views) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(got, want.to(dtype), rtol=1e-6, atol=1e-6)


def test_ragged_of_tensors(views):
    images = [torch.from_numpy(np.ascontiguousarray(v.transpose(1, 2, 0))) for v in views]
    batch = ragged_from_tensors(images)
    got, masks = on_tensors(render_views)(batch, full_rows(batch.sizes), (20, 24))
    assert masks is None
    np.testing.assert_array_equal(got.numpy(), views)


def test_messages(views):
    with pytest.raises(ValueError, match=r"dtype must be float32, float16 or bfloat16, got torch\.int8"):
        on_tensors(normalize_views)(torch.from_numpy(views), MEAN, STD, dtype=torch.int8)


def test_inside_a_dali_graph(views):
    from nvidia.dali import fn, pipeline_def, types

    def blur(batch):
        stacked = np.ascontiguousarray(np.stack([np.asarray(sample) for sample in batch]).transpose(0, 3, 1, 2))
        return list(gaussian_blur(stacked, np.full(len(stacked), 1.5, np.float32)).transpose(0, 2, 3, 1))

    @pipeline_def(batch_size=3, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False)
    def graph():
        images = fn.external_source(lambda: [v.transpose(1, 2, 0).copy() for v in views], batch=True, dtype=types.UINT8)
        return fn.python_function(images, function=blur, batch_processing=True)

    pipe = graph()
    pipe.build()
    got = np.stack([np.asarray(pipe_out) for pipe_out in pipe.run()[0]])
    np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), gaussian_blur(views, np.full(3, 1.5, np.float32)))
