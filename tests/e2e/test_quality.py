"""How good a quantization is, as the real binary tells it: eval --compare, reports and limits, /v1/quantization, bench quantize."""
import json
import math
import os
import tempfile
import xml.etree.ElementTree as ET

from support import Server, any4, fits, model_folder

FORMATS = 'none,int4,nf4,any4-paper,any4,int4:g32'


def text_file():
    """Held-out text of the model that is tested."""
    model = model_folder()
    fixture = os.path.join(os.path.dirname(model), 'text', 'tinystories-valid.txt')
    return fixture if os.path.exists(fixture) else os.path.join(model, 'heldout.txt')


def evaluate(*flags, model=None, size='6K'):
    run = any4('eval', model or model_folder(), '--text', text_file(), '--max-bytes', size, *flags)
    fits(run.returncode == 0, flags, run.returncode, run.stderr)
    return run.stdout


def refused(code, part, *args):
    run = any4(*args)
    fits(run.returncode == code and part in run.stderr, args, run.returncode, run.stderr)


def without_times(rows):
    return [{key: value for key, value in row.items() if key != 'quantize_seconds'} for row in rows]


def check_compare():
    answer = json.loads(evaluate('--compare', FORMATS, '--json'))
    rows = {row['quant']: row for row in answer['rows']}
    fits(list(rows) == FORMATS.split(','), rows)
    for name, row in rows.items():
        for key in ('bits_per_weight', 'code_bits', 'table_bits', 'nll', 'perplexity', 'kl', 'top1'):
            fits(math.isfinite(row[key]), name, row)
        fits(abs(row['perplexity'] / math.exp(row['nll']) - 1) < 1e-9, row)
        fits(abs(row['code_bits'] + row['table_bits'] - row['bits_per_weight']) < 1e-9, row)
        if name != 'none':
            fits(row['kl'] > 0 and 0 < row['top1'] < 1, row)
            fits(row['code_bits'] > 4 and row['table_bits'] > 0, row)
    none = rows['none']
    fits(none['kl'] == 0 and none['top1'] == 1 and none['table_bits'] == 0, none)
    fits(rows['any4-paper']['nll'] < rows['int4']['nll'] and rows['any4-paper']['kl'] < rows['int4']['kl'], rows)
    fits(rows['int4:g32']['group_size'] == 32 and rows['int4:g32']['code_bits'] > rows['int4']['code_bits'], rows)
    # The same text and rule as without --compare; there the log-probabilities are rounded to f32.
    alone = json.loads(evaluate('--quant', 'none', '--json'))
    fits(alone['tokens'] == answer['tokens'] and abs(alone['nll'] - none['nll']) < 1e-6, alone, none)
    alone = json.loads(evaluate('--quant', 'int4', '--kv-cache-type', 'f32', '--json'))
    fits(abs(alone['nll'] - rows['int4']['nll']) < 1e-6, alone, rows['int4'])
    fits(abs(alone['bits_per_weight'] - rows['int4']['bits_per_weight']) < 1e-5, alone)
    # Neither threads nor the other formats in the list change a digit; the flags of quantizing apply to each.
    for threads in ('1', '3'):
        few = json.loads(evaluate('--compare', 'any4,none', '--threads', threads, '--json'))['rows']
        fits(without_times(few) == without_times([rows['any4'], none]), threads, few)
    kept = json.loads(evaluate('--compare', 'int4,int4:g32', '--group-size', '64', '--quant-skip', 'lm_head', '--json'))['rows']
    fits([row['group_size'] for row in kept] == [64, 32] and kept[1]['kl'] != rows['int4:g32']['kl'], kept)


def check_error_feedback():
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as calib:
        with open(text_file(), encoding='utf-8') as file:
            calib.write(file.read()[-65536:])  # the end; evaluated is the beginning
        calib.flush()
        flags = ('--calib', calib.name, '--json')
        rows = {r['quant']: r for r in json.loads(evaluate('--compare', 'any4,any4:feedback,any3:feedback,any4:b5.5:feedback', *flags, size='16K'))['rows']}
        fits(rows['any4:feedback']['kl'] < 0.9 * rows['any4']['kl'], rows)
        fits(rows['any4:feedback']['bits_per_weight'] == rows['any4']['bits_per_weight'], rows)
        fits(rows['any4']['kl'] < rows['any3:feedback']['kl'], rows)
        fits(rows['any4:b5.5:feedback']['bits_per_weight'] <= 5.5, rows)
        again = json.loads(evaluate('--error-feedback', '--kv-cache-type', 'f32', *flags, size='16K'))
        fits(abs(again['nll'] - rows['any4:feedback']['nll']) < 1e-6, again, rows)
        refused(2, 'error_feedback works with any4, any3 and any2, not with int4', 'eval', model_folder(), '--text', text_file(),
                '--calib', calib.name, '--error-feedback', '--quant', 'int4')
    refused(2, 'error_feedback needs calib', 'verify', model_folder(), '--error-feedback')
    refused(2, 'error feedback needs --calib', 'eval', model_folder(), '--text', text_file(), '--compare', 'any4:feedback')
    refused(2, 'does not calibrate', 'verify', model_folder(), '--quant', 'int4', '--calib', text_file())


def check_mixed_widths():
    rows = {r['quant']: r for r in json.loads(evaluate('--compare', 'any2,any4,any4:b3.9,any4:b5.5', '--json'))['rows']}
    for bits in ('3.9', '5.5'):
        fits(float(bits) - 0.5 < rows['any4:b' + bits]['bits_per_weight'] <= float(bits), rows)
    fits(rows['any2']['kl'] > rows['any4:b3.9']['kl'] > rows['any4:b5.5']['kl'], rows)
    refused(2, 'the fewest bits that this model can have are', 'verify', model_folder(), '--bits-per-weight', '1')
    refused(2, '--bits-per-weight is "17"', 'verify', model_folder(), '--bits-per-weight', '17')


def check_rotation():
    rows = {r['quant']: r for r in json.loads(evaluate('--compare', 'none:rotation,any4,any4:rotation,any4:rotation:b5', '--json'))['rows']}
    fits(0 <= rows['none:rotation']['kl'] < 1e-9 and rows['none:rotation']['top1'] > 0.999, rows)
    fits(0 < rows['any4:rotation']['kl'] < 2 * rows['any4']['kl'], rows)
    fits(rows['any4:rotation']['kl'] != rows['any4']['kl'] and rows['any4:rotation:b5']['bits_per_weight'] <= 5, rows)


def check_channel_scaling():
    """8 bits of scaled channels are as near to the float model as those of plain ones: norms and weights fit."""
    rows = {r['quant']: r for r in json.loads(evaluate('--compare', 'any4,any4:scaling,any4:b8.9,any4:b8.9:scaling', '--json'))['rows']}
    fits(0 < rows['any4:scaling']['kl'] < 2 * rows['any4']['kl'], rows)
    fits(0 < rows['any4:b8.9:scaling']['kl'] < 2 * rows['any4:b8.9']['kl'], rows)
    for quant in ('none', 'int4'):
        refused(2, 'channel_scaling goes by moments, which %s with quant_weighting auto does not take' % quant,
                'verify', model_folder(), '--quant', quant, '--channel-scaling')


def check_table_and_plot():
    with tempfile.TemporaryDirectory() as folder:
        model, svg = os.path.join(folder, 'a&b <"c">'), os.path.join(folder, 'plot.svg')
        os.symlink(os.path.abspath(model_folder()), model)
        out = evaluate('--compare', FORMATS, '--plot', svg, model=model)
        lines = out.splitlines()
        fits('KV cache f32' in lines[0] and lines[1].split()[0] == 'quant', out)
        fits([line.split()[0] for line in lines[2:]] == FORMATS.split(','), out)
        root = ET.parse(svg).getroot()
        space = '{http://www.w3.org/2000/svg}'
        fits(root.tag == space + 'svg', root.tag)
        texts = [t.text for t in root.iter(space + 'text')]
        fits(any(t.startswith('a&b <"c">, ') for t in texts), texts)
        labels = [t.text for t in root.iter(space + 'text') if t.get('class') == 'label']
        fits(set(FORMATS.split(',')[1:]) < set(labels) and any(t.startswith('none: ') for t in labels), labels)
        fits(len(list(root.iter(space + 'circle'))) == 5)


def check_refusals():
    ask = ('eval', model_folder(), '--text', text_file(), '--max-bytes', '2K')
    refused(2, '--compare is missing', *ask, '--plot', '/tmp/x.svg')
    refused(2, '--compare: unknown quantization method "any5"', *ask, '--compare', 'none,any5')
    refused(2, 'g32, g64, g128, feedback, rotation, scaling or b and a number of bits must follow the colon', *ask, '--compare', 'int4:g33')
    refused(2, 'leave --quant out', *ask, '--compare', 'int4', '--quant', 'int4')
    refused(2, 'this model has positions for 1 to', *ask[:-1], '64K', '--compare', 'int4', '--chunk', '10000')
    refused(2, 'cannot be written', *ask, '--compare', 'int4', '--plot', '/nonexistent/x.svg')
    refused(3, 'no such folder', 'eval', 'nothere', '--text', text_file(), '--compare', 'int4')
    with tempfile.NamedTemporaryFile() as empty:
        refused(2, 'holds no text', 'eval', model_folder(), '--text', empty.name, '--compare', 'int4')


def check_limit_and_log():
    model = model_folder()
    for command in (('verify', model), ('serve', model, '--port', '0'), ('generate', model, '--prompt', 'a'),
                    ('eval', model, '--text', text_file(), '--max-bytes', '1K', '--compare', 'none,int4')):
        run = any4(*command, *(() if '--compare' in command else ('--quant', 'int4')), '--quant-max-error', '0.01')
        fits(run.returncode == 6, command, run.returncode, run.stderr)
        fits('quantized by int4, tensor ' in run.stderr and 'over quant_max_error 0.01 ' in run.stderr, run.stderr)
    run = any4('verify', model, '--quant', 'int4', '--quant-max-error', '0.9', '--json')
    info = json.loads(run.stdout)
    fits(0 < info['quant_error_mean'] <= info['quant_error_p95'] <= info['quant_error_max'] < 0.9, info)
    fits('relative error mean' in run.stderr and 'largest errors: ' in run.stderr, run.stderr)
    fits(' bits/weight' not in run.stderr, run.stderr)
    for value in ('-1', 'x', 'nan', 'inf'):
        refused(2, '--quant-max-error is "%s", must be a number in 0..' % value, 'verify', model, '--quant-max-error', value)
    full = any4('verify', model, '--quant', 'int4', '--quant-report', 'full').stderr
    fits(full.count(' bits/weight, error ') >= 7 and 'q_proj' in full, full)
    fits('error' not in any4('verify', model, '--quant', 'int4', '--quant-report', 'off').stderr)
    fits('error' not in any4('verify', model, '--quant', 'none').stderr)


def check_bench():
    flags = ('bench', 'quantize', '--rows', '24', '--cols', '300', '--repeat', '3')
    run = any4(*flags, '--quant', 'any4,int4:g32', '--threads', '2', '--json')
    answer = json.loads(run.stdout)
    fits(answer['rows'] == 24 and answer['cols'] == 300 and answer['repeat'] == 3, answer)
    fits([(r['quant'], r['threads']) for r in answer['results']] == [('any4', 2), ('int4:g32', 2)], answer)
    for r in answer['results']:
        fits(0 < r['min_seconds'] <= r['median_seconds'] <= r['max_seconds'], r)
        fits(abs(r['weights_per_s'] * r['median_seconds'] - 24 * 300) < 1e-3, r)
        fits(abs(r['gb_per_s'] * 1e9 - 2 * r['weights_per_s']) < 1e3 and 0 < r['rel_error'] < 0.2, r)
    fits(answer['results'][1]['group_size'] == 32, answer)
    run = any4(*flags)
    fits(run.returncode == 0 and 'M weights/s' in run.stdout, run)
    refused(2, '--quant: any4:feedback: there is no model', *flags, '--quant', 'any4:feedback')
    refused(2, '--quant: none quantizes nothing', *flags, '--quant', 'none')
    refused(2, 'more than 1073741824 weights', 'bench', 'quantize', '--rows', '1000000', '--cols', '1000000')
    refused(2, 'one too many', *flags, 'x')


def check_route(server, quant):
    status, _, data = server.ask('GET', '/v1/quantization?full=1')
    answer = json.loads(data)
    fits(status == 200 and answer['method'] == quant and answer['cache'] == 'off', answer)
    fits(len(answer['tensors']) == answer['n_tensors'] > 7, answer)
    quantized = [t for t in answer['tensors'] if t['rel_error'] is not None]
    fits(len(quantized) == answer['n_quantized'], answer)
    error = answer['rel_error']
    if quant == 'none':
        fits(not quantized and error == {'mean': None, 'p95': None, 'max': None, 'worst': []}, error)
        fits(answer['group_size'] is None and answer['bits'] in (16, 32) and answer['table_bits'] == 0, answer)
        return
    values = sorted(t['rel_error'] for t in quantized)
    fits(error['max'] == values[-1] and error['p95'] in values and abs(error['mean'] - sum(values) / len(values)) < 1e-9, error)
    fits([t['rel_error'] for t in error['worst']] == values[::-1][:10], error)
    fits(abs(answer['code_bits'] + answer['table_bits'] - answer['bits']) < 1e-9, answer)
    fits(0 < answer['times']['quantize_seconds'] <= answer['times']['load_seconds'], answer)
    fits(answer['bytes']['weights'] > answer['bytes']['quantized'] > 0, answer)
    fits(server.gauge('quant_cache') == 1 and server.gauge('quant_rel_error') == error['mean'])
    short = json.loads(server.ask('GET', '/v1/quantization')[2])
    fits('tensors' not in short and short['rel_error'] == error, short)


check_compare()
check_error_feedback()
check_mixed_widths()
check_rotation()
check_channel_scaling()
check_table_and_plot()
check_refusals()
check_limit_and_log()
check_bench()
for name in ('int4', 'none'):
    with Server(quant=name) as s:
        check_route(s, name)
