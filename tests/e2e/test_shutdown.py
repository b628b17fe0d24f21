"""SIGTERM: refuses new work, lets the old end; the limit, and a second signal, cut it."""
import http.client
import json
import signal
import threading
import time

from support import Server, fits

LONG = {'prompt': 'Once upon a time', 'max_tokens': 480, 'ignore_eos': True, 'n': 16, 'stream': True}


class Client(threading.Thread):
    """A slow stream: `begun` is set with its first bytes."""

    def __init__(self, server, fields):
        super().__init__()
        self.server, self.fields, self.begun, self.data = server, fields, threading.Event(), b''
        self.start()

    def run(self):
        connection = http.client.HTTPConnection('127.0.0.1', self.server.port, timeout=60)
        try:
            connection.request('POST', '/v1/completions', json.dumps(self.fields))
            answer = connection.getresponse()
            while piece := answer.read1(65536):
                self.data += piece
                self.begun.set()
        except (http.client.HTTPException, OSError):
            pass
        self.begun.set()


def check_drain():
    server = Server()
    client = Client(server, LONG)
    fits(client.begun.wait(30))
    server.signal()
    refusals = set()
    try:
        while server.process.poll() is None:
            refusals.add(server.ask('GET', '/readyz')[0])
            refusals.add(server.ask('POST', '/v1/completions', {'prompt': 'a', 'max_tokens': 1})[0])
    except OSError:
        pass  # it has gone
    fits(503 in refusals, refusals)
    client.join()
    fits(client.data.endswith(b'data: [DONE]\n\n') and b'"error"' not in client.data, client.data[-300:])
    fits(server.wait() == 0, server.text())


def check_cut(second):
    # All choices of several requests at one sequence per step: much longer than the limit.
    server = Server('--drain-timeout', '30' if second else '0.1', '--max-running', '1')
    clients = [Client(server, LONG) for _ in range(4)]
    fits(clients[0].begun.wait(30) or True)
    time.sleep(0.05)
    server.signal(signal.SIGINT)
    begin = time.monotonic()
    if second:
        time.sleep(0.05)
        server.signal()
    code = server.wait(10)
    took = time.monotonic() - begin
    for client in clients:
        client.join()
    fits(took < (1.1 if second else 2), 'took', took)
    finished = all(b'"error"' not in c.data and c.data.endswith(b'data: [DONE]\n\n') for c in clients)
    fits(code == (0 if finished else 8), code, server.text()[-2000:])
    for client in clients:
        if client.data.startswith(b'data:') and not second:
            fits(client.data.endswith(b'data: [DONE]\n\n'), client.data[-300:])


check_drain()
check_cut(False)
check_cut(True)
