#!/usr/bin/env python3
"""Makes the one table of what tests/gpu/run.sh measured.

    table.py RESULTS.json TABLE.txt
    table.py --check                  tries itself on made-up results
"""
import json
import sys

# Of each table: (key, title, digits behind the point). Columns without any number are left out.
LINEAR = [('gemv_us', 'gemv', 2), ('gemv_exact_us', 'exact', 2), ('gemm_us', 'gemm', 2), ('prefill_us', 'prefill', 2),
          ('two_parts_us', '2 parts', 2), ('invariant_us', 'invariant', 2), ('fastest_us', 'fastest', 2),
          ('gb_s', 'GB/s', 0), ('ceiling_percent', '% of max', 1), ('tflop_s', 'TFLOP/s', 1), ('cublas_us', 'cublas', 2),
          ('torch_bf16_us', 'torch bf16', 2), ('tinygemm_us', 'tinygemm', 2), ('invariant_x', 'inv. x dense', 2),
          ('fastest_x', 'fast. x dense', 2), ('tinygemm_x', 'x tinygemm', 2)]
TINYGEMM = {'any4 g32': 'tinygemm_g32_us', 'paper g128': 'tinygemm_g128_us'}  # of the same group size


def number(value, digits):
    return '-' if value is None else f'{value:.{digits}f}'


def ratio(above, below):
    return above / below if above and below else None


def table(title, rows, columns):
    columns = [column for column in columns if any(row.get(column[0]) is not None for row in rows)]
    lines = [[row['shape'], row['kind'], str(row['rows'])] + [number(row.get(key), digits) for key, _, digits in columns]
             for row in rows]
    lines.insert(0, ['shape', 'kind', 'rows'] + [name for _, name, _ in columns])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [title]
    for line in lines:
        text.append('  '.join(cell.ljust(width) if i < 2 else cell.rjust(width)
                              for i, (cell, width) in enumerate(zip(line, widths))))
    return text + ['']


def with_torch(rows, torch_rows):
    """The rows of `linear` with PyTorch's times and the ratios: above 1 ours is faster.

    Dense is the faster of cuBLAS (f16) and PyTorch (bf16).
    """
    found = {(row['shape'], row['rows']): row for row in torch_rows}
    merged = []
    for row in rows:
        other = found.get((row['shape'], row['rows']), {})
        row = {**row, 'torch_bf16_us': other.get('torch_bf16_us'), 'tinygemm_us': other.get(TINYGEMM.get(row['kind']))}
        dense = min((us for us in (row.get('cublas_us'), row['torch_bf16_us']) if us), default=None)
        row['invariant_x'] = ratio(dense, row.get('invariant_us'))
        row['fastest_x'] = ratio(dense, row.get('fastest_us'))
        row['tinygemm_x'] = ratio(row['tinygemm_us'], row.get('fastest_us'))
        merged.append(row)
    return merged


def columns_of(rows):
    keys = [key for key in rows[0] if key not in ('part', 'shape', 'kind', 'rows')]
    return [(key, key, 0 if key.endswith('gb_s') else 2) for key in keys]


def render(results):
    text = []
    parts = {name: results.get(name) or {} for name in ('linear', 'attention', 'elementwise', 'torch')}
    card = next((part for part in parts.values() if 'copy_gb_s' in part), None)
    if card:
        text += [f'{card["card"]}, capability {card["compute_capability"]}, {card["processors"]} processors, '
                 f'up to {card["clock_mhz"]} MHz, {card["date"]}',
                 f'copy {card["copy_gb_s"]:.0f} GB/s (read and written), read {card["read_gb_s"]:.0f} GB/s: '
                 'the larger is 100 %', '']
    if parts['linear'].get('rows'):
        rows = with_torch(parts['linear']['rows'], parts['torch'].get('rows', []))
        text += table('Products: microseconds a launch; rates are those of `invariant`; ratios above 1: ours is faster',
                      rows, LINEAR)
    for name in ('attention', 'elementwise'):
        rows = parts[name].get('rows')
        if rows:
            text += table(name, rows, columns_of(rows))
    for name, part in parts.items():
        text += [f'FAILED {name}: {failure}' for failure in part.get('failures', [])]
    return '\n'.join(text)


def check():
    row = {'part': 'linear', 'shape': '4096x4096', 'kind': 'any4 g32', 'rows': 1, 'invariant_us': 4.0, 'fastest_us': 2.5,
           'prefill_us': None}
    results = {'linear': {'card': 'a card', 'compute_capability': '9.0', 'processors': 2, 'clock_mhz': 1000, 'date': 'today',
                          'copy_gb_s': 2000.0, 'read_gb_s': 2200.0, 'rows': [row], 'failures': ['planted']},
               'torch': {'rows': [{'shape': '4096x4096', 'rows': 1, 'torch_bf16_us': 10.0, 'tinygemm_g32_us': 5.0}]}}
    text = render(results)
    for wanted in ('2200 GB/s', '2.50', '4.00', 'x tinygemm', 'planted'):
        assert wanted in text, (wanted, text)
    assert 'prefill' not in text, text  # no number, no column
    assert render({'linear': None, 'failed': 0}) == ''
    print('table.py: checked')


def main():
    if sys.argv[1:] == ['--check']:
        check()
        return 0
    with open(sys.argv[1], encoding='utf-8') as file:
        results = json.load(file)
    with open(sys.argv[2], 'w', encoding='utf-8') as file:
        file.write(render(results))
    return 0


if __name__ == '__main__':
    sys.exit(main())
