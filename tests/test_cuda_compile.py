"""Every `kernels/*.cu` compiles for three generations of GPUs, within its budget of registers and shared memory.

NVRTC needs no driver and no GPU. The options are those of `kernels/launch.py`. `python tests/test_cuda_compile.py`
prints the table, with `--update` it also writes `cuda_budget.json` anew: registers rounded up to 8, the rest as
measured.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "kernels"
BUDGET = HERE / "cuda_budget.json"
SOURCES = sorted(KERNELS.glob("*.cu"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
UPDATE = "run 'make tree && PYTHONPATH=build/typing:tests python tests/test_cuda_compile.py --update' and read the diff"
FORBIDDEN = re.compile(
    r"\b(printf|asm|malloc|new|tex2D|cooperative_groups|rsqrtf|__fdividef|__(?:exp|log|log2|log10|pow|sin|cos|tan)f)\b|#\s*include\s*<"
)


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture."""

    registers: int
    """Per thread."""
    shared: int
    """Static shared memory of a block [bytes]."""
    spills: int
    """Stores and loads of spilled registers, per thread [bytes]."""
    stack: int
    """Local memory of a thread: arrays that did not fit in registers [bytes]."""


def compile_source(path: Path, architecture: str) -> dict[str, Usage]:
    """Compile one source with NVRTC; return the usage by `stem.kernel`."""
    from cuda.bindings import nvrtc

    from figureground.kernels.launch import CUDA_OPTIONS

    options = [*CUDA_OPTIONS, f"-I{KERNELS}", f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    _, program = nvrtc.nvrtcCreateProgram(path.read_bytes(), path.name.encode(), 0, [], [])
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(program)
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"{path.name} for {architecture}: {result.name}\n{log.decode()}")
    return parse_log(path.stem, log.decode())


def parse_log(stem: str, log: str) -> dict[str, Usage]:
    """Read what `ptxas -v` says about each entry function."""
    usages = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'(\w+)'", part)
        if name is None:
            raise ValueError(f"ptxas log: an entry function must have a name, got {part[:60]!r}")

        def number(pattern: str, text: str = part) -> int:
            return sum(int(n) for n in re.findall(pattern, text))

        usages[f"{stem}.{name[1]}"] = Usage(
            registers=number(r"Used (\d+) registers"),
            shared=number(r"(\d+) bytes smem"),
            spills=number(r"(\d+) bytes spill"),
            stack=number(r"(\d+) bytes stack frame"),
        )
    return usages


@functools.cache
def usage(architecture: str) -> dict[str, Usage]:
    """All kernels on one architecture."""
    return {name: use for path in SOURCES for name, use in compile_source(path, architecture).items()}


def table() -> str:
    """All kernels on all architectures, as text."""
    lines = [f"{'kernel':44}" + "".join(f"{a + ' reg/shared/spill/stack':>32}" for a in ARCHITECTURES)]
    for name in usage(ARCHITECTURES[0]):
        uses = [usage(a)[name] for a in ARCHITECTURES]
        cells = (f"{u.registers}/{u.shared}/{u.spills}/{u.stack}" for u in uses)
        lines.append(f"{name:44}" + "".join(f"{cell:>32}" for cell in cells))
    return "\n".join(lines)


def update() -> None:
    """Write the budget: the most of the three architectures, registers rounded up to 8."""
    budget = {}
    for name in sorted(usage(ARCHITECTURES[0])):
        uses = [asdict(usage(a)[name]) for a in ARCHITECTURES]
        most = {field: max(use[field] for use in uses) for field in uses[0]}
        budget[name] = most | {"registers": -(-most["registers"] // 8) * 8}
    lines = [f'  "{name}": {json.dumps(limits)}' for name, limits in budget.items()]
    BUDGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_within_budget(architecture):
    pytest.importorskip("cuda.bindings.nvrtc")
    budget = json.loads(BUDGET.read_text())
    uses = usage(architecture)
    print(table())
    assert set(uses) == set(budget), f"kernels and tests/cuda_budget.json differ; {UPDATE}"
    over = [
        f"{name}: {field} {value} > {budget[name][field]}"
        for name, use in uses.items()
        for field, value in asdict(use).items()
        if value > budget[name][field]
    ]
    assert not over, f"over budget on {architecture}: {'; '.join(over)}; make it leaner, or {UPDATE}"


def test_nothing_spills():
    spilling = [name for name, limits in json.loads(BUDGET.read_text()).items() if limits["spills"]]
    assert not spilling, "a spilling kernel is a slow one: lower its unrolling or its launch bounds"


def test_log_is_understood():
    log = """ptxas info    : Compiling entry function 'blur_rows' for 'sm_80'
ptxas info    : Function properties for blur_rows
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem, 372 bytes cmem[0]
"""
    assert parse_log("blur", log) == {"blur.blur_rows": Usage(registers=40, shared=1024, spills=12, stack=16)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_only_allowed_features(path):
    from host_cuda.executor import without_comments

    found = FORBIDDEN.search(without_comments(path.read_text()))
    assert found is None, f"{path.name}: {found[0]!r} has no exact equal on the CPU"


def test_launches_name_existing_kernels():
    from host_cuda.executor import kernel_bounds

    for module in sorted(KERNELS.glob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "launch" and len(node.args) > 1):
                continue
            stem, kernel = node.args[:2]
            if isinstance(stem, ast.Constant) and isinstance(kernel, ast.Constant):
                source = KERNELS / f"{stem.value}.cu"
                assert source in SOURCES, f"{module.name}:{node.lineno}: there is no {source.name}"
                names = kernel_bounds(source.read_text())
                assert kernel.value in names, f"{module.name}:{node.lineno}: {stem.value}.cu has no {kernel.value}"


def test_every_kernel_has_its_stem_in_front():
    from host_cuda.executor import kernel_bounds

    for path in SOURCES:
        for name in kernel_bounds(path.read_text()):
            assert name.startswith(f"{path.stem}_"), f"{path.name}: {name} must be named {path.stem}_<step>"


if __name__ == "__main__":
    print(table())
    if "--update" in sys.argv:
        update()
