"""How a listening socket stops taking callers before it is closed."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

__all__ = ["close_queue"]

# Drops a TCP packet that opens a connection (SYN without ACK) and takes all others; an array of
# struct sock_filter of linux/filter.h: code, jump if true, jump if false, operand.
_DROP_OPENING = (
    (0x30, 0, 0, 13),  # load the byte of TCP's flags
    (0x54, 0, 0, 0x12),  # keep SYN (0x02) and ACK (0x10)
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else take it
)
_SO_ATTACH_FILTER = 26  # of asm-generic/socket.h; Python has no name for it


def close_queue(listener: socket.socket) -> None:
    """Let nobody new connect; who is connected already, or is about to be, can still be accepted.

    Callers get no answer, and ask again after a second. Without this a connection that is made
    between the last look at the queue and the end of listening is reset; so it is where there are
    no such filters (elsewhere than on Linux).
    """
    if sys.platform != "linux":
        return
    instructions = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_OPENING)
    program = ctypes.create_string_buffer(instructions)
    filter_ = struct.pack("HP", len(_DROP_OPENING), ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
