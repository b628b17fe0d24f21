"""Bad input, methods, limits, clients that leave, and the exit codes of the command line."""
import json
import os
import socket
import tempfile
import time

from support import Server, any4, fits, model_folder


def refused(server, body, status, code, param=None, path='/v1/completions', method='POST', headers=None):
    got, got_headers, data = server.ask(method, path, body, headers)
    error = json.loads(data)['error']
    fits(got == status and error['code'] == code and error['param'] == param, body, got, error)
    fits(set(error) == {'message', 'type', 'param', 'code'}, error)
    fits(got_headers['X-Request-Id'] and data.endswith(b'}\n'), got_headers, data)
    return got_headers


def check_bad_input(server):
    refused(server, '{', 400, 'invalid_json')
    refused(server, b'{"prompt":"\xff"}', 400, 'invalid_utf8')
    refused(server, '{"prompt":"a","prompt":"b"}', 400, 'duplicate_field', 'prompt')
    refused(server, '', 400, 'invalid_json')
    refused(server, '{}', 400, 'unsupported_parameter', headers={'Content-Encoding': 'gzip'})
    refused(server, '[' * 100 + ']' * 100, 400, 'too_complex')
    refused(server, {}, 400, 'missing_field', 'prompt')
    refused(server, {'prompt': 'a', 'temperature': 'x'}, 400, 'invalid_type', 'temperature')
    refused(server, {'prompt': 'a', 'top_p': 0}, 400, 'invalid_value', 'top_p')
    refused(server, {'prompt': 'a', 'suffix': 'b'}, 400, 'unsupported_parameter', 'suffix')
    refused(server, {'prompt': 'a', 'model': 'gpt-4'}, 404, 'model_not_found', 'model')
    refused(server, {'prompt': 'word ' * 2000}, 400, 'context_length_exceeded', 'prompt')
    refused(server, {'prompt': 'a'}, 404, 'unknown_url', path='/v1/chat/completionz')
    headers = refused(server, None, 405, 'method_not_allowed', method='GET')
    fits(headers['Allow'] == 'POST, OPTIONS', headers)
    status, headers, data = server.ask('HEAD', '/v1/models')
    fits(status == 200 and data == b'' and int(headers['Content-Length']) > 0, status, headers)
    status, headers, _ = server.ask('OPTIONS', '/v1/completions')
    fits(status == 204 and 'POST' in headers['Allow'], status)
    status, headers, _ = server.ask('POST', '/v1/completions', {'prompt': 'a', 'max_tokens': 1, 'foo': 1, 'bar': 2})
    fits(status == 200 and headers['X-Ignored-Fields'] == 'foo, bar', headers)


def check_limits(server):
    refused(server, 'x' * 5000, 413, 'body_too_large')
    refused(server, None, 414, 'url_too_long', path='/' + 'a' * 9000, method='GET')
    refused(server, None, 431, 'headers_too_large', path='/health', method='GET', headers={'X-Long': 'a' * 33000})
    text = json.loads(server.ask('POST', '/v1/tokenize', {'prompt': 'Hello'})[2])
    back = json.loads(server.ask('POST', '/v1/detokenize', {'tokens': text['tokens']})[2])
    fits(back['prompt'] == 'Hello' and text['count'] == len(text['tokens']), text, back)


def check_keep_alive(server):
    """Two pipelined requests and a refusal on one connection, which stays open."""
    with socket.create_connection(('127.0.0.1', server.port), 10) as s:
        one = b'GET /health HTTP/1.1\r\nHost: x\r\n\r\n'
        bad = b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{'
        s.sendall(one + bad + one)
        data = b''
        while data.count(b'HTTP/1.1 ') < 3 or not data.endswith(b'{"status":"ok"}\n'):
            piece = s.recv(65536)
            fits(piece, 'closed early', data)
            data += piece
        fits(data.count(b'HTTP/1.1 200') == 2 and data.count(b'HTTP/1.1 400') == 1, data)


def check_http_1_0(server):
    body = b'{"prompt":"Once","max_tokens":3,"temperature":0,"stream":true}'
    with socket.create_connection(('127.0.0.1', server.port), 10) as s:
        s.sendall(b'POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
        data = b''
        while piece := s.recv(65536):
            data += piece
        fits(b'chunked' not in data and data.endswith(b'data: [DONE]\n\n'), data)


def check_leaving(server):
    """Clients that go away in every phase leave nothing behind."""
    for i in range(40):
        body = json.dumps({'prompt': 'Once upon a time', 'max_tokens': 400, 'ignore_eos': True, 'stream': i % 2 == 0, 'n': 4})
        s = socket.create_connection(('127.0.0.1', server.port), 10)
        s.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body))
        s.sendall(body.encode()[:-1] if i % 5 == 0 else body.encode())
        time.sleep(0.002 * (i % 7))
        s.close()
    deadline = time.monotonic() + 5
    while server.gauge('requests_running') or server.gauge('requests_waiting') or server.gauge('kv_tokens_used'):
        fits(time.monotonic() < deadline, 'sequences of clients that left still run')
        time.sleep(0.01)
    fits(server.complete(prompt='Once', max_tokens=3)['usage']['completion_tokens'] <= 3)


def check_exit_codes():
    model = model_folder()
    fits(any4('serve', model, '--prot', '1').returncode == 2)
    fits('did you mean --port' in any4('serve', model, '--prot', '1').stderr)
    fits(any4('serve').returncode == 2 and any4().returncode == 2 and any4('sreve').returncode == 2)
    fits(any4('serve', model, '--unix-socket', 'x').returncode == 2)
    fits(any4('generate', model, '--prompt', 'a', '--temperature', '3').returncode == 2)
    fits(any4('generate', model, '--prompt', 'a', '--temperature', 'x').returncode == 2)
    fits(any4('verify', '/nonexistent').returncode == 3)
    fits(any4('serve', '/nonexistent', '--port', '0').returncode == 3)
    fits(any4('serve', model, '--quant', 'any5').returncode == 2)
    fits(any4('healthcheck', '--url', 'http://127.0.0.1:1/readyz').returncode == 1)
    fits(any4('version').returncode == 0)
    fits(json.loads(any4('tokenize', model, '--json', 'One day').stdout)['count'] > 1)
    fits(json.loads(any4('plan', model, '--json').stdout)['n_params'] > 0)
    with tempfile.NamedTemporaryFile('w', suffix='.json') as config:
        config.write('{"portt": 1}')
        config.flush()
        run = any4('serve', model, '--config', config.name)
        fits(run.returncode == 2 and 'portt' in run.stderr and 'port' in run.stderr, run.stderr)
    run = any4('serve', model, '--api-key', 'hunter2', '--print-config', env=dict(os.environ, ANY4_PORT='99'))
    fits(run.returncode == 0 and 'hunter2' not in run.stdout and 'environment' in run.stdout, run.stdout)


def failed(code, part, *args, **kwargs):
    """The command line ends with this code and says this on standard error."""
    run = any4(*args, **kwargs)
    fits(run.returncode == code and part in run.stderr, args, run.returncode, run.stderr)
    return run


def check_folders():
    for command in ('serve', 'plan', 'verify', ('eval', '--text', __file__), ('tokenize', 'x'), ('bench', 'decode'),
                    ('generate', '--prompt', 'x')):
        name, *rest = (command,) if isinstance(command, str) else command
        words = [name, rest.pop(0)] if name == 'bench' else [name]
        model = ['nothere', *rest]
        failed(3, 'nothere: no such folder', *words, *model)
        failed(3, __file__ + ' is not a folder', *words, __file__, *rest)
        if name != 'tokenize':
            failed(3, 'config.json: no such file', *words, os.path.dirname(__file__), *rest)
    with tempfile.TemporaryDirectory() as folder:  # a model without a tokenizer takes and gives ids
        for name in ('config.json', 'model.safetensors'):
            os.symlink(os.path.join(os.path.abspath(model_folder()), name), os.path.join(folder, name))
        ids = ('generate', folder, '--prompt-ids', '1,2,3', '--max-tokens', '4', '--ignore-eos', '--temperature', '0')
        own = json.loads(any4(*ids, '--json').stdout)
        fits(own['text'] is None and own['choices'][0]['text'] is None and len(own['token_ids']) == 4, own)
        text = ' '.join(map(str, own['token_ids'])) + '\n'
        fits(any4(*ids).stdout == text and any4(*ids, '--stream').stdout == text, text)
        for flags in (('--echo',), ('--stop', 'x')):
            failed(3, '--prompt, --stop and --echo need a tokenizer', *ids, *flags)
        failed(3, 'need a tokenizer', 'generate', folder, '--prompt', 'x')
        failed(3, 'tokenizer.model: no such file', 'serve', folder, '--port', '0')
        open(os.path.join(folder, 'tokenizer.model'), 'w').write('broken')
        failed(3, 'tokenizer.model', *ids)


def check_words():
    """What the command line says about its own flags."""
    model = model_folder()
    fits(' MiB' in any4('plan', model).stdout, any4('plan', model).stdout)
    run = failed(4, 'does not fit: ', 'plan', model, '--max-memory', '1M')
    fits(run.stdout.split()[-2:] == ['fits', 'no'], run.stdout)
    plan = json.loads(any4('plan', model, '--max-memory', '1M', '--json').stdout)
    fits(plan['fits'] is False and plan['reason'] and plan['memory_limit'] == 1 << 20, plan)
    for word in ('gpu', 'cuda:', 'cuda:x', 'cuda:-1', 'cuda1', 'cuda:99999999999'):
        failed(2, 'device: "%s", expected auto, cpu, cuda or cuda:N' % word, 'plan', model, '--device', word)
    failed(7, 'CUDA', 'plan', model, '--device', 'cuda:4096')
    failed(7, 'CUDA', 'generate', model, '--prompt', 'a', '--device', 'cuda:4096')
    fits('weights on the device' in any4('plan', model, '--device', 'cpu').stdout)
    failed(2, '--prompt is not valid UTF-8 (byte 0)', 'generate', model, '--prompt', b'\xff')
    failed(2, 'the text is not valid UTF-8 (byte 1)', 'tokenize', model, b'a\xff')
    failed(2, '--max-tokens is -1, must be in 0..', 'generate', model, '--prompt', 'a', '--max-tokens', '-1')
    failed(2, '--top-p is "x", must be a number', 'generate', model, '--prompt', 'a', '--top-p', 'x')
    failed(2, '--prompt-ids holds id 99999', 'generate', model, '--prompt-ids', '1,99999')
    failed(2, '--logprobs needs --json', 'generate', model, '--prompt', 'a', '--logprobs', '2')
    failed(2, '-p is unknown (see --help)', 'serve', model, '-p', '80')
    run = any4('generate', model, '--prompt', 'Once', '--n', '2', '--max-tokens', '2')
    fits('--- 1 of 2 ---\n' in run.stdout and '--- 2 of 2 ---\n' in run.stdout, run.stdout)
    run = failed(2, '--input-tokens 16 and --output-tokens 200000', 'bench', 'decode', model, '--output-tokens', '200000')
    fits(run.stdout == '', run.stdout)
    failed(1, 'Connection refused', 'healthcheck', '--url', 'http://127.0.0.1:1')
    fits('bench serve' in any4('bench', '--help').stdout and 'bench serve' in any4('--help').stdout)
    failed(2, 'bench decode', 'bench')
    failed(2, 'did you mean bench decode?', 'bench', 'decod')
    fits('serve /metrics (on|off) [on]' in any4('serve', '--help').stdout)


with Server('--max-body-bytes', '4096', '--drain-timeout', '5') as s:
    check_limits(s)
    fits(any4('serve', model_folder(), '--port', str(s.port)).returncode == 5, 'port in use')
    fits(any4('healthcheck', '--url', 'http://127.0.0.1:%d/readyz' % s.port).returncode == 0)
    fits(any4('healthcheck', '--url', 'http://127.0.0.1:%d' % s.port).returncode == 0, 'no path is /readyz')
    fits('at http://127.0.0.1:%d/v1 (' % s.port in s.text(), s.text())
with Server() as s:
    check_bad_input(s)
    check_keep_alive(s)
    check_http_1_0(s)
    check_leaving(s)
with Server('--api-key', 'k1', '--strict-fields', '--served-model-name', 'big, small') as s:
    refused(s, {'prompt': 'a'}, 401, 'missing_api_key')
    auth = {'Authorization': 'Bearer k1'}
    refused(s, {'prompt': 'a'}, 401, 'invalid_api_key', headers={'Authorization': 'Bearer k2'})
    refused(s, {'prompt': 'a', 'foo': 1}, 400, 'unknown_field', 'foo', headers=auth)
    refused(s, {'prompt': 'a'}, 403, 'origin_not_allowed', headers=dict(auth, Origin='http://a.example'))
    status, _, data = s.ask('POST', '/v1/completions', {'prompt': 'a', 'model': 'small', 'max_tokens': 1}, auth)
    fits(status == 200 and json.loads(data)['model'] == 'big', data)
check_exit_codes()
check_folders()
check_words()
