"""Who may talk to the test API server: bearer tokens with user, groups and extra, changeable while it runs.

Our own server reads the JSON file itself. A real kube-apiserver has no such file (its static token file knows no extra
and is read once), so for that one the same file is served as a token review webhook.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Tokens:
    """The users of one API server, kept in the JSON file `path`: {token: {name, uid, groups, extra}}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users: dict[str, dict[str, Any]] = {}
        self._by_holder: dict[str, str] = {}

    def add(
        self,
        name: str,
        groups: Sequence[str] = (),
        extra: Mapping[str, Sequence[str]] | None = None,
        *,
        holder: str | None = None,
    ) -> str:
        """Add or replace the user `name` and return the user's token, valid at once.

        `holder` tells tokens of one user apart, such as those of a DaemonSet's Pods; without it a user has one.
        """
        return self.add_all(name, groups, {holder or name: extra or {}})[0]

    def add_all(
        self, name: str, groups: Sequence[str], extra_of: Mapping[str, Mapping[str, Sequence[str]]]
    ) -> list[str]:
        """Add many tokens of one user at once, by holder, each with its extra; return them in that order."""
        tokens = []
        for holder, extra in extra_of.items():
            token = self._by_holder.setdefault(holder, secrets.token_urlsafe(16))
            extra_lists = {key: list(values) for key, values in extra.items()}
            self._users[token] = {"name": name, "uid": f"uid-of-{name}", "groups": list(groups), "extra": extra_lists}
            tokens.append(token)
        half_written = self.path.with_suffix(".new")
        with os.fdopen(os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self._users, file, indent=1)
        half_written.rename(self.path)
        return tokens

    def of(self, holder: str) -> str:
        """Return the token of a holder, or of a user's only one. Raises LookupError that names those there are."""
        if holder not in self._by_holder:
            raise LookupError(f"no token for {holder!r}; there are tokens for: {', '.join(sorted(self._by_holder))}")
        return self._by_holder[holder]

    def review(self, token: str) -> dict[str, Any]:
        """Return the status of a TokenReview (authentication.k8s.io/v1) of this token."""
        user = self._users.get(token)
        if user is None:
            return {"authenticated": False}
        described = {"username": user["name"], "uid": user["uid"], "groups": user["groups"], "extra": user["extra"]}
        return {"authenticated": True, "user": described}


class TokenReviewWebhook:
    """Answers token reviews on 127.0.0.1 from a thread of its own, so that a blocked event loop blocks nobody."""

    def __init__(self, tokens: Tokens) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                review["status"] = tokens.review(review["spec"]["token"])
                body = json.dumps(review).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Stay silent: the tests' output is not a place for an access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="token-review", daemon=True)

    def __enter__(self) -> str:
        """Start, and return the webhook's address."""
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
