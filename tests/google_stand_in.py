"""What a VM of Compute Engine asks of Google, on loopback: metadata, Secret Manager, Cloud Storage.

The answers have the form that Google documents, and the doors are kept as Google keeps them:
metadata want the header `Metadata-Flavor: Google`, all else the token that metadata give out.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["TOKEN", "Google", "run_google"]

TOKEN = "ya29.stand-in-token"


@dataclass
class Google:
    """What is stored there; a test may change it at any time.

    Attributes:
        url: where it answers.
        attributes: the VM's metadata.
        secrets: latest versions, by projects/PROJECT/secrets/NAME.
        objects: files, by BUCKET/NAME.
        requests: the paths that were asked for.
    """

    url: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body."""
        self.requests.append(path)
        _, service, name = path.split("/", 2)
        if service == "metadata":
            if headers.get("Metadata-Flavor") != "Google":
                return 403, b"Missing Metadata-Flavor:Google header."
            if name == "instance/service-accounts/default/token":
                token = {"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}
                return 200, json.dumps(token, separators=(",", ":")).encode()
            value = self.attributes.get(name.removeprefix("instance/attributes/"))
            return (404, b"<html>Error 404</html>") if value is None else (200, value.encode())
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, b'{"error": {"code": 401, "status": "UNAUTHENTICATED"}}'
        if service == "secrets":
            data = self.secrets.get(name.removesuffix("/versions/latest:access"))
            if data is None:
                return 404, b'{"error": {"code": 404, "status": "NOT_FOUND"}}'
            payload = {"data": base64.b64encode(data).decode(), "dataCrc32c": "2061411222"}
            version = f"{name.partition(':')[0].removesuffix('latest')}1"
            return 200, json.dumps({"name": version, "payload": payload}, indent=2).encode()
        stored = self.objects.get(name)
        return (404, b"<Error><Code>NoSuchKey</Code></Error>") if stored is None else (200, stored)


@contextmanager
def run_google() -> Iterator[Google]:
    """Serve it on a free port of loopback."""
    google = Google()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = google.answer(self.path, dict(self.headers.items()))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    google.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])  # seconds to stop in
    thread.start()
    try:
        yield google
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
