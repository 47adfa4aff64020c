"""The program of each container of launch/gke.sh: cls.main, with exit codes for xpk.

  python launch/gke_worker.py --workdir gs://BUCKET/RUN [FLAG OF cls.main ...]

cls.main ends with 0 after a signal to stop, too, and such a container would count as done. 42,
xpk's code for a restart, means that the run has no result yet.
"""

import signal
import subprocess
import sys

from etils import epath

RESTART = 42


def main(flags: list[str]) -> int:
    """Runs cls.main and passes SIGTERM on to it; returns the exit code."""
    blocked = {signal.SIGTERM}  # until there is a process to pass it on to
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    child = subprocess.Popen(
        [sys.executable, '-m', 'cls.main', *flags],
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked),
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    code = child.wait()
    if code == 0 and not (epath.Path(flags[1]) / 'result.json').exists():
        return RESTART
    return 128 - code if code < 0 else code


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
