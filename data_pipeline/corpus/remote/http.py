"""Files over http(s), by the standard library.

webdataset would run `curl` without a timeout for a stalled transfer, without ranges, and without the status. urllib3
would save 16 lines, but it ignores the proxies of the environment, and its Retry does not see bytes that arrived.
"""

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit

from foretrain.data_pipeline.corpus.remote.transport import CHUNK_BYTES, Body, FetchError, Transport, silence

RETRIED_STATUS = {408, 416, 425, 429}
"""Retried besides 5xx: timeout, range beyond the end of the file, too early, too many requests."""


class HttpTransport(Transport):
    """A folder of a web server."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s

    def url_of(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{urllib.parse.quote(name)}"

    def open(self, name: str, offset_bytes: int) -> Body:
        """Send the request and wait for the headers of the answer."""
        url = self.url_of(name)
        headers = {"Range": f"bytes={offset_bytes}-"} if offset_bytes else {}
        with _http_errors(url, self._timeout_s):
            request = urllib.request.Request(url, headers=headers)
            return _HttpBody(url, _OPENER.open(request, timeout=self._timeout_s), self._timeout_s)


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows an answer that names another address only on the same server, or on the same host from http to https."""

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        """Follow the answer. Its body, all of which urllib would read, may be endless, so there is nothing to read."""
        fp.read = lambda: b""
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not _is_same_server(req.full_url, newurl):
            raise FetchError(
                f"{req.full_url} answers {code} and points to {newurl}, on another server or without encryption, which "
                "is not followed: set data.path to where the corpus is, if you trust that",
                is_permanent=True,
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameServer)


def _is_same_server(old: str, new: str) -> bool:
    ports = {"http": 80, "https": 443}
    try:
        (before, at), (after, to) = ((url, url.port or ports.get(url.scheme)) for url in map(urlsplit, (old, new)))
    except ValueError:  # no number of a port
        return False
    if before.hostname != after.hostname:
        return False
    is_upgrade = (before.scheme, at, after.scheme, to) == ("http", 80, "https", 443)
    return is_upgrade or (before.scheme, at) == (after.scheme, to)


class _HttpBody(Body):
    def __init__(self, url: str, response: http.client.HTTPResponse, timeout_s: float) -> None:
        self._url, self._response, self._timeout_s = url, response, timeout_s
        self.offset_bytes = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            self.offset_bytes = _start_of_range(response.headers.get("Content-Range", ""))
        self.size_bytes = None if response.length is None else self.offset_bytes + response.length

    def read(self) -> bytes:
        with _http_errors(self._url, self._timeout_s):
            return self._response.read1(CHUNK_BYTES)

    def close(self) -> None:
        self._response.close()


def _start_of_range(content_range: str) -> int:
    """Return the start of `bytes 100-199/200`; -1, which nobody requests, if it cannot be read."""
    start = re.match(r"\s*bytes\s+(\d{1,18})-", content_range, re.ASCII)
    return int(start[1]) if start else -1


@contextmanager
def _http_errors(url: str, timeout_s: float) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise _status_error(url, error) from error
    except TimeoutError as error:
        raise silence(url, timeout_s) from error
    except http.client.InvalidURL as error:
        raise FetchError(f"{url} is not a URL ({error})", is_permanent=True) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):  # during the connection
            raise silence(url, timeout_s) from error
        is_permanent = isinstance(reason, ssl.SSLCertVerificationError)
        raise FetchError(f"{url}: {reason or type(reason).__name__}", is_permanent=is_permanent) from error
    except ValueError as error:  # urllib raises it for the address in an answer
        raise FetchError(f"{url} points to what is not a URL ({error})") from error


def _status_error(url: str, error: urllib.error.HTTPError) -> FetchError:
    is_permanent = error.code < 500 and error.code not in RETRIED_STATUS
    message = f"{url} answers {error.code} {error.reason}"
    wait_s = _retry_after_s(error.headers.get("Retry-After"))
    return FetchError(message, is_permanent=is_permanent, wait_s=wait_s, restart=error.code == 416)


def _retry_after_s(value: str | None) -> float:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3: seconds or a date); 0 if it cannot be read."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)  # infinite if it has too many digits
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
