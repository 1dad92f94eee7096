"""What the demo's scheduler works on: the source files of Python modules, which are read but never imported."""

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_IMPORT = re.compile(rb"^(?:import|from) +(\w+)", re.MULTILINE)

_TESTS = {"test", "tests", "idle_test"}
"""Directories that are left out: some of their files do not compile, on purpose."""


def find_modules(names: Iterable[str] = ()) -> dict[str, list[Path]]:
    """Find the source files of modules and packages.

    Args:
        names: Top-level modules or packages; none means the standard library.

    Returns:
        The source files of each.

    Raises:
        ValueError: One of `names` is not a top-level name, is not installed, or has no Python source.
    """
    if names:
        return {name: _named(name) for name in names}
    directory = [sysconfig.get_path("stdlib")]
    found = {name: _source_files(PathFinder.find_spec(name, directory)) for name in sorted(sys.stdlib_module_names)}
    return {name: files for name, files in found.items() if files}


def _named(name: str) -> list[Path]:
    if not name.isidentifier():
        raise ValueError(f"can't work on {name!r}: it is not the name of a top-level module or package; give one")
    # PathFinder first: unlike find_spec, it knows the files of modules that are frozen into the interpreter.
    spec = PathFinder.find_spec(name) or importlib.util.find_spec(name)
    if spec is None:
        raise ValueError(f"can't work on {name!r}: no such module or package is installed; check its name")
    if not (files := _source_files(spec)):
        raise ValueError(f"can't work on {name!r}: it has no Python source, only compiled code; choose another one")
    return files


def _source_files(spec: ModuleSpec | None) -> list[Path]:
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin is not None and spec.origin.endswith(".py") else []
    directories = map(Path, spec.submodule_search_locations)
    files = [(path, path.relative_to(directory)) for directory in directories for path in directory.rglob("*.py")]
    return sorted(path for path, inside in files if path.is_file() and not _TESTS & set(inside.parts))


def imports(modules: Mapping[str, Iterable[Path]]) -> dict[str, set[str]]:
    """Find out which of these modules each one imports, going by the lines that begin with `import` or `from`.

    Where modules import each other in a circle, as many in the standard library do, one import of it is left out.

    Args:
        modules: The source files of each module.
    """
    found: dict[str, set[str]] = {}
    for name, files in modules.items():
        imported = {match.decode() for path in files for match in _IMPORT.findall(path.read_bytes())}
        found[name] = imported & modules.keys() - {name}
    while True:
        try:
            TopologicalSorter(found).prepare()
        except CycleError as error:
            imported, importing = error.args[1][:2]
            found[importing].remove(imported)
        else:
            return found
