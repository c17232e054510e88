"""What the tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.file_faults.faults import FileFaults
from tests.file_faults.served import Server


@pytest.fixture(scope="session")
def file_faults(tmp_path_factory: pytest.TempPathFactory) -> FileFaults:
    return FileFaults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def server(file_faults: FileFaults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of commands whose files have faults."""
    no_pauses = {"foretrain.trainer.callbacks.checkpoints:PAUSES_S": [0.0] * 3}
    server = Server(file_faults.variables, tmp_path_factory.mktemp("printed"), no_pauses)
    yield server
    server.close()
