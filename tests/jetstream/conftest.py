from collections.abc import Iterator
from pathlib import Path

import pytest

from support.nats import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "nats")
    server.start()
    yield server
    server.kill()
