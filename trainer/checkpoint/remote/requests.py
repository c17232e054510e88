"""Requests to a file system of fsspec: its options, and when a request that fails is repeated."""

import errno
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.remote.download import backoff_s
from foretrain.printable import error_message

POLICY = CacheConfig()
"""Requests have the timeout and the number of repetitions that those for a corpus have by default."""
_NEVER_REPEATED = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
"""Names of errors of botocore and of google.auth: another attempt would find no credentials either."""
PATIENCE_S = 300.0
"""Seconds after which a request is not repeated any more: less than a collective waits (`parallel.timeout_s`)."""

Result = TypeVar("Result")


class RemoteError(OSError):
    """A server does not do what it is asked to do; the message names the URL, and what to change."""

    is_passing = True
    """Whether it may do that later."""

    def __init__(self, url: str, error: object) -> None:
        reason = error if isinstance(error, str) else repr(error)
        remedy = "check the server, the network, and the rights there, then try again"
        super().__init__(f"{error_message(f'{url}: {reason}')}: {remedy}")


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the name that it has there. Raises ValueError if there is none."""
    try:
        import fsspec.core

        files, name = fsspec.core.url_to_fs(url, **_options(url.partition("://")[0]))
    except ImportError as error:
        raise ValueError(f"{url} needs more libraries: pip install 'foretrain[remote]' ({error})") from error
    except ValueError as error:
        raise ValueError(f"{url} cannot be used ({error}): give a folder, or a URL such as s3://BUCKET/NAME") from error
    return files, str(name)


def _options(protocol: str) -> dict[str, Any]:
    """Options of a file system. What a user has set in the configuration of fsspec comes first."""
    import fsspec.config

    options: dict[str, Any] = {"use_listings_cache": False}  # other processes add and remove files
    if protocol == "file":
        options["auto_mkdir"] = True
    if protocol in ("s3", "s3a"):
        own = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        timeouts = {"connect_timeout": POLICY.timeout_s, "read_timeout": POLICY.timeout_s}
        options["config_kwargs"] = {**timeouts, "retries": {"mode": "standard", "max_attempts": 3}, **own}
    return options


def repeated(url: str, request: Callable[[], Result]) -> Result:
    """What `request` returns, which is called again if it fails, with growing pauses.

    Raises FileNotFoundError and PermissionError, which name the URL, at once, and RemoteError after the last attempt.
    The request may have been done although it failed, so it must be one that can be done twice.
    """
    failures, deadline_s = 0, time.monotonic() + PATIENCE_S
    while True:
        try:
            return request()
        except (FileNotFoundError, PermissionError) as error:
            if error.filename is not None:
                raise
            number = errno.EACCES if isinstance(error, PermissionError) else errno.ENOENT
            raise OSError(number, f"{os.strerror(number)}: {error}", url) from error
        except Exception as error:  # each library has its own errors, and none may be lost
            failures += 1
            wait_s = backoff_s(failures, POLICY.timeout_s)
            is_last = failures > POLICY.retries or type(error).__name__ in _NEVER_REPEATED
            if is_last or time.monotonic() + wait_s > deadline_s:
                failed = error if isinstance(error, RemoteError) else RemoteError(url, error)
                failed.is_passing = type(error).__name__ not in _NEVER_REPEATED
                raise failed from error
        time.sleep(wait_s)
