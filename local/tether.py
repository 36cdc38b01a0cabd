"""Becomes another program that dies with its parent: `python tether.py PARENT_PID SIGNAL UID PROGRAM ARGUMENT…`.

A program of its own because the two other ways are worse: a function between fork and exec runs the fork handlers of
gRPC's threads, and a supervisor that is killed with SIGKILL cannot stop anybody. Uses the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Drops to UID (unless it is -1), asks the kernel for SIGNAL when the parent dies, becomes PROGRAM."""
    parent, number, uid = (int(text) for text in sys.argv[1:4])
    program = sys.argv[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(pwd.getpwuid(uid).pw_gid)
        os.setuid(uid)
    # After the change of user, which would undo it. Other systems than Linux rely on the sweep at the next start.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            sys.exit("the supervisor is gone")
    os.execvp(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main()
