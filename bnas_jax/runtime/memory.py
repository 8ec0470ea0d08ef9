"""How the C library hands out memory to steps on CPU.

Each step allocates gigabytes and frees them again. By default glibc gives each thread a
separate heap, which is too small for large arrays: these are mapped anew in every step
and come page by page of 4 KiB. With one heap of huge pages, a BNAS-A step took 0.70 of
the time. Other C libraries and systems are left as they are.
"""

import contextlib
import ctypes
import functools
import os

# Options of `mallopt` in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# MADV_HUGEPAGE of mman.h, and the size of such a page in bytes.
_HUGE_PAGES, _HUGE_PAGE = 14, 2 << 20
# Errors on other systems: no such library, no such function, no such figure.
_OTHER_SYSTEM = (OSError, AttributeError, ValueError)


def share_heap() -> None:
    """Has all threads use one heap.

    To be called before JAX starts its threads.
    """
    with contextlib.suppress(*_OTHER_SYSTEM):
        ctypes.CDLL("libc.so.6").mallopt(_ARENA_MAX, 1)


@functools.cache  # once for the process
def keep_heap() -> None:
    """Lets the heap keep what is freed, and take huge pages.

    Huge pages are for up to half of the machine's memory. This is for steps that run
    one after the other: each step that is sent off ahead would add gigabytes to the
    heap.
    """
    with contextlib.suppress(*_OTHER_SYSTEM):
        libc = ctypes.CDLL("libc.so.6")
        # No array is mapped by itself, and none is given back to the system.
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)

        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # bytes
        _reserve(libc, memory // 2)


def _reserve(libc: ctypes.CDLL, size: int) -> None:
    """Allocates and frees `size` bytes, as huge pages.

    The heap keeps the addresses. No address takes memory before it is used.
    """
    # The types of the C functions, which ctypes does not know.
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    start = libc.malloc(size)
    if start:
        # Huge pages from the first whole one on.
        aligned = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(aligned, size - _HUGE_PAGE, _HUGE_PAGES)
        libc.free(start)
