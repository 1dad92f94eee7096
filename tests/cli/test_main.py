"""What all commands share: help, mistakes on the command line, closed streams."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from socketpusher import __version__
from socketpusher.cli.main import COMMANDS, main
from support.cli import COMMAND, run


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of a command is buffered, whatever this environment says."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


# Help


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_help_teaches_by_examples(arguments: list[str]) -> None:
    result = run(*arguments, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "examples:\n  socketpusher " in result.stdout or "examples:\n  source <(socketpusher " in result.stdout
    assert run("help", *arguments).stdout == result.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_fits_the_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for columns in (132, 80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        text, _, examples = capsys.readouterr().out.partition("examples:\n")
        assert max(len(line) for line in text.splitlines() if "(default: /" not in line) <= columns  # no path is cut
        assert max(map(len, examples.splitlines())) <= 80
        texts.append(text)
    assert sorted(texts, key=lambda text: text.count("\n")) == texts
    assert texts[0].split() == texts[1].split() == texts[2].split()


def test_no_arguments_give_the_help() -> None:
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == run("--help").stdout


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version(option: str) -> None:
    assert run(option).stdout == f"socketpusher {__version__}\n"


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)])
def test_the_help_imports_nothing_that_it_does_not_need(arguments: list[str]) -> None:
    code = f"""
import sys
from socketpusher.cli import main
try:
    main([*{arguments!r}, "--help"])
finally:
    print("imported:", *sys.modules)
"""
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    modules = set(imported.partition("imported: ")[2].split())
    assert {f"socketpusher.cli.{name}" for name in arguments} <= modules
    slow = {"asyncio", "multiprocessing", "nats", "orjson", "rich", "shtab", "socket", "sqlite3", "tenacity"}
    assert modules & slow == set()


# Mistakes


@pytest.mark.parametrize("arguments", [["nonsense"], ["listen", "a", "b"], ["demo", "--hosts", "0"], ["--what"]])
def test_a_command_line_that_is_not_understood_gives_2_and_the_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: socketpusher")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["lisen"], "there is no command 'lisen'; did you mean listen?"),
        (["help", "whatch"], "there is no command 'whatch'; did you mean watch?"),
        (["frobnicate"], f"there is no command 'frobnicate'; the commands are {', '.join(COMMANDS)}"),
        (["listen", "--keep", "3"], "--keep needs --to"),
        (["listen", "--max-bytes", "1K"], "--max-bytes needs --to"),
        (["listen", "--stream", "x"], "--stream needs --from"),
        (["watch", "--tls-ca", "x"], "--tls-ca needs --from"),
        (["watch", "--token-file", __file__], "--token-file needs --from"),
        (["listen", "--from", "nats://localhost", "--tls-key", "x"], "--tls-key needs --tls-cert"),
        (["listen", "--from", "nats://localhost", "s"], "give a path or --from, not both"),
        (["listen", "--from", "nats://localhost", "--allow-uid", "1"], "--allow-uid is for a socket, not for --from"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(arguments: list[str], advice: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(rf"usage: .*\nsocketpusher.*: error: {re.escape(advice)}\n", result.stderr)


# Standard streams that are closed or can't be written to


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    script = f'"$0" -m {" ".join(COMMAND[2:])} {command}'
    return subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["--help", "-V", "listen {path}", "doctor {path}"])
def test_a_closed_standard_output_is_reported(command: str, socket_path: str) -> None:
    result = shell(command.format(path=socket_path) + " >&-")
    assert result.returncode == 1
    name = command.split()[0]
    assert result.stderr == f"socketpusher {name}: standard output is closed\n"


def test_names_that_the_encoding_of_standard_output_lacks_are_replaced(tmp_path: Path) -> None:
    result = run("doctor", str(tmp_path / "日本"), env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert "/??" in result.stdout
    assert "codec" not in result.stderr


def test_a_full_standard_output_is_reported(socket_path: str) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    result = shell(f"doctor {socket_path} > /dev/full")
    assert (result.returncode, result.stderr) == (1, "socketpusher doctor: No space left on device\n")


def test_nothing_is_written_to_other_files_if_standard_error_is_closed(socket_path: str, tmp_path: str) -> None:
    result = shell(f"listen {tmp_path} 2>&-")
    assert (result.returncode, result.stdout) == (1, "")


INTERRUPTED = """
import os, signal, sys, threading, time
from socketpusher.cli import main

def interrupt():
    asleep = 0
    while asleep < 20 or not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
        with open(f"/proc/self/task/{os.getpid()}/stat") as file:
            asleep = asleep + 1 if ") S " in file.read() else 0
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["listen", "listen --to", "watch", "watch --once"])
def test_a_signal_that_does_not_interrupt_the_wait_ends_it_too(command: str, socket_path: str, tmp_path: Path) -> None:
    """As one does that comes right before the wait: here it comes to another thread."""
    name, _, option = command.partition(" ")
    file = [str(tmp_path / "run.ndjson")] if option == "--to" else []
    arguments = [name, socket_path, *filter(None, [option]), *file]
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, *arguments], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (130, "")


@pytest.mark.parametrize("options", [("--timeout", "5"), ("--host", "x")])
def test_a_mistake_makes_no_file(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run("listen", "--to", str(tmp_path / "record"), *options)
    assert result.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content, why", [(b"\xff", "it is not UTF-8"), (b" \n", "the file is empty")])
def test_a_file_without_a_token_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    (file := tmp_path / "token").write_bytes(content)
    result = run("listen", "--from", "nats://localhost:1", "--token-file", str(file))
    assert (result.returncode, result.stderr) == (1, f"socketpusher listen: can't read the token: {why}: {file}\n")
