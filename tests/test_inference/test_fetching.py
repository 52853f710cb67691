"""Servers that do anything, and what is fetched from them."""

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time

import pytest

from synthcap_mm.inference import fetching
from synthcap_mm.inference.fetching import fetch

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b"\x89PNG and more"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture()
def serve():
    """Starts servers: each connection is given to a function of socket and request; returns the address."""
    with contextlib.ExitStack() as stack:

        def start(answer):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            stack.callback(listening.shutdown, socket.SHUT_RDWR)  # ends the thread

            def accept():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listening.accept()
                        threading.Thread(target=speak, args=(connection,), daemon=True).start()

            def speak(connection):
                with connection, contextlib.suppress(OSError):
                    request = connection.recv(65536)
                    if request:  # else it was closed at once
                        answer(connection, request)

            threading.Thread(target=accept, daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


def says(content):
    return lambda connection, request: connection.sendall(content)


def paths_of(requests):
    return [request.split(b" ")[1].decode() for request in requests]


def recording(requests, content=OK + b"\r\n" + BODY):
    def answer(connection, request):
        requests.append(request)
        connection.sendall(content)

    return answer


def slowly(start, byte=b"1"):
    """A beginning, and then a byte at a time without an end."""

    def answer(connection, request):
        connection.sendall(start)
        while True:
            connection.sendall(byte)
            time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"\r\n" + BODY,
        OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + b"and what does not belong to it",
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"\r\n" + BODY,
    ],
)
def test_the_content_of_an_answer(serve, answer):
    assert fetch(serve(says(answer)) + "/a.png") == BODY


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff\xfe",
        b"HTTP/1.1 OK OK\r\n\r\n",
        b"HTTP/1.1 200000 OK\r\n\r\n",
        b"HTTP/1.1 404 \x1b[2JNot Found\r\n\r\n",
        b"HTTP/1.1 204" + b"9" * 70_000,
        OK + b"X: " + b"long" * 20_000 + b"\r\n\r\n",
        OK + b"X: y\r\n" * 200 + b"\r\n",
        OK + b"Content-Length: 1000\r\n\r\nshort",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nno chunk",
        OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nshort",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 70_000,
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/a\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1/a\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://a b\xff:99999/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
    ],
)
def test_a_wrong_answer_is_an_error_of_its_address(serve, answer):
    url = serve(says(answer)) + "/a.png"
    with pytest.raises(ValueError, match=re.escape(url)) as caught:
        fetch(url, allow_private_redirects=True)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.jpg",
        "http://127.0.0.1:no/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        "http://127.0.0.1:1/a.jpg",
        "http://[::1/a.jpg",
        "http://a b/c.jpg",
        "http://a\x00b/c.jpg",
        "http://" + "ü" * 300 + "/a.jpg",
        "http://ü\udcff/a.jpg",
    ],
)
def test_an_address_that_is_none_is_an_error(url):
    with pytest.raises(ValueError, match="cannot fetch"):
        fetch(url)


def test_addresses_are_encoded_as_browsers_do(serve):
    requests = []
    url = serve(recording(requests))
    for path in ("/a b.png", "/ñ/\udcff\x01", "/100%25 %2F.png?q=ü r&s=[1]#part", "", "?q"):
        assert fetch(url + path) == BODY
    assert paths_of(requests) == [
        "/a%20b.png",
        "/%C3%B1/%FF%01",
        "/100%25%20%2F.png?q=%C3%BC%20r&s=[1]",
        "/",
        "/?q",
    ]
    assert all(b"Accept-Encoding: identity\r\n" in request for request in requests)  # no bombs


def test_a_host_of_other_letters(serve, monkeypatch):
    requests, hosts = [], []
    port = serve(recording(requests)).rpartition(":")[2]
    connect = socket.create_connection

    def here(address, *arguments):
        hosts.append(address[0])
        return connect(("127.0.0.1", address[1]), *arguments)

    monkeypatch.setattr(socket, "create_connection", here)
    assert fetch(f"http://Bücher.example:{port}/a") == BODY
    assert hosts == ["xn--bcher-kva.example"] and f"Host: xn--bcher-kva.example:{port}".encode() in requests[0]


def test_too_much_is_refused_and_not_kept(serve, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_DOWNLOAD", len(BODY))
    assert fetch(serve(says(OK + b"\r\n" + BODY))) == BODY
    monkeypatch.setattr(fetching, "MAX_DOWNLOAD", len(BODY) - 1)
    with pytest.raises(ValueError, match="MB"):
        fetch(serve(says(OK + b"\r\n" + BODY)))
    endless = slowly(OK + b"\r\n", b"x" * 65536)
    with pytest.raises(ValueError, match="MB"):
        fetch(serve(endless))


def slow_redirect(connection, request):
    time.sleep(0.1)
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n")


def no_answer(connection, request):
    connection.recv(1)


@pytest.mark.parametrize(
    "answer",
    [
        no_answer,
        slowly(b"HTTP/1.1 2"),
        slowly(OK + b"X: "),
        slowly(OK, b"X: y\r\n"),
        slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        slowly(OK + b"\r\n"),
        slowly(OK + b"Content-Length: 100000\r\n\r\n"),
        slowly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        slowly(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        slowly(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        slow_redirect,
    ],
)
def test_the_deadline_holds_whatever_is_slow(serve, answer, monkeypatch):
    monkeypatch.setattr(fetching, "DEADLINE", 0.3)
    url = serve(answer)
    with pytest.raises(ValueError, match=f"{url}.*0 s"):
        fetch(url, allow_private_redirects=True)
    _until(lambda: not _fetching(), "the thread ends, since its socket is shut down")


def _fetching():
    return [one for one in threading.enumerate() if one.name == "synthcap fetch"]


def _until(true, what):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_the_deadline_holds_in_a_handshake(serve, monkeypatch):
    monkeypatch.setattr(fetching, "DEADLINE", 0.3)
    url = serve(slowly(b"\x16\x03\x03\x40\x00\x02")).replace("http", "https")
    with pytest.raises(ValueError, match="0 s"):
        fetch(url)
    _until(lambda: not _fetching(), "the thread ends")


def test_the_deadline_holds_while_a_name_is_looked_up(monkeypatch):
    monkeypatch.setattr(fetching, "DEADLINE", 0.1)
    let_go = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: let_go.wait(20) and [])
    with pytest.raises(ValueError, match="0 s"):
        fetch("http://somewhere.example/a.jpg")
    assert _fetching()
    let_go.set()
    _until(lambda: not _fetching(), "the thread ends")


def test_a_certificate_is_checked(serve):
    url = serve(says(b"no handshake")).replace("http", "https")
    with pytest.raises(ValueError, match="SSL") as caught:
        fetch(url)
    assert isinstance(caught.value.__cause__.reason, ssl.SSLError)


def redirecting(target):
    return says(b"HTTP/1.1 302 Found\r\nLocation: " + target.encode() + b"\r\nContent-Length: 999999999\r\n\r\n")


def test_redirects_to_private_addresses_are_followed_if_asked_for(serve):
    requests = []
    inner = serve(recording(requests))
    outer = serve(redirecting(inner + "/caf\u00e9 1.png"))
    with pytest.raises(ValueError, match="allow_private_redirects"):
        fetch(outer)
    assert requests == []  # not a byte was sent
    assert fetch(outer, allow_private_redirects=True) == BODY
    assert paths_of(requests) == ["/caf%C3%A9%201.png"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "fe80::1%1", "::ffff:10.0.0.1"]
)
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(serve, host, monkeypatch):
    requests, reached = [], []
    port = serve(recording(requests)).rpartition(":")[2]
    outer = serve(redirecting(f"http://innocent.example:{port}/"))
    look_up, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(name, *args, **kwargs):
        if name != "innocent.example":
            return look_up(name, *args, **kwargs)
        family = socket.AF_INET6 if ":" in found else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (found, int(port)))]

    def create_connection(address, *arguments):
        reached.append(address[0])
        return connect(("127.0.0.1", address[1]), *arguments)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    found = host
    with pytest.raises(ValueError, match="allow_private_redirects"):
        fetch(outer)
    assert requests == [] and reached == ["127.0.0.1"]  # of the first server alone
    found = "93.184.215.14"
    assert ipaddress.ip_address(found).is_global and fetch(outer) == BODY and reached[-1] == found


def test_redirects_come_to_an_end(serve):
    requests = []
    url = serve(recording(requests, b"HTTP/1.1 301 Moved\r\nLocation: /again\r\n\r\n"))
    with pytest.raises(ValueError, match="redirects"):
        fetch(url, allow_private_redirects=True)
    assert len(requests) == 1 + fetching.MAX_REDIRECTS


def test_a_proxy_is_asked_for_public_addresses_only(serve, monkeypatch):
    requests = []

    def proxy(connection, request):
        requests.append(request)
        to = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/b\r\n\r\n"
        connection.sendall(to if b"typed.example" in request else OK + b"\r\n" + BODY)

    monkeypatch.setenv("http_proxy", serve(proxy))
    real, found = socket.getaddrinfo, []

    def look_up(host, *arguments, **options):
        if not host.endswith(".example"):
            return real(host, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    found[:] = ["93.184.215.14", "10.0.0.1"]
    with pytest.raises(ValueError, match="allow_private_redirects"):
        fetch("http://typed.example/a")
    assert paths_of(requests) == ["http://typed.example/a"]
    found.pop()
    assert fetch("http://typed.example/a") == BODY
    assert paths_of(requests)[1:] == ["http://typed.example/a", "http://elsewhere.example/b"]
