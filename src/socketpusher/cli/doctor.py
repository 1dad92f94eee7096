"""`socketpusher doctor`: what is wrong between this user and the socket."""

import argparse

from .arguments import Commands, add_command, add_path

_DESCRIPTION = """\
Checks everything that a pusher needs to reach its consumer, from the path to the process that listens, and says what to
do about what is wrong. To be run as the user and in the environment of the program that pushes.

It is harmless: it connects to the consumer once, sends nothing and hangs up. Whether the consumer reads is told from
whether it takes the connection, and whether its process is stopped; that it takes connections and reads none of them
could be seen only by sending it something. Whether a pusher can start is tried with a listener of its own.

Each check is ok, warn, FAIL, or skip if an earlier one failed that it needs. The exit code is 1 if one failed, else 0.
"""

_EXAMPLES = """\
examples:
  socketpusher doctor
  socketpusher doctor /tmp/run.sock
  socketpusher doctor --spool /var/spool/myapp
"""


def add_to(commands: Commands) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "doctor", "find out why nothing arrives", _DESCRIPTION, _EXAMPLES)
    add_path(parser, "where the consumer listens")
    parser.add_argument("--spool", metavar="DIRECTORY", help="look at a spool as well: what waits there?")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run every check. Returns the exit code."""
    from .diagnosis import examine
    from .output import printable

    failed = False
    for check in examine(arguments.path, arguments.spool):
        failed = failed or check.verdict == "FAIL"
        print(f"{check.verdict:4}  {check.name:13}  {printable(check.reason)}", flush=True)
        if check.remedy:
            print(f"{'':21}{printable(check.remedy)}", flush=True)
    return int(failed)
