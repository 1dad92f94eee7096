"""`socketpusher completion`: what completes commands, options and files in a shell.

Why shtab: its script is made once, and completes without starting Python. argcomplete starts the command at each Tab.
"""

import argparse

SUMMARY = "print the completion script of a shell"
DESCRIPTION = """\
Prints a script that lets the Tab key complete commands, options and files. Needs pip install 'socketpusher[completion]'
when it is made, not when it is used. Make it again after an update.
"""

EXAMPLES = """\
examples:
  source <(socketpusher completion bash)     in ~/.bashrc
  socketpusher completion zsh > ~/.zfunc/_socketpusher
  socketpusher completion fish > ~/.config/fish/completions/socketpusher.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(arguments: argparse.Namespace) -> int:
    """Print the script. Returns the exit code."""
    try:
        import shtab
    except ImportError:
        raise OSError("shtab is not installed; run pip install 'socketpusher[completion]'") from None
    from .main import COMMANDS, build_parser

    parser = build_parser(COMMANDS)
    (commands,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    for command in commands.values():
        for action in command._actions:
            if action.metavar in ("FILE", "PATH"):
                action.complete = shtab.FILE
            elif action.metavar == "DIRECTORY":
                action.complete = shtab.DIRECTORY
    print(shtab.complete(parser, arguments.shell))
    return 0
