"""An MLflow server that can be told to fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_server import Door, plain_server


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's store."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server_port(server_folder: Path) -> Iterator[int]:
    """The port of the server itself."""
    with plain_server(server_folder) as port:
        yield port


@pytest.fixture
def door(server_port: int) -> Iterator[Door]:
    """The way to it."""
    door = Door(server_port)
    yield door
    door.heal()
    door.close()
