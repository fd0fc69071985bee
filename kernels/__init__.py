"""Array in, array out: one operation a file, CUDA C++ on the GPU and Numba on the CPU, with the same numbers."""
