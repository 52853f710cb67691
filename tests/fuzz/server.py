"""Answers of a server, and addresses."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .making import photo
from .mutations import damaged, hostile_texts
from .running import Change, Kind


class Answers(Kind):
    name = "http"
    seconds = 5
    may_resolve = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        stream = io.BytesIO()
        photo().save(stream, "PNG")
        self.body = stream.getvalue()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(self.body)}\r\n\r\n"
        self.answer = head.encode() + self.body
        self.url, self.pieces = "", lambda: iter([self.answer])
        (folder / "good_").mkdir()

    def lay(self, case: Path, rng: random.Random | None = None) -> Path:
        folder = super().lay(case, rng)
        _shorten()
        server = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = server.getsockname()[1]
        self.ports, self.url = {self.port}, f"http://127.0.0.1:{self.port}/photo.png"
        threading.Thread(target=_serve, args=(server, lambda: self.pieces()), daemon=True).start()
        return folder

    def change(self, case: Path, rng: random.Random) -> Change:
        self.lay(case, rng)
        kind = rng.choice(("bytes", "bytes", "status", "header", "length", "chunks", "redirect", "redirect", "slow", "address",
                           "address", "body", "endless"))  # fmt: skip
        what, told = getattr(self, f"_{kind}")(case, rng)
        return Change(f"{kind}: {what}", told)

    def _says(self, head: bytes, body: bytes | None = None) -> None:
        answer = head + b"\r\n\r\n" + (self.body if body is None else body)
        self.pieces = lambda: iter([answer])

    # ---- what the server says: each returns what it is, and whether only the photo may come of it
    def _bytes(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        what, answer = damaged(self.answer, rng)
        self.pieces = lambda: iter([answer])
        return what, True  # the photo has checksums of its own

    def _status(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        line = rng.choice((b"", b"HTTP/1.1", b"HTTP/1.1 abc OK", b"HTTP/1.1 99999 OK", b"HTTP/1.1 -200 OK", b"HTTP/9.9 200 OK",
                           b"ICY 200 OK", b"200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 206 Part", b"HTTP/1.1 304 Not",
                           b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic", b"HTTP/1.1 404 " + b"x" * 100_000, b"\xff\xfe\0",
                           b"HTTP/1.1 500 \xff", b"HTTP/1.1 407 x", b"HTTP/1.1 100 Continue", b"HTTP/1.0 200"))  # fmt: skip
        self._says(line)
        return repr(line[:40]), True

    def _header(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        header = rng.choice((b"X: " + b"y" * 100_000, b"\r\n".join(b"X%d: y" % n for n in range(2000)), b"no colon", b": x",
                             b"X: \0", b"X: \xff\xff", b" folded", b"Content-Encoding: gzip", b"Content-Type: " + b"\xff" * 9,
                             b"Connection: upgrade", b"Transfer-Encoding: chunked, chunked", b"Set-Cookie: " + b"a=b;" * 9999,
                             b"Content-Type: text/html; charset=" + b"x" * 999))  # fmt: skip
        self._says(b"HTTP/1.1 200 OK\r\n" + header)
        return repr(header[:40]), True

    def _length(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        number = rng.choice((b"-1", b"0", b"10", b"1e3", b"nan", b"0x10", b"9" * 5000, b"9" * 30, b"99999999999", b"", b"5, 7",
                             str(len(self.body) + 1).encode(), str(len(self.body) - 1).encode()))  # fmt: skip
        self._says(b"HTTP/1.1 200 OK\r\nContent-Length: " + number)
        return number[:40].decode(), True

    def _chunks(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        size = rng.choice(
            (b"%x", b"%x;x=y", b"-%x", b"zz", b"", b"f" * 20, b"f" * 5000, b"0x%x", b" %x ", b"%x" + b"0" * 5)
        )
        size = size % len(self.body) if b"%x" in size else size
        end = rng.choice(
            (b"\r\n0\r\n\r\n", b"", b"\r\n0", b"\r\n", b"0\r\n\r\n", b"\r\nzz\r\n", b"\r\n0\r\nX: y\r\n\r\n")
        )
        self._says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", size + b"\r\n" + self.body + end)
        return f"{size[:20]!r} … {end!r}", True

    def _redirect(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        here = f"http://127.0.0.1:{self.port}"
        target = rng.choice((f"file://{case}/victim/secret.txt", "file:///etc/passwd", "ftp://127.0.0.1:9/x", "data:image/png,x",
                             "http://10.0.0.1/x", "http://169.254.169.254/latest", "http://[::1]:9/x", "http://127.0.0.2:9/x",
                             "http://0.0.0.0:9/", "http://2130706433:9/", "http://192.168.0.1/", "https://127.0.0.3:9/x",
                             f"{here}/photo.png", "/photo.png", "", "//[", "http://", "http://a b/", "\\\\x", "javascript:1",
                             f"{here}/a b.png", f"{here}/ü.png", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "x" * 70_000,
                             f"http://127.0.0.1:{self.port}@10.0.0.1/"))  # fmt: skip
        status = rng.choice((301, 302, 303, 307, 308, 300))
        again = rng.random() < 0.3
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode("utf-8", "replace")
        answers = itertools.chain([head], itertools.repeat(head if again else self.answer))
        self.pieces = lambda: iter([next(answers)])
        return f"{status} to {target[:60]}{', always' if again else ''}", True

    def _slow(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        begin, wait = rng.choice((0, 10, 40, 200)), rng.choice((0.1, 0.5, 1.5, 60))

        def pieces() -> Iterator[bytes]:
            yield self.answer[:begin]
            for byte in self.answer[begin:]:
                time.sleep(wait)
                yield bytes([byte])

        self.pieces = pieces
        return f"a byte in {wait} s after {begin}", True

    def _endless(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        begin, piece = rng.choice(((b"", b"x" * 4096), (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 500), (b"", b"HTTP/1.1 100 C\r\n\r\n"),
                                   (b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 65536), (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
                                   (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 5000),
                                   (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 500)))  # fmt: skip

        def pieces() -> Iterator[bytes]:
            yield begin
            while True:
                yield piece

        self.pieces = pieces
        return f"{begin[-30:]!r} {piece[:20]!r}", True

    def _body(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        what, body = damaged(self.body, rng)
        self._says(b"HTTP/1.1 200 OK\r\nContent-Length: %d" % len(body), body)
        return what, "append" not in what

    def _address(self, case: Path, rng: random.Random) -> tuple[str, bool]:
        here = f"http://127.0.0.1:{self.port}"
        text = rng.choice(hostile_texts(case))
        self.url = rng.choice((f"{here}/a b.png", f"{here}/\r\nX: y", f"{here}/ü☃.png", f"{here}/\0", f"{here}/{text}",
                               f"{here}/%zz", f"{here}/{'x' * 100_000}", "http://", "http://[", "http:///x", "http://127.0.0.1:99999/",
                               "http://127.0.0.1:-1/", "http://127.0.0.1:x/", "https://127.0.0.1:x/", "http://a b/",
                               f"http://u:p@127.0.0.1:{self.port}/x.png", f"HTTP://127.0.0.1:{self.port}/x.png", f"{here}#x",
                               f"{here}?{text}", "http://\ud800/", "http://xn--/", "http://" + "a" * 300 + "/", "http://.../",
                               "https://[::1", "http://127.0.0.1\\@x/"))  # fmt: skip
        self.ports = {*range(1 << 16)}  # whoever asks for an address of this machine gets it
        self.url = self.url.replace("%", "%%") if rng.random() < 0.1 else self.url
        return ascii(self.url[:80]), True

    # ---- the client
    def use(self, folder: Path) -> Any:
        from synthcap_mm.inference.inputs import PhotoInput, load_input

        image = load_input(PhotoInput(self.url, self.url))
        return [image.size, hashlib.sha256(image.tobytes()).hexdigest()]

    def refuses(self, error: BaseException) -> bool:
        """The inferencer reports these beside the address, and goes on with the others."""
        from synthcap_mm.errors import UserError

        return isinstance(error, (ValueError, OSError, UserError))


def _shorten() -> None:
    """Make the package wait a second and take a megabyte at most, and look up no name anywhere."""
    from synthcap_mm.inference import fetching

    look_up = socket.getaddrinfo

    def numbers_only(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if str(host) not in ("127.0.0.1", "localhost"):
            args, options = (), {**options, "flags": socket.AI_NUMERICHOST}
        return look_up(host, port, *args, **options)

    socket.getaddrinfo = numbers_only
    fetching.DEADLINE, fetching.MAX_DOWNLOAD = 1, 1_000_000


def _serve(server: socket.socket, pieces: Callable[[], Iterator[bytes]]) -> None:
    def answer(client: socket.socket) -> None:
        try:
            with client:
                client.recv(65_536)
                for piece in pieces():
                    client.sendall(piece)
        except OSError:
            pass

    while True:
        threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
