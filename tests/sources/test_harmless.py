"""What a host calls raises nothing into it."""

import inspect

import pytest

from socketpusher.sources.harmless import harmless


class Source:
    @harmless
    def handle(self, number: int, *, error: type[BaseException] = ValueError) -> None:
        """Raise."""
        raise error(number)


def test_an_error_is_logged_once_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        Source().handle(number)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("socketpusher", "Source.handle failed, so events are missing")
    assert record.exc_info is not None and str(record.exc_info[1]) == "0"


def test_what_ends_the_program_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        Source().handle(1, error=KeyboardInterrupt)


def test_it_has_the_signature_of_the_method() -> None:
    assert list(inspect.signature(Source.handle).parameters) == ["self", "number", "error"]
