"""What the demo's scheduler has to do: the source files of Python modules, each module after those that it imports.

Modules are found and read, never imported. What counts as a dependency is an import that runs when a module is
imported, at any depth of `if` and `try`, but not in a function: functions import what would otherwise make a circle,
and with them 118 of the 197 modules of the standard library of 3.11 are one knot, without them 30.
"""

import ast
import importlib.util
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder

_TESTS = {"test", "tests", "idle_test"}
"""Directories left out, for they hold files that are not meant to compile."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What the scheduler runs as one: a module or package, or several that import each other in a circle.

    Args:
        name: Its name, or its modules' names joined by "+".
        modules: The top-level modules in it.
        files: Its source files; one task each.
        dependencies: The names of the units that must be complete before it starts.
    """

    name: str
    modules: tuple[str, ...]
    files: tuple[str, ...]
    dependencies: tuple[str, ...]


def standard_library() -> dict[str, list[str]]:
    """The source files of each module of the standard library that has any."""
    directory = sysconfig.get_path("stdlib")
    found = {name: _source_files(PathFinder.find_spec(name, [directory])) for name in sorted(sys.stdlib_module_names)}
    return {name: files for name, files in found.items() if files}


def packages(names: Iterable[str]) -> dict[str, list[str]]:
    """The source files of each of these top-level modules or packages.

    Raises:
        ValueError: One can't be found, has no Python source, or is not a top-level one.
    """
    return {name: _package(name) for name in dict.fromkeys(names)}


def _package(name: str) -> list[str]:
    if not name.isidentifier():
        raise ValueError(f"can't work on {name!r}: it is not the name of a top-level module or package; give one")
    spec = PathFinder.find_spec(name)  # first, for it knows the files of modules that are frozen into the interpreter
    if spec is None:
        spec = _spec_of_other_kind(name)
    if spec is None:
        raise ValueError(f"can't work on {name!r}: no such module or package is installed; check its name")
    files = _source_files(spec)
    if not files:
        raise ValueError(f"can't work on {name!r}: it has no Python source, only compiled code; choose another one")
    return files


def _spec_of_other_kind(name: str) -> ModuleSpec | None:
    """Of a module that is built in, or found by an import hook such as an editable installation's."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _source_files(spec: ModuleSpec | None) -> list[str]:
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [path for directory in spec.submodule_search_locations for path in _files_below(directory)]
    return [spec.origin] if spec.origin is not None and spec.origin.endswith(".py") else []


def _files_below(directory: str) -> Iterator[str]:
    for parent, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in _TESTS)
        yield from (os.path.join(parent, name) for name in sorted(files) if name.endswith(".py"))


def units_of(sources: Mapping[str, list[str]]) -> dict[str, Unit]:
    """The units that these modules make up, after reading all their files.

    Args:
        sources: The source files of each top-level module.
    """
    imports = {module: sorted(_imports(files) & sources.keys() - {module}) for module, files in sources.items()}
    circles = _circles(imports)
    name_of = {module: _joined(circle) for circle in circles for module in circle}
    units = (
        Unit(
            name_of[circle[0]],
            tuple(circle),
            tuple(path for module in circle for path in sources[module]),
            tuple(sorted({name_of[other] for module in circle for other in imports[module]} - {name_of[circle[0]]})),
        )
        for circle in circles
    )
    return {unit.name: unit for unit in sorted(units, key=lambda unit: unit.name)}


def _joined(modules: list[str]) -> str:
    shown = modules if len(modules) <= 3 else modules[:2] + [f"{len(modules) - 2} more"]
    return "+".join(shown)


def _imports(files: Iterable[str]) -> set[str]:
    """The top-level modules that are imported when these files are."""
    found: set[str] = set()
    for path in files:
        for statement in _statements_run(_body(path)):
            match statement:
                case ast.Import(names=names):
                    found.update(alias.name.partition(".")[0] for alias in names)
                case ast.ImportFrom(module=str(module), level=0):
                    found.add(module.partition(".")[0])
    return found


def _body(path: str) -> list[ast.stmt]:
    if os.path.basename(path) == "__main__.py":
        return []  # it is run, not imported
    try:
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
            return ast.parse(file.read()).body
    except Exception:  # whatever is wrong with it, the task for this file will say so
        return []


def _statements_run(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in statements:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (statement, *getattr(statement, "handlers", ())):
                for block in ("body", "orelse", "finalbody"):
                    yield from _statements_run(getattr(part, block, []))


def _circles(imports: Mapping[str, list[str]]) -> list[list[str]]:
    """The modules grouped so that those which import each other are together: Tarjan's algorithm."""
    number: dict[str, int] = {}  # of each module, in the order of the visits
    lowest: dict[str, int] = {}  # the lowest number that can be reached from it on the stack
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in imports[module]:
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            start = stack.index(module)
            groups.append(sorted(stack[start:]))
            del stack[start:]

    for module in imports:
        if module not in number:
            visit(module)
    return groups
