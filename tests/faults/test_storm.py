"""Some seconds of the fault storm; `tox -e storm` for as long as one likes."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the storm looks into /proc", allow_module_level=True)

from storm import storm


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_storm_loses_tears_or_disorders_anything_that_the_books_do_not_count(seed: int) -> None:
    outcome = storm(3.0, seed)
    assert outcome.problems == []
    assert outcome.emitted > 100
