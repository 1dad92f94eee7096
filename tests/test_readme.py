"""The README says nothing that is not so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", README))))
def test_examples_run_as_printed(number: int) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    ended = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    said = [line.partition("  # ")[2] for line in example.splitlines() if line.strip().startswith("print")]
    for expected, printed in zip(said, ended.stdout.splitlines(), strict=True):
        for word in expected.rstrip(". ").split(", "):
            assert word in printed


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`", README)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / file).read_text()
