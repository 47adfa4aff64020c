"""Scenes that a script plays with real processes, and their results."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def play(script):
    """Runs a script of this folder; returns scene -> [code, stdout, stderr] of each process."""
    done = subprocess.run(
        [sys.executable, HERE / script],
        env=os.environ | {'PYTHONPATH': str(HERE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def codes(scene):
    """Returns the exit codes of the processes of a scene."""
    return [code for code, _, _ in scene]
