"""A process without a network: a namespace with nothing but loopback, whose kernel counts who tried to leave."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
SET_FLAGS, UP = 0x8914, 0x1
# The exit status of a process that may not have a namespace.
NOT_ALLOWED = 77
# What the kernel counts of a namespace: no way to an address, a datagram that left (a question to a name server on
# this machine), a connection on loopback that nobody took.
COUNTED = {
    "/proc/net/snmp": ("Ip:OutNoRoutes", "Udp:OutDatagrams", "Tcp:AttemptFails"),
    "/proc/net/snmp6": ("Ip6OutNoRoutes", "Udp6OutDatagrams"),
}


def deny_network() -> None:
    """Of this process and its children from now on. It may have one thread only, and ends where this is not allowed."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) != 0:
        if libc.unshare(NEW_USER | NEW_NETWORK) != 0:
            os._exit(NOT_ALLOWED)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


def tries() -> dict[str, int]:
    """How often each of COUNTED has happened in the namespace of this process, without those that never did."""
    found: dict[str, int] = {}
    lines = Path("/proc/net/snmp").read_text().splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        group = names.split()[0]
        found.update(zip((group + name for name in names.split()[1:]), map(int, numbers.split()[1:]), strict=True))
    # Not there where the machine has no IPv6.
    if Path("/proc/net/snmp6").exists():
        for line in Path("/proc/net/snmp6").read_text().splitlines():
            name, number = line.split()
            found[name] = int(number)
    return {name: found[name] for names in COUNTED.values() for name in names if found.get(name)}
