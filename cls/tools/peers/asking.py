"""The client of `benchmark serve`: asks a server from several threads, each with a connection.

Run by that tool: asking.py HOST PORT THREADS COUNT FILE ... Each thread sends the files one after
another, and the next request after the answer to the last one. Prints a JSON object with the
seconds of all COUNT requests and of each.
"""

import http.client
import itertools
import json
import sys
import threading
import time


def main(host: str, port: str, threads: str, count: str, *files: str) -> None:
    """Asks, and prints the seconds."""
    contents = []
    for file in files:
        with open(file, 'rb') as opened:
            contents.append(opened.read())
    numbers, start = itertools.count(), threading.Barrier(int(threads) + 1)
    seconds: list[float] = []
    failures: list[str] = []

    def ask() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=300)
        try:
            post(connection, contents[0])  # opens the connection
            start.wait()
            while (number := next(numbers)) < int(count):
                began = time.perf_counter()
                post(connection, contents[number % len(contents)])
                seconds.append(time.perf_counter() - began)
        except Exception as error:
            failures.append(repr(error))
            start.abort()
        finally:
            connection.close()

    workers = [threading.Thread(target=ask) for _ in range(int(threads))]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    try:
        start.wait()
        began = time.perf_counter()
    except threading.BrokenBarrierError:
        pass  # a failure
    for worker in workers:
        worker.join()
    if failures:
        sys.exit(failures[0])
    print(json.dumps({'all': time.perf_counter() - began, 'each': seconds}))


def post(connection: http.client.HTTPConnection, content: bytes) -> None:
    """Sends an image, and reads the answer."""
    connection.request('POST', '/predict', content)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise ValueError(f'{response.status} {answer.decode()}')


if __name__ == '__main__':
    main(*sys.argv[1:])
