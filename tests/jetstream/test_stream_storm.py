"""Some seconds of the storm of faults; `tox -e stream-storm` for as long as one likes."""

import pytest
from stream_storm import storm

from support.nats import needs_server

pytestmark = needs_server


@pytest.mark.parametrize("event_ids", [True, False])
def test_no_storm_loses_repeats_or_disorders_an_event(event_ids: bool) -> None:
    emitted, _, problems = storm(3.0, 3, event_ids)
    assert problems == []
    assert emitted > 100
