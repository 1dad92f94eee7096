from collections.abc import Iterator
from pathlib import Path

import pytest

from support.web import Web


@pytest.fixture
def web(socket_path: str, tmp_path: Path) -> Iterator[Web]:
    web = Web(socket_path, tmp_path)
    web.start()
    yield web
    web.remove()
