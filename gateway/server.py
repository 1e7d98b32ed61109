"""uvicorn, with a way to stop that loses no request: see `drain.py` for what callers notice.

    signal ──► drain_s seconds: all is answered, each answer closes its connection
           ──► no new connections; who is connected already may still send its request
           ──► what is under way ends, within _FINISH_S seconds

A second signal ends the first part at once, a third one everything. Without a drain (drain_s 0) the
last part is the only one, and shorter: nobody waits long for a Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gateway.connections import Connection, ConnectionConfig, PatientConnection
from gateway.drain import Drain
from gateway.listening import close_queue
from gateway.settings import Settings

__all__ = ["serve"]

# Above the settings' answer_timeout_s: one photo's answer that is on its way arrives.
_FINISH_S = 30
_FINISH_WITHOUT_DRAIN_S = 10
# For handshakes that had begun, and for uvloop, which closes a socket in one of its next rounds. A
# caller whose connection was not begun asks again after a second, and is refused then.
_HANDSHAKE_S = 0.25
_OPEN_FILES = 65_536


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve until told to stop; ends the process with status 3 if it can't start."""
    drains = settings.drain_s > 0
    config = ConnectionConfig(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientConnection if drains else Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_FINISH_S if drains else _FINISH_WITHOUT_DRAIN_S,
    )
    config.head_timeout_s = settings.upload_timeout_s
    _allow_many_connections()
    server = _Server(config, app.state.drain, settings.drain_s)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes Ctrl-C on when it is done
        server.run()
    if not server.started:
        sys.exit(3)


class _Server(uvicorn.Server):
    """uvicorn's server, which drains on the first signal to stop, if it is given time for it."""

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_s: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_s = drain_s
        self._drain_ends = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal to stop: the first one drains, the next ones hurry."""
        if self._drain_s and self.started and not self._drain.is_on:
            self._drain_ends = time.monotonic() + self._drain_s
            self._drain.is_on = True
        elif self._drain.is_on and self.should_exit:
            self.force_exit = True
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second; true ends its main loop."""
        if time.monotonic() >= self._drain_ends:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening and let what is under way end."""
        if self._drain.is_on:
            await self._take_in_who_waits()
        await super().shutdown(sockets)

    async def _take_in_who_waits(self) -> None:
        """Stop listening without a loss: the kernel resets who is connected, but not accepted yet.

        So nobody new is let into the queues of the listening sockets, which are kept past uvicorn's
        closing of its own view of them for just long enough to empty them.
        """
        loop = asyncio.get_running_loop()
        listeners = [
            socket.socket(fileno=os.dup(listening.fileno()))
            for server in self.servers
            for listening in server.sockets
        ]
        for listener in listeners:
            close_queue(listener)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_HANDSHAKE_S)
        waiting = []
        for listener in listeners:
            listener.setblocking(False)
            with listener, contextlib.suppress(BlockingIOError):
                while True:
                    waiting.append(listener.accept()[0])
        for connection in waiting:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return PatientConnection(self.config, self.server_state, self.lifespan.state)


def _allow_many_connections() -> None:
    """Each is an open file, of which a shell's default of 1,024 would soon be used up."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    if resource.RLIM_INFINITY != now < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a limit beside the limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
