"""Tunes the memory allocator of glibc for steps on CPU.

Each step allocates and frees gigabytes. By default glibc gives each thread a heap of
its own, which is too small for large arrays: every step maps them again, in pages of
4 KiB. With a single heap of huge pages, a BNAS-A step took 0.70 of the time. On other C
libraries and systems these functions do nothing.
"""

import contextlib
import ctypes
import functools
import os

# Options of `mallopt` in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# MADV_HUGEPAGE of mman.h, and the size of such a page in bytes.
_HUGE_PAGES, _HUGE_PAGE = 14, 2 << 20
# The errors on other systems: a missing library, function or constant.
_OTHER_SYSTEM = (OSError, AttributeError, ValueError)


def share_heap() -> None:
    """Makes all threads use a single heap.

    It must be called before JAX starts its threads.
    """
    with contextlib.suppress(*_OTHER_SYSTEM):
        ctypes.CDLL("libc.so.6").mallopt(_ARENA_MAX, 1)


@functools.cache  # once for the process
def keep_heap() -> None:
    """Makes the heap keep freed memory, and use huge pages.

    Up to half of the machine's memory becomes huge pages. Steps must run one after the
    other: each step that is dispatched ahead would add gigabytes to the heap.
    """
    with contextlib.suppress(*_OTHER_SYSTEM):
        libc = ctypes.CDLL("libc.so.6")
        # Do not map large arrays separately, and return no memory to the system.
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)

        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # bytes
        _reserve(libc, memory // 2)


def _reserve(libc: ctypes.CDLL, size: int) -> None:
    """Allocates and frees `size` bytes as huge pages, so that the heap keeps them.

    Only addresses are reserved: a page takes no memory before it is used.
    """
    # Declare the types of the C functions.
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    start = libc.malloc(size)
    if start:
        # Begin at the first whole huge page.
        aligned = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(aligned, size - _HUGE_PAGE, _HUGE_PAGES)
        libc.free(start)
