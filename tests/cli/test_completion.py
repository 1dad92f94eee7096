"""The completion script, in a shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import run

pytest.importorskip("shtab")

BASH = shutil.which("bash")
# What bash does at a Tab: it finds the function of the command, tells it the words, and takes what is in COMPREPLY.
COMPLETE = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function=$(complete -p socketpusher)
function=${function##*-F }
${function%% *} socketpusher "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "script"
    result = run("completion", "bash")
    assert (result.returncode, result.stderr) == (0, "")
    path.write_text(result.stdout)
    return path


@pytest.mark.skipif(BASH is None, reason="bash is not there")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["li"], {"listen"}),
        (["listen", "--max"], {"--max-bytes"}),
        (["listen", "--format", ""], {"json", "pretty"}),
        (["listen", "--to", "ru"], {"run.ndjson"}),
        (["replay", "ru"], {"run.ndjson"}),
        (["drain", "sp"], {"spool"}),
        (["completion", "b"], {"bash"}),
    ],
)
def test_bash_completes_commands_options_and_files(
    words: list[str], completed: set[str], script: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.ndjson").touch()
    (tmp_path / "spool").mkdir()
    assert BASH is not None
    command = [BASH, "--norc", "-c", COMPLETE, "bash", str(script), "socketpusher", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.stderr == ""
    assert {word.rstrip("/") for word in result.stdout.split()} == completed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_there_is_a_script_for_other_shells(shell: str) -> None:
    result = run("completion", shell)
    assert (result.returncode, result.stderr) == (0, "")
    assert "listen" in result.stdout


def test_without_shtab_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "shtab.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = run("completion", "bash", env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 1
    advice = "shtab is not installed; run pip install 'socketpusher[completion]'"
    assert result.stderr == f"socketpusher completion: {advice}\n"
