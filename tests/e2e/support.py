"""Starts the real binary on a free port and speaks HTTP with it. Standard library only."""
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time


os.environ.setdefault('ANY4_QUANT_CACHE', 'off')  # the user's own stays out of it, also when run by hand
COMMAND_SECONDS = int(os.environ.get('TEST_COMMAND_SECONDS', '120'))  # a command that takes longer hangs


def model_folder():
    """The demo model of the repository, else the smallest fixture; without either the test is skipped (exit 77)."""
    source = os.environ.get('ANY4_SOURCE_ROOT', '.')
    fixtures = os.environ.get('ANY4_FIXTURES') or os.path.join(source, '..', 'shared', 'fixtures')
    for folder in (os.path.join(fixtures, 'stories260K'), os.path.join(source, 'configs', 'demo-model')):
        if os.path.exists(os.path.join(folder, 'config.json')):
            return folder
    print('*** SKIPPED: no model found (set ANY4_FIXTURES) ***', file=sys.stderr)
    sys.exit(77)


def any4(*args, **kwargs):
    return subprocess.run([os.environ['TEST_ANY4'], *args], capture_output=True, text=True, timeout=COMMAND_SECONDS,
                          **kwargs)


def fits(condition, *what):
    if not condition:
        raise AssertionError(' '.join(str(w) for w in what))


def demo_folder(into=None, chat_template=None):
    """The demo model; with into (an empty folder) a copy that has this chat template, or none."""
    source = os.path.abspath(os.path.join(os.environ.get('ANY4_SOURCE_ROOT', '.'), 'configs', 'demo-model'))
    if not os.path.exists(os.path.join(source, 'config.json')):
        print('*** SKIPPED: no demo model in', source, '***', file=sys.stderr)
        sys.exit(77)
    if into is None:
        return source
    for name in os.listdir(source):
        if name != 'tokenizer_config.json':
            os.symlink(os.path.join(source, name), os.path.join(into, name))
    config = json.load(open(os.path.join(source, 'tokenizer_config.json')))
    config['chat_template'] = chat_template
    json.dump(config, open(os.path.join(into, 'tokenizer_config.json'), 'w'))
    return into


class Server:
    """One `any4 serve`; flags are further arguments."""

    def __init__(self, *flags, quant='none', model=None):
        self.folder = tempfile.mkdtemp(prefix='any4-e2e-')
        port_file = os.path.join(self.folder, 'port')
        self.log = open(os.path.join(self.folder, 'log'), 'w+')
        self.process = subprocess.Popen(
            [os.environ['TEST_ANY4'], 'serve', model or model_folder(), '--port', '0', '--port-file', port_file, '--quant', quant,
             *flags], stderr=self.log)
        deadline = time.monotonic() + 120
        while not os.path.exists(port_file):
            fits(self.process.poll() is None and time.monotonic() < deadline, 'no port file;', self.text())
            time.sleep(0.01)
        self.port = int(open(port_file).read())
        while self.ask('GET', '/readyz')[0] != 200:
            fits(self.process.poll() is None and time.monotonic() < deadline, 'never ready;', self.text())
            time.sleep(0.02)

    def text(self):
        if self.log.closed:
            return self.last_text
        return open(self.log.name).read()

    def ask(self, method, path, body=None, headers=None, timeout=120):
        """(status, headers, bytes)"""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.headers, data

    def complete(self, **fields):
        status, _, data = self.ask('POST', '/v1/completions', fields)
        fits(status == 200, status, data)
        return json.loads(data)

    def stream(self, path='/v1/completions', **fields):
        """All chunks of a stream."""
        status, headers, data = self.ask('POST', path, dict(fields, stream=True))
        fits(status == 200, status, data)
        fits(headers['Content-Type'] == 'text/event-stream; charset=utf-8', headers)
        fits(b'\r' not in data and data.endswith(b'data: [DONE]\n\n'), data[-200:])
        events = [e for e in data.decode().split('\n\n')[:-2] if not e.startswith(':')]
        fits(all(e.startswith('data: ') and '\n' not in e for e in events), events)
        return [json.loads(e[6:]) for e in events]

    def gauge(self, name):
        for line in self.ask('GET', '/metrics')[2].decode().splitlines():
            if line.startswith('any4_' + name + '{'):
                return float(line.split('} ')[1])
        return None

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=60):
        """The exit code; the log must be free of sanitizer reports. The temporary folder goes."""
        code = self.process.wait(timeout)
        self.last_text = self.text()
        fits('Sanitizer' not in self.last_text, self.last_text)
        self.log.close()
        shutil.rmtree(self.folder)
        return code

    def stop(self):
        if self.process.poll() is None:
            self.signal()
            code = self.wait()
            fits(code == 0, 'exit', code, self.text())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            print(self.text()[-4000:], file=sys.stderr)
            self.process.kill()
            self.process.wait()
        else:
            self.stop()
