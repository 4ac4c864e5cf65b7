"""A server that speaks as much of the Hugging Face hub's protocol as its library asks for when it fetches a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(models: Mapping[str, Path], asked: list[str]) -> Iterator[str]:
    """The endpoint of a hub that has these models' directories, at one commit each; `asked` gets every path."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            for name, directory in models.items():
                if path in (f"/api/models/{name}", *(f"/api/models/{name}/revision/{one}" for one in ("main", COMMIT))):
                    files = sorted(one.relative_to(directory) for one in directory.rglob("*") if one.is_file())
                    told = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": []}
                    body = json.dumps({**told, "siblings": [{"rfilename": str(one)} for one in files]}).encode()
                    return self._send(200, body, with_body=with_body)
                if path == f"/api/models/{name}/tree/{COMMIT}":
                    files = sorted(one for one in directory.rglob("*") if one.is_file())
                    told = [
                        {
                            "type": "file",
                            "oid": "1",
                            "size": one.stat().st_size,
                            "path": str(one.relative_to(directory)),
                        }
                        for one in files
                    ]
                    return self._send(200, json.dumps(told).encode(), with_body=with_body)
                if path.startswith(f"/api/models/{name}/revision/"):
                    return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                begin = f"/{name}/resolve/{COMMIT}/"
                if path.startswith(begin) and (directory / path[len(begin) :]).is_file():
                    body = (directory / path[len(begin) :]).read_bytes()
                    told = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
                    return self._send(200, body, told, with_body=with_body)
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _send(
            self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, with_body: bool = True
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
