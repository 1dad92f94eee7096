"""Some seconds of the storm of faults; `tox -e stream-storm` for as long as one likes."""

from stream_storm import storm

from support.nats import needs_server

pytestmark = needs_server


def test_no_storm_loses_repeats_or_disorders_an_event() -> None:
    emitted, _, problems = storm(3.0, 3, [True, True, False])
    assert problems == []
    assert emitted > 100
