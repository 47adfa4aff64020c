"""Serves a model over HTTP: a page to drop images on, and predictions as JSON.

  cls serve --from runs/birds --port 8000
  curl --data-binary @bird.jpg http://127.0.0.1:8000/predict?top=3

POST /predict   the most probable classes of an image: the body, or the file of a form (curl -F)
POST /explain   the image with a heat map, as PNG; ?index=N chooses the class
GET  /          the page
GET  /model     the model, its license and classes
GET  /health    200 as long as requests are accepted
GET  /metrics   counters, for Prometheus
GET  /openapi.json

Requests that arrive at once are computed in batches. Further ones than --requests get 503; a larger
upload than --upload MiB 413; a file that is no image, or one of more than --pixels, 400. SIGTERM
ends the server after the answers to all accepted requests. Nobody is authenticated: the default
--host accepts only connections of this machine.

--from takes a run folder, a file of weights, a snapshot folder, hf:OWNER/NAME, or the name of a
model with published weights.
"""

import math
import signal
import socket
from collections.abc import Sequence

from cls import __version__, signals
from cls.cli import Parser, run
from cls.errors import UserError, require
from cls.tools.predict import add_source, opened

PROG = 'python -m cls.tools.serve'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    add_source(flags)
    flags.add_argument('--host', default='127.0.0.1', help='0.0.0.0: all interfaces')
    flags.add_argument('--port', type=int, default=8000, help='0: a free one')
    flags.add_argument('--requests', type=int, default=256, help='at once, default 256')
    flags.add_argument('--upload', type=float, default=20, help='MiB, default 20')
    flags.add_argument('--pixels', type=float, default=50e6, help='of an image, default 50e6')
    return flags


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit code."""
    args = parser(prog).parse_args(argv)
    for package in ('fastapi', 'uvicorn', 'python_multipart', 'prometheus_client'):
        require(package, 'serve')
    import uvicorn

    from cls.inference.serving.app import Limits, create

    for name, unit in (('requests', 1), ('upload', 2**20), ('pixels', 1)):
        if not 1 <= getattr(args, name) * unit < math.inf:
            raise UserError(
                f'--{name} is {getattr(args, name):g}: expected more than 0, and a finite number.'
            )
    if not 0 <= args.port < 65536:
        raise UserError(f'--port is {args.port}: expected 0 to 65535.')
    taken = listening(args.host, args.port)  # before minutes of compilation
    model = opened(args)
    limits = Limits(args.requests, int(args.upload * 2**20), int(args.pixels))
    config = uvicorn.Config(
        create(model, limits, __version__), log_level='warning', access_log=False
    )
    host, port = taken.getsockname()[:2]
    shown = f'[{host}]' if ':' in host else host

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(f'serving at http://{shown}:{port} (Ctrl-C ends it)', flush=True)

    server = Announced(config)

    def stop(_: int, again: bool) -> None:
        server.should_exit, server.force_exit = True, again

    print(f'{model}\ncompiling ...', flush=True)
    # uvicorn raises the signal again when it has stopped; the stop was the purpose of it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with signals.heard_by(stop):
        server.run(sockets=[taken])
    if not server.started:
        raise UserError('the server could not start, see above.')
    return 0


def listening(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises UserError for an address that is taken or elsewhere."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # two processes may be bound to an address, and one may listen
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host has that form
        raise UserError(
            f'{host}:{port} cannot be listened on ({getattr(error, "strerror", "") or error}): '
            'choose another --port or --host.'
        ) from error
    return listener


if __name__ == '__main__':
    run(main)
