"""The content of an address, whatever its server does."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import http.client
import io
import ipaddress
import socket
import string
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

#: Most bytes that are fetched from an address.
MAX_DOWNLOAD = 100_000_000
#: Seconds in which an address is fetched, from the look-up of its host to the last byte, redirects included.
DEADLINE = 30.0
#: Most redirects of an address, as browsers allow about 20.
MAX_REDIRECTS = 10

_REDIRECTS = (301, 302, 303, 307, 308)
#: Characters that stay as they are in paths and queries, as in browsers; "%" too, since it begins what is encoded.
_KEPT = "".join(set(string.punctuation) - set('"#<>\\`{}'))


def fetch(url: str, allow_private_redirects: bool = False) -> bytes:
    """The content of an address, fetched in a thread that is abandoned at the deadline.

    Spaces and letters outside ASCII are encoded as browsers do. Proxies are those of the environment.

    Args:
        url: http or https.
        allow_private_redirects: follow redirects to this machine and to private networks too. Default ``False``: a
            stranger's server must not choose what is asked there. The address itself may lie there.

    Raises:
        ValueError: if it cannot be fetched within :data:`DEADLINE` seconds, or has more than :data:`MAX_DOWNLOAD`
            bytes; the message names the address.
    """
    deadline, sockets = time.monotonic() + DEADLINE, []
    content: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def connected(connection: socket.socket) -> None:
        sockets.append(connection.dup())  # TLS takes the socket itself away
        if time.monotonic() >= deadline:
            raise TimeoutError

    def download() -> None:
        try:
            content.set_result(_download(url, allow_private_redirects, connected))
        except Exception as error:  # a stranger's answer makes http.client raise errors of many kinds
            content.set_exception(error.with_traceback(None))  # whose frames hold what has come

    threading.Thread(target=download, name="synthcap fetch", daemon=True).start()
    try:
        return content.result(DEADLINE)
    except (TimeoutError, concurrent.futures.TimeoutError):  # two classes in Python 3.10
        raise ValueError(f"cannot fetch {url}: it takes more than {DEADLINE:.0f} s") from None
    except Exception as error:
        raise ValueError(f"cannot fetch {url}: {_short(error)}") from error
    finally:
        for one in sockets:
            with contextlib.suppress(OSError):  # closed by the server
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _short(error: Exception) -> str:
    """An error's text, in which a server may have put anything."""
    text = ascii(str(error) or type(error).__name__)[1:-1]
    return text if len(text) <= 200 else text[:200] + " …"


def _download(url: str, allow_private_redirects: bool, connected: Callable[[socket.socket], None]) -> bytes:
    address = _encoded(url)
    for number in range(1 + MAX_REDIRECTS):
        guarded = number > 0 and not allow_private_redirects
        with _open(address, guarded, connected) as answer:
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or target is None:
                return _content(answer)
        # Headers are read as Latin-1, whatever bytes they are.
        address = _encoded(urljoin(address, quote(target, safe=string.punctuation, encoding="latin-1")))
    raise ValueError(f"more than {MAX_REDIRECTS} redirects")


def _encoded(url: str) -> str:
    """An address as it is sent: ASCII, without its fragment."""
    parts = urlsplit(url.strip())
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url} is no address of http or https")
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode()
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None:
        host += f":{parts.port}"
    path, query = (quote(part, safe=_KEPT, errors="surrogateescape") for part in (parts.path or "/", parts.query))
    return urlunsplit((parts.scheme, host, path, query, ""))


def _open(address: str, guarded: bool, connected: Callable[[socket.socket], None]) -> http.client.HTTPResponse:
    """The answer of a server, whatever its status is; from a ``guarded`` address only if it is a public one."""
    parts = urlsplit(address)
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == parts.scheme}
    proxied = bool(proxies) and not urllib.request.proxy_bypass(parts.netloc)
    public = _public_addresses(parts.hostname, parts.port) if guarded else []

    def create(target: tuple[str, int], *arguments: Any) -> socket.socket:
        if guarded and not proxied:  # what was looked at, not what a second look-up would give
            target = (public[0], target[1])
        connection = socket.create_connection(target, *arguments)
        try:
            connected(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    opener = urllib.request.OpenerDirector()
    # Not those of build_opener(), which follow redirects, read their bodies to the end, and know file: and ftp:.
    for handler in (urllib.request.ProxyHandler(proxies), _Connections(create)):
        opener.add_handler(handler)
    request = urllib.request.Request(address, headers={"User-Agent": "synthcap_mm"})
    return opener.open(request, timeout=DEADLINE)


class _Connections(urllib.request.HTTPSHandler):
    """http and https over sockets that ``create`` makes; it takes address, timeout and source."""

    def __init__(self, create: Callable[..., socket.socket]) -> None:
        super().__init__()
        self._create = create

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connection, http.client.HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connection, http.client.HTTPSConnection), request)

    http_request = urllib.request.HTTPSHandler.https_request

    def _connection(self, kind: type[http.client.HTTPConnection], *args: Any, **kwargs: Any) -> Any:
        connection = kind(*args, **kwargs)
        connection._create_connection = self._create  # where http.client makes its socket, before TLS and any request
        return connection


def _public_addresses(host: str, port: int | None) -> list[str]:
    """The addresses of a host, IPv4 first, since not every machine has IPv6.

    Raises:
        ValueError: if one of them is not public.
    """
    found = sorted(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), key=lambda one: one[0] != socket.AF_INET)
    for *_, place in found:
        address = ipaddress.ip_address(place[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if not address.is_global:
            raise ValueError(f"it redirects to {address}, an address that is not public (allow_private_redirects)")
    return [place[0] for *_, place in found]


def _content(answer: http.client.HTTPResponse) -> bytes:
    if not 200 <= answer.status < 300:
        raise ValueError(f"the server answers with status {answer.status}")
    content = io.BytesIO()
    while block := answer.read(1 << 16):  # http.client keeps the chunks of one call apart, and they may be of one byte
        content.write(block)
        if content.tell() > MAX_DOWNLOAD:
            raise ValueError(f"it has more than {MAX_DOWNLOAD // 10**6} MB")
    if answer.length:  # what Content-Length promised beyond what came
        raise ValueError(f"the answer breaks off after {content.tell()} bytes")
    return content.getvalue()
