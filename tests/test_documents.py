"""The documents say nothing that is not so: their examples run, and what they name exists."""

import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.consumer import Consumer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted(
        [ROOT / "README.md", *(p for part in ("src", "tests", "benchmarks") for p in (ROOT / part).rglob("README.md"))]
    )
}
EXAMPLES = {
    f"{name}-{number}": example
    for name, text in DOCUMENTS.items()
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_and_print_what_their_comments_say(name: str) -> None:
    with ExitStack() as consumers:
        place = consumers.enter_context(tempfile.TemporaryDirectory(prefix="sp"))  # other suites may use /tmp, too
        example = EXAMPLES[name].replace("/tmp/", f"{place}/")
        # An example without a consumer of its own is run beside one.
        paths = [] if "listen(" in example else re.findall(r'"(/[\w/-]+\.sock)"', example)
        for path in paths:
            consumers.callback(Consumer(path).go_away)
        ended = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    said = [line.partition("  # ")[2] for line in example.splitlines() if line.strip().startswith("print")]
    for expected, printed in zip(said, ended.stdout.splitlines(), strict=True):
        for word in expected.rstrip(". ").split(", "):
            assert word in printed


def test_the_tests_that_they_name_exist() -> None:
    named = [pair for text in DOCUMENTS.values() for pair in re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(\w+))?`", text)]
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / file).read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_their_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", DOCUMENTS[name])
    missing = [link for link in links if not link.startswith("http") and not ((ROOT / name).parent / link).exists()]
    assert missing == []


def test_the_readme_is_short_and_leads_to_every_other_document() -> None:
    assert len(README.splitlines()) <= 150
    for name in DOCUMENTS:
        assert name == "README.md" or f"({name})" in README


def test_the_recipes_are_printed_as_they_are_run() -> None:
    recipes = ROOT / "tests" / "interop" / "recipes"
    text = (recipes / "README.md").read_text()
    files = [path for path in recipes.iterdir() if path.name != "README.md"]
    assert len(files) > 5
    for path in files:
        assert f"`{path.name}`" in text
        assert f"\n{path.read_text()}```" in text
