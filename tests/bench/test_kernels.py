"""The bench of kernels runs on both devices, the GPU's part on stand-ins."""

from __future__ import annotations

import json

import pytest
from host_cuda.rehearsal import gpu_machine

from figureground.bench import kernels, timeline


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures."""
    for name, value in {"SOURCE": (60, 70), "VIEW": 80, "MASK": 40, "_FLUSH_BYTES": 1 << 16}.items():
        monkeypatch.setattr(kernels, name, value)


def test_every_case_runs_on_a_gpu(small, tmp_path):
    path = tmp_path / "kernels.json"
    with gpu_machine() as gpu:
        assert kernels.main(["--device", "cuda", "--views", "2", "--repeats", "1", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert {kernels.VIEWS_CASE, kernels.BOTH_CASE, "saliency fused, 40 px"} <= set(document["kernels"])
    assert set(document["goals"]) == set(
        kernels.goals_of({name: {"of_copy": 1.0, "us_per_image": 1.0} for name in document["kernels"]})
    )
    stems = {launch.partition(".")[0] for launch in gpu.log.launches}
    assert {"resample", "color", "blur", "normalize", "background", "patches", "tiles", "blocks", "token_masks", "ground"} <= stems
    assert [wait for wait in gpu.log.waits if "get" not in wait] == []


def test_waiting_kernel_compiles():
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    _, program = nvrtc.nvrtcCreateProgram(kernels._WAIT.encode(), b"wait.cu", 0, [], [])
    options = [b"--gpu-architecture=sm_90"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    nvrtc.nvrtcDestroyProgram(program)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS


def test_both_views_are_the_loaders(small):
    """The case of both views makes the same on both devices."""
    import numpy as np

    made = []
    for device in ("cpu", "cuda"):
        with gpu_machine():
            import cupy

            xp = cupy if device == "cuda" else np
            rng = np.random.default_rng(0)
            arrays = [xp.asarray(rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)) for _ in range(3)]
            run, moved = kernels._two_views(xp, kernels.Ragged.from_arrays(arrays), 3)
            assert run() == 3
            assert 0 < moved <= 2 * 3 * 60 * 70 * 3
            buffers = dict(zip(run.__code__.co_freevars, run.__closure__, strict=True))["buffers"].cell_contents
            made.append([b if device == "cpu" else b.get() for b in buffers])
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_time_line_of_a_gpu(tmp_path):
    from pipeline_shards import write_shards

    shards = write_shards(tmp_path, 24)
    with gpu_machine():
        recorder = timeline.record(shards, "cuda", batch_size=8, threads=2, batches=2, step_ms=1)
    lanes = timeline.by_lane(recorder.spans)
    assert {kind for _, _, kind in lanes[timeline.STREAM]} >= {"crop, composite", "normalise"}
