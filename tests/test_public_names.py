"""The names that users import. Whoever changes this list changes what they may rely on, and the changelog says so."""

import importlib
import subprocess
import sys

import pytest

import socketpusher

PUBLIC = {
    "socketpusher": {
        *("Bus", "Event", "EventType"),
        *("Graph", "CycleError", "MissingDependencyError"),
        *("PusherConfig", "default_socket_path"),
        *("SocketPusher", "PusherStats", "freeze_support"),
        *("listen", "Listener", "Problem", "Gap", "SkippedLine", "RefusedSender", "Sender"),
        *("subscribe", "wire"),
    },
    "socketpusher.wire": {
        *("encode", "decode", "DecodeError"),
        *("WireEvent", "GraphPayload", "NodePayload", "EdgePayload"),
    },
    "socketpusher.cli": {"main"},
}

IMPORTED_BY_MODULE = {
    "socketpusher.sources.futures": {"EventProcessPoolExecutor", "EventThreadPoolExecutor"},
    "socketpusher.sources.logs": {"BusHandler"},
    "socketpusher.sources.luigi": {"LuigiRun"},
    "socketpusher.sources.pytest": {"SessionEvents"},
    "socketpusher.sources.snakemake": {"WorkflowEvents"},
    "socketpusher.jetstream": {"subscribe"},
}
"""What the README says to import from a module that has no `__all__`."""


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_exactly_these(module: str) -> None:
    public = importlib.import_module(module).__all__
    assert sorted(public) == sorted(PUBLIC[module])
    assert len(public) == len(set(public))


@pytest.mark.parametrize("module", PUBLIC)
def test_each_public_name_can_be_imported_and_is_listed(module: str) -> None:
    imported = importlib.import_module(module)
    for name in PUBLIC[module]:
        assert getattr(imported, name) is not None
    assert PUBLIC[module] <= set(dir(imported))


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in IMPORTED_BY_MODULE.items() for name in sorted(names)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:luigi")
def test_a_source_is_imported_from_its_own_module(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name).__module__.startswith("socketpusher.")


@pytest.mark.parametrize(
    "name", sorted(PUBLIC["socketpusher"] - {"wire", "default_socket_path", "listen", "subscribe"})
)
def test_a_public_class_says_what_it_is_for(name: str) -> None:
    doc = getattr(socketpusher, name).__doc__ or ""
    assert doc.strip()
    assert not doc.startswith(f"{name}("), "that is the docstring that `dataclass` writes"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Pusher'"):
        _ = socketpusher.Pusher


def test_importing_the_package_imports_nothing_that_it_does_not_need() -> None:
    """The writer process and each command import it."""
    needless = "[name for name in sys.modules if name.startswith(('socketpusher.', 'orjson', 'tenacity'))]"
    code = f"import sys, socketpusher; print({needless})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
