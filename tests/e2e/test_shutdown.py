"""SIGTERM: refuses new work, lets the old end; the limit, and a second signal, cut it."""
import http.client
import json
import os
import resource
import signal
import socket
import tempfile
import threading
import time

from support import Server, any4, demo_folder, fits

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


def check_half_sent():
    """Requests that are not whole hold up nothing, and cost no exit code."""
    server = Server('--drain-timeout', '20')
    port_file = os.path.join(server.folder, 'port')
    half = [socket.create_connection(('127.0.0.1', server.port), 10) for _ in range(2)]
    half[0].sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{')
    half[1].sendall(b'GET /health HT')
    time.sleep(0.2)
    begin = time.monotonic()
    server.signal()
    for s in half:
        fits(s.recv(4096).startswith(b'HTTP/1.1 503 '))
        s.close()
    server.process.wait(30)
    fits(not os.path.exists(port_file), 'the port file stays')
    fits(server.wait() == 0, server.text())
    fits(time.monotonic() - begin < 10, 'waited for a client that sends nothing')


def check_port_file_of_failed_load():
    with tempfile.TemporaryDirectory() as folder:
        demo_folder(folder, '')
        os.unlink(os.path.join(folder, 'tokenizer.model'))
        with open(os.path.join(folder, 'tokenizer.model'), 'w') as f:
            f.write('no model')
        port_file = os.path.join(folder, 'port')
        run = any4('serve', folder, '--port', '0', '--port-file', port_file)
        fits(run.returncode == 3 and not os.path.exists(port_file), run.returncode, run.stderr)


def check_file_limit():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 600:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    with Server('--max-connections', '500') as server:
        line = next(x for x in open('/proc/%d/limits' % server.process.pid) if x.startswith('Max open files'))
        fits(line.split()[3] == 'unlimited' or int(line.split()[3]) >= 564, line)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


check_half_sent()
check_port_file_of_failed_load()
check_file_limit()
check_drain()
check_cut(False)
check_cut(True)
