"""S3 servers for tests: moto, and Ceph's radosgw if it is installed. A proxy before them adds faults."""

from __future__ import annotations

import http.client
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]

KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_DEFAULT_REGION": "us-east-1"}

# What stands in the way of radosgw here; None where it can be started.
NO_RADOSGW = None if shutil.which("radosgw") else "radosgw is not installed (apt: radosgw ceph-mon ceph-osd)"


@contextmanager
def moto_server() -> Iterator[str]:
    """The address of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def radosgw_server(folder: Path) -> Iterator[str]:
    """The address of a real S3 server."""
    script, port = ROOT / "infra" / "s3-server.sh", _free_ports(3)
    subprocess.run([script, folder, str(port)], check=True)
    yield f"http://127.0.0.1:{port}"
    subprocess.run([script, folder, "stop"], check=True)


@contextmanager
def proxied(upstream: str, bucket: str) -> Iterator[Proxy]:
    """A proxy before a server that the environment names as the one to use, with a new bucket."""
    proxy = Proxy(upstream)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir(bucket)
        yield proxy
    proxy.close()


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for first in random.sample(range(20000, 30000, 10), 1000):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


class Proxy:
    """An HTTP proxy that does to the n-th mutating request (PUT, POST, DELETE; from 0) what `fault(n)` says.

    To the n-th listing it does what `listing_fault(n)` says, where `page` is set with so many names a page.

    "before": cut the connection, do not forward; "lost": forward, cut without a reply; "after": forward and
    reply. "body": forward half of the body, then cut both; "late": keep it, cut, and `land` forwards it
    later. Each of the five calls `on_fault` at its moment. "503", "409": answer so, do not forward; "412
    after": forward, answer 412 if there was a condition; "slow": wait a second.

    To the n-th request of any kind it does what `strike(n)` says. "500", "503", "403" and codes of errors
    such as "ExpiredToken": answer so; "reset": cut the connection; "cut": answer with half of the body;
    "short": the same, with the length of that half; "never": do not answer until the proxy is closed.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.fault: Callable[[int], str] = lambda n: ""
        self.on_fault: Callable[[], None] = lambda: None
        self.listing_fault: Callable[[int], str] = lambda n: ""
        self.page: int | None = None
        self.strike: Callable[[int], str] = lambda n: ""
        self.requests: list[str] = []
        self._closed = threading.Event()
        self.mutations: list[str] = []
        self.listings = 0
        self._late: list[tuple[BaseHTTPRequestHandler, bytes]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                proxy._handle(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(
        self, fault: Callable[[int], str] = lambda n: "", on_fault: Callable[[], None] = lambda: None
    ) -> None:
        """Begin to count anew."""
        with self._lock:
            self.fault, self.on_fault, self.mutations = fault, on_fault, []
            self.listing_fault, self.page, self.listings = (lambda n: ""), None, 0
            self.strike, self.requests = (lambda n: ""), []

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests.append(f"{request.command} {request.path}")
            strike = self.strike(len(self.requests) - 1)
        if strike:
            return self._struck(request, strike)
        action = ""
        if request.command in ("PUT", "POST", "DELETE"):
            with self._lock:
                action = self.fault(len(self.mutations))
                self.mutations.append(request.path)
        elif "list-type=2" in request.path:
            action = self.listing_fault(self.listings)
            self.listings += 1
            request.path += f"&max-keys={self.page}" if self.page else ""
        body = self._body(request)
        if action == "slow":
            time.sleep(1.0)
        if action in ("503", "409"):
            return self._answer(request, int(action), {"Content-Type": "application/xml"}, _error(action))
        if action in ("before", "body", "late"):
            if action == "body":
                self._forward_half(request, body)
            elif action == "late":
                self._late.append((request, body))
            self.on_fault()
            return self._cut(request)
        status, headers, content = self._forward(request, body)
        if action == "lost":
            self.on_fault()
            return self._cut(request)
        if action == "412 after" and request.headers.get("If-None-Match"):
            return self._answer(request, 412, {"Content-Type": "application/xml"}, _error("412"))
        self._answer(request, status, headers, content)
        if action == "after":
            request.wfile.flush()
            self.on_fault()

    def _struck(self, request: BaseHTTPRequestHandler, strike: str) -> None:
        body = self._body(request)
        if strike == "never":
            self._closed.wait()
        if strike in ("never", "reset"):
            return self._cut(request)
        if strike not in ("cut", "short"):
            status = int(strike) if strike.isdigit() else _STATUS_OF[strike]
            return self._answer(request, status, {"Content-Type": "application/xml"}, _error(strike))
        status, headers, content = self._forward(request, body)
        half = content[: len(content) // 2]
        if strike == "short" or not content:
            return self._answer(request, status, headers, half)
        headers["Content-Length"] = str(len(content))
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(half)
        self._cut(request)

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Expect", "").lower() == "100-continue":
            request.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length", 0)))
        body = b""
        while size := int(request.rfile.readline().split(b";")[0], 16):
            body += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
        return body

    def land(self) -> list[int]:
        """Forward what was kept as late; the answers that nobody waits for."""
        late, self._late = self._late, []
        return [self._forward(request, body)[0] for request, body in late]

    def _forward_half(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        upstream = socket.create_connection(self.upstream.split(":"))  # type: ignore[arg-type]
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in ("expect", "transfer-encoding")
        }
        head = "".join(f"{k}: {v}\r\n" for k, v in {**headers, "Content-Length": str(len(body))}.items())
        upstream.sendall(
            f"{request.command} {request.path} HTTP/1.1\r\n{head}\r\n".encode() + body[: len(body) // 2]
        )
        upstream.close()

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.upstream, timeout=HANG_S)
        headers = {
            k: v
            for k, v in request.headers.items()
            if k.lower() not in ("expect", "transfer-encoding", "connection")
        }
        upstream.request(
            request.command, request.path, body=body, headers={**headers, "Content-Length": str(len(body))}
        )
        reply = upstream.getresponse()
        content = reply.read()
        found = {
            k: v
            for k, v in reply.getheaders()
            if k.lower() not in ("transfer-encoding", "connection", "content-length")
        }
        if request.command == "HEAD":
            found["Content-Length"] = reply.getheader("Content-Length", "0")
        upstream.close()
        return reply.status, found, content

    @staticmethod
    def _answer(
        request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if request.command != "HEAD" and status not in (204, 304):
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    @staticmethod
    def _cut(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)


# The codes of errors by their status, and the statuses of other codes.
_CODES = {
    "500": "InternalError",
    "503": "SlowDown",
    "403": "AccessDenied",
    "409": "ConditionalRequestConflict",
    "412": "PreconditionFailed",
}
_STATUS_OF = {"RequestTimeTooSkewed": 403, "ExpiredToken": 400}


def _error(status: str) -> bytes:
    code = _CODES.get(status, status)
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
