"""A small hub: what `huggingface_hub` asks for, answered over HTTP from local folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    offset: int  # bytes that were left out, by a Range header


class Hub:
    """Models by their ids, each with revisions; started by `with`, on a free port.

    What goes wrong is set by attributes: `status` answers every question with that code, `page` with a page of HTML,
    `cut` sends so many bytes of a file and then breaks the connection, once.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.requests: list[Request] = []
        self.status: int | None = None
        self.page = False
        self.cut: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Nothing is printed."""

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody answers from now on."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, folder: Path, revision: str = "main") -> None:
        """Offer a folder as a model."""
        self.models.setdefault(name, {})[revision] = folder

    def redirect(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Send the client here, with an empty cache: what it reads from the environment when it is imported."""
        template = f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def fetched(self) -> set[str]:
        """Files whose content was sent."""
        found = (re.match(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", r.path) for r in self.requests if r.method == "GET")
        return {match[1] for match in found if match}

    def answer(self, http: BaseHTTPRequestHandler, body: bool) -> None:
        """One question."""
        offset = int((re.match(r"bytes=(\d+)-", http.headers.get("Range", "")) or ["", "0"])[1])
        path = http.path.split("?")[0]
        self.requests.append(Request(http.command, path, offset))
        if self.page:
            self._send(http, 200, b"<html>please log in</html>", {"Content-Type": "text/html"}, body)
        elif self.status:
            self._send(http, self.status, b"{}", {}, body)
        elif path.startswith("/api/models/"):
            self._describe(http, path.removeprefix("/api/models/"), body)
        else:
            self._file(http, path, offset, body)

    def _model(self, http: BaseHTTPRequestHandler, name: str, revision: str, body: bool) -> tuple[Path, str] | None:
        """A model's folder and commit, or an answer that says why not."""
        folders = self.models.get(name)
        commits = {commit_of(folder): folder for folder in (folders or {}).values()}
        if folders is None:
            self._send(http, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif name in self.gated:
            self._send(http, 403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif revision not in folders and revision not in commits:
            self._send(http, 404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        else:
            folder = folders.get(revision) or commits[revision]
            return folder, commit_of(folder)
        return None

    def _describe(self, http: BaseHTTPRequestHandler, path: str, body: bool) -> None:
        name, kind, revision = re.match(r"([^/]+/[^/]+)(?:/(tree|revision)/([^/]+))?", path).groups()
        found = self._model(http, name, revision or "main", body)
        if found is None:
            return
        folder, commit = found
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        if kind == "tree":
            rows = [
                {"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size, "oid": etag_of(f)}
                for f in files
            ]
            said: Any = rows
        else:
            names = [{"rfilename": str(f.relative_to(folder)), "size": f.stat().st_size} for f in files]
            said = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": names, "tags": []}
        self._send(http, 200, json.dumps(said).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, http: BaseHTTPRequestHandler, path: str, offset: int, body: bool) -> None:
        match = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = self._model(http, match[1], match[2], body) if match else None
        if found is None:
            return
        file = found[0] / match[3]
        if not file.is_file():
            self._send(http, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[1]}, body)
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{etag_of(file)}"', "X-Repo-Commit": found[1], "Accept-Ranges": "bytes"}
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{len(content) - 1}/{len(content)}"
        cut, small = self.cut, len(content) - offset <= (self.cut or 0)
        if body and cut and not small:
            self.cut = None
        self._send(http, 206 if offset else 200, content[offset:], headers, body, None if small else cut)

    @staticmethod
    def _send(
        http: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
        cut: int | None = None,
    ) -> None:
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(content)))
        http.send_header("Connection", "close")  # so that nobody is answered once it has stopped
        http.end_headers()
        http.close_connection = True
        if body:
            http.wfile.write(content if cut is None else content[:cut])
            http.wfile.flush()


def commit_of(folder: Path) -> str:
    """Of a folder, by its name."""
    return hashlib.sha1(str(folder).encode()).hexdigest()


def etag_of(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
