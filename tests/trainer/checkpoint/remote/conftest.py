"""An S3 server over loopback, with a proxy in front of it that can let requests fail."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from foretrain.trainer.checkpoint.remote.path import RemotePath
from tests.required import not_here
from tests.trainer.checkpoint.remote.faults import Proxy

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
TIMEOUT_S = 2
"""Seconds after which a request in these tests counts as stalled."""
_numbers = count()


@dataclass(frozen=True)
class Bucket:
    """An empty folder of the server."""

    folder: RemotePath
    proxy: Proxy


@pytest.fixture(scope="session")
def s3() -> Iterator[Proxy]:
    """The server, for this process and those that it starts."""
    try:
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        not_here(f"an S3 server needs s3fs and moto[server]: {error}")
    import fsspec.config

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a failure is hidden behind a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.start())
        options = {"config_kwargs": {"read_timeout": TIMEOUT_S}}
        patch.setenv("FSSPEC_S3", json.dumps(options))  # for other processes
        patch.setitem(fsspec.config.conf, "s3", options)
        import fsspec

        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield proxy
    server.stop()


@pytest.fixture
def bucket(s3: Proxy) -> Iterator[Bucket]:
    """A folder of the server, and the proxy without faults."""
    s3.reset()
    yield Bucket(RemotePath(f"s3://bucket/{next(_numbers)}"), s3)
    s3.reset()
