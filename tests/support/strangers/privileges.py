"""A process to which not everything is permitted, though the tests may run as root."""

from __future__ import annotations

import ctypes
import os

# Of linux/capability.h: the version of the structures with two words a set.
VERSION_3 = 0x20080522


def give_up_privileges() -> None:
    """In a child: permissions of files hold for it as for an ordinary user who owns what this user owns."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
