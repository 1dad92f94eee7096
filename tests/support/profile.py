"""How much is tried. `HYPOTHESIS_PROFILE` chooses: `quick`, `default` or `thorough`.

It holds for properties, and for whatever else is tried at many places or with many seeds.
"""

import os

from hypothesis import settings

_FACTORS = {"quick": 0.2, "default": 1.0, "thorough": 20.0}
EXAMPLES = 100
"""How many examples a property is tried with by default."""

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
if PROFILE not in _FACTORS:
    raise ValueError(f"HYPOTHESIS_PROFILE={PROFILE!r} must be one of {', '.join(_FACTORS)}")


def scaled(count: int) -> int:
    """So many by default, fewer or more by the profile, but one at least."""
    return max(1, round(count * _FACTORS[PROFILE]))


def spread(stride: int) -> int:
    """The stride at which places are tried: so far by default, farther or nearer by the profile."""
    return max(1, round(stride / _FACTORS[PROFILE]))


# The machine is shared, so times mean nothing.
settings.register_profile(PROFILE, deadline=None, max_examples=scaled(EXAMPLES))
settings.load_profile(PROFILE)
