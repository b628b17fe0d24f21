"""The cache of quantized models: second starts, damage, processes at once, kills, folders that cannot be written."""
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time

from support import Server, any4, fits, model_folder

root = tempfile.mkdtemp(prefix='any4-e2e-cache-')
model = os.path.join(root, 'model')
shutil.copytree(model_folder(), model)  # its files get changed below
ASK = {'prompt': 'Once upon a time', 'max_tokens': 20, 'temperature': 0, 'logprobs': 3}


def cache_files(folder, suffix='.safetensors'):
    return sorted(name for name in os.listdir(folder) if name.endswith(suffix))


def quantize(*flags, **kwargs):
    """Exit code 0 and one JSON object."""
    done = any4('quantize', model, '--json', '--log-level', 'info', *flags, **kwargs)
    fits(done.returncode == 0, done.returncode, done.stderr)
    return json.loads(done.stdout), done.stderr


def answer(server):
    choice = server.complete(**ASK)['choices'][0]
    return choice['text'], choice['logprobs']


def check_offline():
    """What takes long is made once by any4 quantize and found again by the same flags."""
    folder, calib = os.path.join(root, 'offline'), os.path.join(root, 'calib.txt')
    with open(calib, 'w', encoding='utf-8') as file:
        file.write('Once upon a time there was a little girl who had a red ball and a big dog. ' * 40)
    plain, _ = quantize('--quant-cache', folder, '--calib', calib)
    paths = {plain['path']}
    for flags in (('--error-feedback',), ('--rotation',), ('--channel-scaling',), ('--bits-per-weight', '5'), ('--error-feedback', '--bits-per-weight', '5')):
        flags += ('--calib', calib, '--quant-cache', folder)
        made, _ = quantize(*flags)
        fits(made['cache'] == 'miss' and made['path'] not in paths, made, paths)
        paths.add(made['path'])
        with Server(*flags, quant='any4', model=model) as server:
            fits('quant cache: hit' in server.text() and 'calibrated on' not in server.text(), server.text())
            bits = json.loads(server.ask('GET', '/v1/quantization')[2])['bits']
            fits(abs(bits - made['bits_per_weight']) < 1e-4, bits, made)
    fits(len(cache_files(folder)) == 6)


def check_second_start():
    folder = os.path.join(root, 'a', 'b')
    with Server('--quant-cache', folder, quant='any4', model=model) as server:
        first = answer(server)
        while 'quant cache: wrote' not in server.text():  # behind the server's back
            time.sleep(0.01)
        fits('quant cache: miss' in server.text(), server.text())
        fits('any4_quant_cache{model="model",result="miss"} 1' in server.ask('GET', '/metrics')[2].decode())
    with Server('--quant-cache', folder, quant='any4', model=model) as server:
        fits('quant cache: hit' in server.text(), server.text())
        fits(answer(server) == first)
        fits('any4_quant_cache{model="model",result="hit"} 1' in server.ask('GET', '/metrics')[2].decode())
    name, = cache_files(folder)
    with open(os.path.join(folder, name), 'r+b') as file:
        file.seek(-5000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 64]))
    with Server('--quant-cache', folder, quant='any4', model=model) as server:
        fits('quant cache: rebuilt because' in server.text() and 'damaged' in server.text(), server.text())
        fits(answer(server) == first)
    result, log = quantize('--quant-cache', folder)
    fits(result['cache'] == 'hit' and result['quantize_seconds'] == 0, result)
    # Weights that have changed, with the times of before.
    weights = os.path.join(model, 'model.safetensors')
    times = os.stat(weights)
    with open(weights, 'r+b') as file:
        file.seek(-300, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    result, log = quantize('--quant-cache', folder, '--verify-cache')
    fits(result['cache'] == 'rebuilt' and 'the model\'s files have changed' in log, result, log)
    fits(cache_files(folder) == [os.path.basename(result['path'])] != [name], os.listdir(folder))
    fits(os.path.getsize(result['path']) == result['bytes'], result)
    os.utime(weights)
    result, log = quantize('--quant-cache', folder)
    fits(result['cache'] == 'hit' and 'their times have changed' in log, result, log)


def check_many_at_once():
    folder = os.path.join(root, 'many')
    command = [os.environ['TEST_ANY4'], 'generate', model, '--prompt', 'Once upon', '--max-tokens', '8', '--temperature', '0',
               '--quant-cache', folder, '--json']
    texts = set()
    for _ in range(3):
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)]
        for process in processes:
            out, log = process.communicate(timeout=120)
            fits(process.returncode == 0, out, log)
            texts.add(json.dumps(json.loads(out)['choices'][0]['text']))
    fits(len(texts) == 1, texts)
    fits(len(cache_files(folder)) == 1 and not cache_files(folder, '.tmp'), os.listdir(folder))
    result, _ = quantize('--quant-cache', folder)
    fits(result['cache'] == 'hit', result)


def check_kills():
    """Whatever a kill leaves, the next start serves: from the cache or by building it."""
    folder = os.path.join(root, 'kills')
    begin = time.monotonic()
    quantize('--quant-cache', folder)
    period = time.monotonic() - begin
    random.seed(5)
    for i in range(12):
        if i % 3 == 0:
            shutil.rmtree(folder, ignore_errors=True)
        process = subprocess.Popen([os.environ['TEST_ANY4'], 'quantize', model, '--quant-cache', folder],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.random() * period)
        process.kill()
        process.wait()
    result, log = quantize('--quant-cache', folder)
    fits('rebuilt' not in log, log)
    result, _ = quantize('--quant-cache', folder)
    fits(result['cache'] == 'hit', result)


def check_default_folder():
    home = os.path.join(root, 'home')
    clean = {k: v for k, v in os.environ.items() if k not in ('ANY4_QUANT_CACHE', 'XDG_CACHE_HOME')}
    result, _ = quantize(env=dict(clean, HOME=home))
    fits(result['path'].startswith(home + '/.cache/any4/any4-'), result)
    fits(os.stat(home + '/.cache/any4').st_mode & 0o777 == 0o700)
    result, _ = quantize(env=dict(clean, HOME=home, XDG_CACHE_HOME=home + '/xdg'))
    fits(result['path'].startswith(home + '/xdg/any4/any4-'), result)
    result, _ = quantize(env=dict(clean, HOME=home, ANY4_QUANT_CACHE='~/own'))
    fits(result['path'].startswith(home + '/own/any4-'), result)
    # No home, no folder: served all the same, with one line about it.
    homeless = {k: v for k, v in clean.items() if k != 'HOME'}
    for env, why in ((homeless, 'HOME is not set'), (dict(homeless, HOME='/dev/null'), '/dev/null')):
        done = any4('generate', model, '--prompt', 'Once', '--max-tokens', '2', '--quant', 'any4', env=env)
        fits(done.returncode == 0 and done.stderr.count('going on without') == 1 and why in done.stderr, done)
    done = any4('quantize', model, env=homeless)
    fits(done.returncode == 2 and 'nothing to fill' in done.stderr, done)
    done = any4('quantize', model, env=dict(homeless, HOME='/dev/null'))
    fits(done.returncode == 1 and 'not cached' in done.stderr, done)
    done = any4('quantize', model, '--quant-cache', '')
    fits(done.returncode == 2 and 'quant_cache is empty' in done.stderr, done)


def check_full_disk():
    """A limit on the size of files: the writer meets it as it would a full disk."""
    folder = os.path.join(root, 'full')

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

    done = any4('quantize', model, '--quant-cache', folder, preexec_fn=limit)
    fits(done.returncode == 1 and 'File too large' in done.stderr, done)
    fits(os.listdir(folder) == [], os.listdir(folder))
    done = any4('generate', model, '--prompt', 'Once', '--max-tokens', '2', '--quant', 'any4', '--quant-cache', folder,
                preexec_fn=limit)
    fits(done.returncode == 0, done)
    result, _ = quantize('--quant-cache', folder)
    fits(result['cache'] == 'miss', result)


def check_shutdown_while_writing():
    for _ in range(5):
        folder = tempfile.mkdtemp(dir=root)
        with Server('--quant-cache', folder, quant='any4', model=model) as server:
            server.signal()
            fits(server.wait() == 0, server.text())
        fits(not cache_files(folder, '.tmp'), os.listdir(folder))


def check_folder_name_that_is_no_utf8():
    """The file names its model for people, and holds UTF-8 only."""
    folder, odd = os.path.join(root, 'odd'), os.fsdecode(os.path.join(os.fsencode(root), b'mod\xe9le'))
    shutil.copytree(model, odd)
    for expected in ('miss', 'hit'):
        done = any4('quantize', odd, '--json', '--quant-cache', folder)
        fits(done.returncode == 0 and json.loads(done.stdout)['cache'] == expected, expected, done)


try:
    check_offline()
    check_folder_name_that_is_no_utf8()
    check_second_start()
    check_many_at_once()
    check_kills()
    check_default_folder()
    check_full_disk()
    check_shutdown_while_writing()
finally:
    shutil.rmtree(root)
