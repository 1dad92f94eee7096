"""The report of a scenario: tables, the targets of the project, and both as text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """A table of figures; the first column names what was measured."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Target:
    """A figure that the project wants to reach.

    Args:
        what: What is compared.
        figure: The measured figure, or None.
        limit: The bound.
        at_least: Whether the bound is a lower one; otherwise it is an upper one.
        note: A remark for the reader.
    """

    what: str
    figure: float | None
    limit: float
    at_least: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it is reached; None if it could not be measured."""
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def row(self) -> list[str]:
        """The target as a row of a table."""
        verdict = {True: "reached", False: "NOT REACHED", None: "not measured"}[self.reached]
        figure = (
            "-" if self.figure is None else f"{self.figure:,.3g}" if abs(self.figure) < 1000 else f"{self.figure:,.0f}"
        )
        return [self.what, figure, f"{'>=' if self.at_least else '<='} {self.limit:,g}", verdict, self.note]


@dataclass
class Report:
    """The results of a scenario; `figures` are the raw ones of every round, for the JSON and the charts."""

    tables: list[Table]
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report for results.json."""
        return {
            "figures": self.figures,
            "tables": [vars(table) for table in self.tables],
            "targets": [{**vars(target), "reached": target.reached} for target in self.targets],
        }


def targets_table(targets: list[Target]) -> Table:
    """The table of all targets. Each comparison is a ratio within one run."""
    return Table("Targets", ["what", "figure", "target", "verdict", ""], [target.row() for target in targets])


def show(table: Table) -> None:
    """Print a table."""
    widths = [max(len(cell) for cell in column) for column in zip(table.columns, *table.rows, strict=True)]
    print(f"\n{table.title}")
    for cells in (list(table.columns), ["-" * width for width in widths], *table.rows):
        # Names are aligned to the left, figures to the right.
        first, *others = (
            cell.ljust(width) if index == 0 or table.title == "Targets" else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        print("  ".join(["  " + first, *others]).rstrip())
    if table.note:
        print(f"  {table.note}")
