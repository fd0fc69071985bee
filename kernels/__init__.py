"""Array in, array out: one operation a file, CUDA C++ on the GPU and Numba on the CPU, with the same numbers."""

from pathlib import Path as _Path

from .cache_folder import choose_cache_folder as _choose_cache_folder

_choose_cache_folder(_Path(__file__).resolve().parent)
