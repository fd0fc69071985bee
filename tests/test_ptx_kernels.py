"""The compiled PTX of all kernels, executed on the CPU: bit for bit the Numba version, with every check; and the checks bite.

`tests/kernels` runs the PTX too, over more shapes (fixture `host_cuda`); here is what must hold for every source alike.
"""

from __future__ import annotations

import pytest
from host_cuda.executor import ORDERS, kernel_bounds
from host_cuda.ptx.encode import Encoded
from host_cuda.ptx.executor import PtxExecutor, encode_file
from host_cuda.ptx.nvrtc import compile_text, ptx_of
from host_cuda.ptx.parse import parse
from host_cuda.stand_in import in_place_of_launch
from mutation_cases import CASES
from test_mutations import BARRIERS, KERNELS, SOURCES, SPARE_BARRIERS, _equal, _source

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and NVRTC to run the PTX")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The sources with their headers in place, so that a line is one place."""
    folder = tmp_path_factory.mktemp("kernels")
    for path in SOURCES:
        (folder / path.name).write_text(_source(path.stem))
    return folder


def _run(stem, folder, order, skipped_barrier=0):
    executor = PtxExecutor(order, seed=1, folder=folder)

    def launch(name, *args, **more):
        executor.skipped_barrier = skipped_barrier if name == stem else 0
        executor.launch(name, *args, **more)

    with in_place_of_launch(launch, host_module=True, dispatch=True, made=executor.fresh.add):
        return CASES[stem](), executor.launched


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stem", CASES)
def test_ptx_equals_cpu(stem, order):
    results, launched = _run(stem, KERNELS, order)
    assert _equal(results, CASES[stem]())
    here = {name for name in launched if name.startswith(f"{stem}.")}
    assert here == {f"{stem}.{kernel}" for kernel in kernel_bounds((KERNELS / f"{stem}.cu").read_text())}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_line_tables_change_no_instruction(path):
    def code(text):
        return {k.name: [(i.name, i.operands, i.guard) for i in k.code] for k in parse(text).kernels.values()}

    assert code(ptx_of(path)) == code(compile_text(path.read_text(), path.name, lines=False))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_every_instruction_has_its_line(path):
    for kernel in encode_file(path, path.read_text()).values():
        assert isinstance(kernel, Encoded)
        assert {file for file, _ in kernel.lines} <= {path.name, *(p.name for p in KERNELS.glob("*.cuh"))}
        assert all(line > 0 for _, line in kernel.lines)


@pytest.mark.parametrize("place", BARRIERS)
def test_a_missing_barrier_is_a_race(place, copies):
    """With the barrier passed over, the very first order is stopped by a check: results need not be looked at."""
    where, names = BARRIERS[place]
    faults = []
    for stem, line in where:
        try:
            _run(stem, copies, "forward", line)
        except RuntimeError as fault:
            faults.append(str(fault))
    if names & set(SPARE_BARRIERS):
        assert not faults, f"{place}: the barrier is needed, take it out of SPARE_BARRIERS"
    else:
        assert faults, f"{place}: nothing notices when the barrier is gone"
        assert all("race" in f or "uninitialised" in f or "barrier" in f or "out of bounds" in f for f in faults)
