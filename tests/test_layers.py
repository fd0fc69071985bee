"""Who may import whom: the table of the four folders, and the giants that only named files may touch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {
    "shards": set(),
    "kernels": set(),
    "pipeline": {"shards", "kernels"},
    "bench": {"shards", "kernels", "pipeline"},
}
FILES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
# Where a giant may be imported at module level; "bench" stands for the whole folder.
AT_TOP = {
    "nvidia": {"pipeline/decode.py", "bench"},
    "torch": {
        "pipeline/device.py",
        "pipeline/engine.py",
        "pipeline/loader.py",
        "pipeline/formats.py",
        "pipeline/array_model.py",
        "pipeline/saliency_compose.py",
        "pipeline/saliency_job.py",
        "pipeline/saliency_net.py",
        "pipeline/saliency_refine_steps.py",
        "pipeline/saliency_refiner.py",
        "pipeline/saliency_steps.py",
        "pipeline/saliency_vit.py",
        "pipeline/vit_features.py",
        "bench",
    },
    "cupy": {"bench"},
}
# Where it may be imported inside a function besides: only those who need it pay for it.
INSIDE = {"nvidia": set(), "torch": {"kernels/torch_bridge.py"}, "cupy": {"kernels", "pipeline"}}


def imports(tree: ast.Module) -> list[tuple[int, str, bool]]:
    """(line, absolute name or ".name" for relative, at module level) of every import, `if TYPE_CHECKING` left out."""
    found = []

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node = ast.Module(node.orelse, [])
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name, top) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found.extend((node.lineno, base if node.module else base + alias.name, top) for alias in node.names)
            if base == "figureground":
                found.extend((node.lineno, f"figureground.{alias.name}", top) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(tree, True)
    return found


def faults(name: str, source: str) -> list[str]:
    """What a file (named `folder/file.py`) imports against the rules."""
    folder, problems = name.split("/")[0], []
    for line, target, top in imports(ast.parse(source)):
        parts = target.split(".")
        if target.startswith(".."):
            problems.append(f"{name}:{line}: between folders import absolutely, not {target}")
        if parts[0] in (*OURS, "tests"):
            problems.append(f"{name}:{line}: bare {parts[0]}; import figureground.{parts[0]}")
        if parts[0] == "figureground" and len(parts) > 1 and parts[1] not in OURS[folder] | {folder}:
            problems.append(f"{name}:{line}: {folder} must not import {parts[1]}")
        if parts[0] == "figureground" and len(parts) > 1 and parts[1] == folder and folder != "bench":
            problems.append(f"{name}:{line}: inside a folder import relatively, not {target}")
        if parts[0] in AT_TOP:
            allowed = AT_TOP[parts[0]] | (set() if top else INSIDE[parts[0]])
            if name not in allowed and folder not in allowed:
                problems.append(
                    f"{name}:{line}: {parts[0]} may be imported only in {', '.join(sorted(allowed)) or 'no file'}"
                )
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    assert not faults(path.relative_to(ROOT).as_posix(), path.read_text())


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("shards/a.py", "from figureground.kernels import blur", "shards must not import kernels"),
        ("kernels/a.py", "from figureground import pipeline", "kernels must not import pipeline"),
        ("pipeline/a.py", "import figureground.bench.x", "pipeline must not import bench"),
        ("pipeline/a.py", "from ..kernels import blur", "between folders import absolutely"),
        ("pipeline/a.py", "import kernels", "bare kernels"),
        ("pipeline/a.py", "from figureground.pipeline import plan", "inside a folder import relatively"),
        ("pipeline/a.py", "def f():\n    import torch", "torch may be imported only in"),
        ("pipeline/a.py", "from nvidia.dali import fn", "nvidia may be imported only in"),
        ("kernels/a.py", "import cupy", "cupy may be imported only in"),
        ("kernels/a.py", "class A:\n    import cupy", "cupy may be imported only in"),
    ],
)
def test_a_wrong_import_is_found(name, source, says):
    assert any(says in fault for fault in faults(name, source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "pipeline/decode.py",
            "from nvidia.dali import fn\nfrom figureground.shards import reader\nfrom .plan import Plan",
        ),
        ("kernels/a.py", "def f():\n    import cupy"),
        ("pipeline/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("bench/a.py", "import torch, cupy\nfrom figureground.bench import harness"),
    ],
)
def test_a_right_import_passes(name, source):
    assert not faults(name, source)


def test_kernels_import_without_giants():
    modules = [p.stem for p in (ROOT / "kernels").glob("*.py") if p.stem not in ("__init__", "__main__")]
    code = (
        "import importlib, sys\n"
        "import figureground.kernels\n"
        f"for name in {sorted(modules)}: importlib.import_module('figureground.kernels.' + name)\n"
        "print([m for m in ('cupy', 'torch', 'nvidia.dali', 'cuda', 'cv2') if m in sys.modules])"
    )
    environment = {"PYTHONPATH": str(ROOT / "build" / "typing"), "PYTHONSAFEPATH": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
