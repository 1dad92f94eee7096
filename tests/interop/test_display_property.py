"""Whatever a scheduler emits and whoever is killed or stopped meanwhile: the dashboard ends with the truth."""

import tempfile
from collections import defaultdict
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from socketpusher import Bus, SocketPusher
from support.profile import scaled
from support.runs import Run, runs
from support.truth import Truth
from support.web import Web, differences, drop_some, kill_writer, sending

ACCIDENTS = ["flush", "restart", "kill", "stall", "drop", "go on", "kill writer"]


class Accidents:
    """What happens to the server and the writer during a run."""

    def __init__(self, bus: Bus, web: Web, pusher: SocketPusher, truth: Truth) -> None:
        self._bus = bus
        self._web = web
        self._pusher = pusher
        self._truth = truth
        self._server = "running"  # or "stopped", or "killed"

    def happen(self, accident: str) -> None:
        if accident == "flush":
            self.settle()
        elif accident == "restart":
            self._web.restart()
            self._server = "running"
        elif accident == "kill":
            self._web.kill()
            self._server = "killed"
        elif accident == "stall":
            self._stall()
        elif accident == "drop":
            self._stall()
            drop_some(self._bus, self._pusher)
        elif accident == "go on":
            self._go_on()
        else:
            kill_writer(self._pusher)

    def settle(self) -> None:
        """Let everything arrive; the display shows the truth."""
        self._go_on()
        assert self._pusher.flush(60)
        if self._truth.begun:
            self._web.shows(self._truth)

    def _stall(self) -> None:
        if self._server == "running":
            self._web.stall()
            self._server = "stopped"

    def _go_on(self) -> None:
        if self._server == "stopped":
            self._web.go_on()
        elif self._server == "killed":
            self._web.start()
        self._server = "running"


@settings(
    max_examples=scaled(6),
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes seconds, too long for a search
)
@given(
    run=runs(max_steps=40),
    overflow=st.sampled_from(["drop_newest", "drop_oldest"]),
    accidents=st.lists(st.tuples(st.integers(0, 40), st.sampled_from(ACCIDENTS)), min_size=1, max_size=8),
)
def test_the_display_ends_with_the_truth_whoever_was_killed_or_stopped(
    run: Run, overflow: str, accidents: list[tuple[int, str]]
) -> None:
    planned = defaultdict(list)
    for place, accident in accidents:
        planned[min(place, len(run.events) - 1)].append(accident)
    bus = Bus()
    with tempfile.TemporaryDirectory(prefix="sp") as directory:
        web = Web(f"{directory}/s", Path(directory))
        web.start()
        try:
            with sending(bus, web.path, run.graph, run.parallelism, wait=False, buffer_size=5, overflow=overflow) as (
                pusher,
                truth,
            ):
                stage = Accidents(bus, web, pusher, truth)
                for place, event in enumerate(run.events):
                    for accident in planned[place]:
                        stage.happen(accident)
                    bus.emit_raw(event)
                stage.settle()
                web.restart()
                stage.settle()
            assert differences(web.picture(), truth.picture()) == []  # nothing more comes that would change it
        finally:
            web.remove()


@given(runs())
def test_the_truth_of_every_run_can_be_drawn(run: Run) -> None:
    truth = run.truth()
    for event in run.events:
        truth.follow(event)
    picture = truth.picture()
    assert picture["page"] in ("drawn", "empty")
    assert picture["status"] in ("running", "completed", "failed")
