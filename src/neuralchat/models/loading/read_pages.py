"""Pages of a weight's file that were read once and are not needed again leave the memory of this process."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor

MADV_DONTNEED = 4


def forget_read_pages(weight: Tensor) -> None:
    """Take the pages that lie wholly within `weight`, which nobody may read afterwards, out of this process's memory.

    safetensors gives weights as parts of the mapped file, where every page that was read counts as this process's until
    the file is closed. The system's own cache keeps the file for whoever reads it next. Memory that is no file's loses
    what it held.
    """
    if sys.platform != "linux" or weight.device.type != "cpu" or not weight.is_contiguous():
        return
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > begin:
        # What it answers changes nothing: memory is as it was then.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(MADV_DONTNEED))
