"""`socketpusher doctor`: what is wrong between this user and the socket."""

import argparse

from .arguments import add_allowed_users, add_path
from .output import printable

SUMMARY = "find out why no events arrive"
DESCRIPTION = """\
Checks everything that a pusher needs to reach its consumer, from the path to the process that listens, and says how to
fix what is wrong. Run it as the same user and in the same environment as the program that pushes.

It connects to the consumer once, sends nothing and hangs up. To see whether the consumer is alive, it checks that the
connection is accepted and that the process is not stopped. A consumer that accepts but never reads cannot be detected
without sending data. To see whether a pusher can start, it starts one with a listener of its own.

Each check is ok, warn, FAIL or skip. A check is skipped if it needs an earlier one that failed, or if the system does
not tell what it needs. The exit code is 1 if one failed, else 0.
"""

EXAMPLES = """\
examples:
  socketpusher doctor
  socketpusher doctor /tmp/run.sock
  socketpusher doctor --spool /var/spool/myapp
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_path(parser, "where the consumer listens")
    parser.add_argument("--spool", metavar="DIRECTORY", help="check a spool as well: what is waiting there?")
    add_allowed_users(parser, "accept a consumer of this user, as PusherConfig(allow_uids=...) does")


def run(arguments: argparse.Namespace) -> int:
    """Run every check. Returns the exit code."""
    from .diagnosis import examine

    failed = False
    for name, check in examine(arguments.path, arguments.spool, arguments.allow_uid):
        failed = failed or check.verdict == "FAIL"
        print(f"{check.verdict:4}  {name:13}  {printable(check.reason)}", flush=True)
        if check.remedy:
            print(f"{'':21}{printable(check.remedy)}", flush=True)
    return int(failed)
