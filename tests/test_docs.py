"""The examples in docstrings run, and every public function of the kernels says what it takes and gives."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("shards", "kernels", "pipeline", "bench")
# Files that are run, not imported.
PATHS = sorted(p for folder in FOLDERS for p in (ROOT / folder).glob("*.py") if p.stem != "__main__")
KERNEL_PATHS = [p for p in PATHS if p.parent.name == "kernels" and p.stem != "__init__"]


def module_name(path: Path) -> str:
    """The name under which a file is installed."""
    stem = "" if path.stem == "__init__" else f".{path.stem}"
    return f"figureground.{path.parent.name}{stem}"


def test_found():
    assert {p.parent.name for p in PATHS} == set(FOLDERS)
    for path in PATHS:
        spec = importlib.util.find_spec(module_name(path))
        assert spec is not None
        assert Path(spec.origin).resolve() == path, f"{module_name(path)} is not this checkout's"


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_examples(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(module_name(path))
    # Numba wraps functions into dispatchers, which doctest does not take for functions.
    compiled = {n: v for n, v in vars(module).items() if hasattr(v, "py_func") and v.__module__ == module.__name__}
    globs = vars(module) | {"np": np}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = finder.find(module, extraglobs={"np": np})
    for name, dispatcher in compiled.items():
        tests += finder.find(dispatcher.py_func, f"{module.__name__}.{name}", module=module, globs=dict(globs))
    for test in tests:
        runner.run(test)
    assert runner.failures == 0, f"{runner.failures} of {runner.tries} examples of {path.name} failed; see the output"


def public_functions(path: Path) -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Public functions and classes of a file, by dotted name; of the kernels also the methods."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        found.append((node.name, node))
        if isinstance(node, ast.ClassDef) and path in KERNEL_PATHS:
            methods = (m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_"))
            found += [(f"{node.name}.{m.name}", m) for m in methods]
    return found


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_everything_public_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} must say what it is for"
    missing = [name for name, node in public_functions(path) if not ast.get_docstring(node)]
    assert not missing, f"{path.name}: no docstring in {', '.join(missing)}"


@pytest.mark.parametrize("path", KERNEL_PATHS, ids=module_name)
def test_kernels_describe_parameters_and_result(path):
    for name, node in public_functions(path):
        # Compiled helpers are called by kernels alone; where one line says all, one line is enough.
        text = inspect.cleandoc(ast.get_docstring(node) or "")
        if (
            "." in name
            or isinstance(node, ast.ClassDef)
            or not node.args.args
            or node.decorator_list
            or "\n" not in text
        ):
            continue
        assert "Parameters\n---" in text, f"{path.name}: {name} needs a section Parameters"
        if node.returns is not None and ast.unparse(node.returns) != "None":
            assert "Returns\n---" in text, f"{path.name}: {name} needs a section Returns"
