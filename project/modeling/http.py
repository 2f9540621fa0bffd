"""Calls to addresses that people gave us, without letting them reach what only this host can reach (SSRF). Pure.

A name is resolved once, each of its addresses is judged, and the connection goes to a judged address: a name that
answers differently the next time (DNS rebinding) gains nothing. Redirects pass the same way. Private, loopback,
link-local, multicast and metadata addresses are refused unless the operator allows the host, the host with its port, or
the network. Proxies of the environment are not used: they would resolve the name again.
"""

import ipaddress
import json
import queue
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CONNECT_SECONDS = 10.0
LOOKUPS = 16  # names that a process looks up at a time
MOST_BYTES = 16 * 1024**2  # of an answer, unpacked
MOST_REDIRECTS = 3
LONGEST_URL = 500

# What `ipaddress` calls global and is not: cloud hosts answer there with their own credentials.
_METADATA = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "100.64.0.0/10", "fd00:ec2::/32")))
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # NAT64 (RFC 6052): the last four bytes are an IPv4 address
_deadline: ContextVar[float] = ContextVar("deadline")
_lookups = threading.BoundedSemaphore(LOOKUPS)


class OutgoingError(Exception):
    """A call that got no answer. The message says why and what to do; `refused` when it was not even tried."""

    refused = False


class Refused(OutgoingError):
    """An address that may not be called."""

    refused = True


@dataclass(frozen=True)
class AllowList:
    """What the operator lets through besides public addresses (`OUTGOING_ALLOW`)."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, words: Iterable[str]) -> "AllowList":
        """'gpu-box', 'gpu-box:8000', '10.1.2.3', '[::1]:8000', '10.0.0.0/8'. Raises ValueError naming the word."""
        hosts: set[str] = set()
        networks: list[Network] = []
        for word in words:
            if "/" in word:
                try:
                    networks.append(ipaddress.ip_network(word))
                except ValueError:
                    raise ValueError(f"'{word}' is no network; write one like 10.0.0.0/8") from None
            else:
                hosts.add(_allowed_host(word))
        return cls(frozenset(hosts), tuple(networks))

    def names(self, host: str, port: int) -> bool:
        """Is this host let through whatever its addresses are?"""
        host = _plain(host)
        return bool(self.hosts & {host, f"{host}:{port}", f"[{host}]:{port}"})

    def permits(self, address: Address) -> bool:
        address = _embedded(address)
        known = any(address.version == network.version and address in network for network in self.networks)
        return known or is_public(address)


def _allowed_host(word: str) -> str:
    if ":" not in word or (word.count(":") > 1 and not word.startswith("[")):
        return _plain(word)
    parts = urlsplit(f"//{word}")
    try:
        if not parts.hostname or parts.path or parts.username is not None:
            raise ValueError
        host, port = _plain(parts.hostname), parts.port
    except ValueError:
        raise ValueError(f"'{word}' is neither a host, nor host:port, nor a network") from None
    host = f"[{host}]" if ":" in host else host
    return host.strip("[]") if port is None else f"{host}:{port}"


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def is_public(address: Address) -> bool:
    """May anybody on the Internet be at this address? False for private, local, reserved and multicast ones."""
    address = _embedded(address)
    if any(address.version == network.version and address in network for network in _METADATA):
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local
    )


def _embedded(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that routers or kernels translate; else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo[1] if address.teredo else None
        inner = address.ipv4_mapped or address.sixtofour or teredo
        if inner is None and address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


# --- what people may write


@dataclass(frozen=True)
class Target:
    """A URL that was read: `host` without brackets, the port it means, its origin as in 'https://host:port'."""

    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" if usual else f"{self.scheme}://{host}:{self.port}"


def read_url(url: str, allowed: AllowList) -> Target:
    """Check what can be checked without a network. Raises Refused in words for a form."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise Refused("This is no address. Write one that begins with https:// or http://.") from None
    try:
        port = parts.port
    except ValueError:
        raise Refused("The port is no number from 1 to 65535.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Refused("Write an address that begins with https:// or http://.")
    if parts.username is not None or parts.password is not None:
        raise Refused("Leave user name and password out of the address; give a token instead.")
    if len(url) > LONGEST_URL or not url.isprintable() or " " in url:
        raise Refused(f"Use at most {LONGEST_URL} characters, without blanks.")
    target = Target(parts.scheme, _plain(host), port or {"http": 80, "https": 443}[parts.scheme])
    if not allowed.names(target.host, target.port):
        try:
            address = ipaddress.ip_address(target.host)
        except ValueError:
            if target.host == "localhost" or target.host.endswith(".localhost"):
                raise _forbidden(target.host) from None
        else:
            if not allowed.permits(address):
                raise _forbidden(target.host)
    return target


def addresses_of(host: str, port: int, allowed: AllowList, *, seconds: float = CONNECT_SECONDS) -> list[Address]:
    """Where `host` is, all of them judged: one forbidden address among public ones is a trick.

    Raises OutgoingError, also when the name is not looked up within `seconds`.
    """
    try:
        found = _look_up(host, port, seconds)
    except (socket.gaierror, UnicodeError):
        raise OutgoingError(f"There is no host '{host}', or its name can't be looked up from here.") from None
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(place[4][0]).partition("%")[0]) for place in found))
    if not allowed.names(host, port) and not all(map(allowed.permits, addresses)):
        raise _forbidden(host)
    return addresses


def _look_up(host: str, port: int, seconds: float) -> list[Any]:
    """What `getaddrinfo` finds. It has no time limit and can't be interrupted, so it has a thread of its own.

    A thread whose name server never answers goes on until the system gives up. There are at most `LOOKUPS` of them;
    who comes when all hang waits for one to end, no longer than `seconds` in all.
    """
    until, places = time.monotonic() + seconds, _lookups
    if not places.acquire(timeout=seconds):
        raise OutgoingError(f"'{host}' can't be looked up: the name server of this host leaves others waiting too.")
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # raised where it is waited for
            answer.put(error)
        finally:
            places.release()

    try:
        threading.Thread(target=ask, name=f"look-up-{host[:40]}", daemon=True).start()
    except BaseException:
        places.release()
        raise
    try:
        found = answer.get(timeout=max(until - time.monotonic(), 0.001))
    except queue.Empty:
        raise OutgoingError(
            f"'{host}' was not looked up within {seconds:.3g} seconds: the name server does not answer. Try again."
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _forbidden(host: str) -> Refused:
    return Refused(
        f"'{host}' is inside a private network or on this host, which may not be called. "
        "If it is meant to be, the operator adds it to OUTGOING_ALLOW."
    )


# --- the connection


class _Checked(httpcore.NetworkBackend):
    """Connects to judged addresses only."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed, self._inner = allowed, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        failure: Exception | None = None
        for address in addresses_of(host, port, self._allowed, seconds=_left(timeout)):
            try:
                return _Stream(self._inner.connect_tcp(str(address), port, _left(timeout), None, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"'{host}' has no address")

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        raise Refused("A socket of this host may not be called.")

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection on which the whole call has one deadline: a server that drips byte by byte reaches it too."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(timeout: float | None) -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the call's time is up")
    return left if timeout is None else min(timeout, left)


class _Transport(httpx.BaseTransport):
    def __init__(self, allowed: AllowList) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),  # SSL_CERT_FILE names the authorities of a network of one's own
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=15.0,
            network_backend=_Checked(allowed),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
            )
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


# --- the client


@dataclass(frozen=True)
class Answer:
    """What came back. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises OutgoingError for anything else."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            kind = self.headers.get("content-type", "") or "something"
            raise OutgoingError(f"The server answered {kind} instead of JSON.") from None


class Outgoing:
    """A client for addresses that people gave us; several threads may share one. Close it, or use it in a `with`.

    An answer of more than `most_bytes` is given up. The token of a call does not follow a redirect to another host.
    """

    def __init__(self, allowed: AllowList | None = None, *, most_bytes: int = MOST_BYTES) -> None:
        self.allowed = allowed or AllowList()
        self._most_bytes = most_bytes
        self._client = httpx.Client(
            transport=_Transport(self.allowed), follow_redirects=True, max_redirects=MOST_REDIRECTS, trust_env=False
        )

    def __enter__(self) -> "Outgoing":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def call(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, json: Any = None, seconds: float
    ) -> Answer:
        """The answer, whatever its status, within `seconds` for everything. Raises OutgoingError."""
        target = read_url(url, self.allowed)
        token = _deadline.set(time.monotonic() + seconds)
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        try:
            given = {**(headers or {}), "Accept-Encoding": "identity"}
            with self._client.stream(method, url, headers=given, json=json, timeout=timeout) as answer:
                return Answer(answer.status_code, dict(answer.headers), self._body(answer))
        except OutgoingError:
            raise
        except (httpx.TimeoutException, httpcore.TimeoutException) as error:
            raise OutgoingError(f"{target.origin} gave no whole answer within {seconds:g} seconds.") from error
        except httpx.TooManyRedirects as error:
            raise OutgoingError(f"{target.origin} redirects more than {MOST_REDIRECTS} times.") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpcore.UnsupportedProtocol) as error:
            raise OutgoingError(f"{target.origin} could not be called: {_words(error)}.") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise OutgoingError(f"{target.origin} could not be reached: {_words(error)}.") from error
        finally:
            _deadline.reset(token)

    def _body(self, answer: httpx.Response) -> bytes:
        """As it was sent: a packed answer, which nobody asked for, may unpack to more than any memory holds."""
        if answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise OutgoingError("The answer is packed, although it was asked for plainly.")
        body = bytearray()
        for piece in answer.iter_raw():
            body += piece
            if len(body) > self._most_bytes:
                raise OutgoingError(f"The answer has more than {self._most_bytes:,} bytes.")
        return bytes(body)


def _words(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
