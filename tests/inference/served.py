"""A server of `cls serve` in its own process, and images to send."""

import contextlib
import http.client
import io
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


class Served:
    """A server in its own process."""

    def __init__(self, workdir, *flags):
        command = [sys.executable, '-m', 'cls.tools.serve', '--from', str(workdir), '--port', '0']
        self.process = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if match := re.search(r'http://(\S+):(\d+)', line):
                self.host, self.port = match[1], int(match[2])
                break
        else:
            raise AssertionError(''.join(lines))
        self.output: list[str] = []
        # Read all the time: a full pipe would stop the server.
        self.reader = threading.Thread(target=self.output.extend, args=[self.process.stdout])
        self.reader.start()
        assert self.ask('GET', '/health')[0] == 200

    def connected(self):
        return contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=60))

    def ask(self, method, path, body=None, headers=None):
        """Returns (status, content)."""
        with self.connected() as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()

    def ended(self, number=signal.SIGTERM):
        """Sends a signal; returns the exit code and the output."""
        self.process.send_signal(number)
        return self.waited()

    def waited(self):
        code = self.process.wait(timeout=60)
        self.reader.join()
        return code, ''.join(self.output)


def png(seed=0, size=(12, 10)):
    """Returns the content of a file with a random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


def trained(workdir):
    """Trains a small network on the digits for two steps, in a run folder."""
    command = [sys.executable, '-m', 'cls.main', '--config=configs/resnet.py']
    command += ['--config.duration=2 steps', '--config.schedule.warmup=100 percent']
    command += [f'--workdir={workdir}']
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return workdir
