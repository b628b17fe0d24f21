"""Runs tests/quant/quantize_dump: float rows in, what quant_matrix stored for them out, as NumPy arrays."""
import json
import os
import subprocess

import numpy as np


def unpack(codes, code_bits, n_cols):
    """The byte order in quant/any4.h: (n_rows, row_bytes) packed to (n_rows, n_cols) codes."""
    blocks = codes.reshape(codes.shape[0], -1, 4 * code_bits)
    if code_bits == 4:
        columns = np.concatenate([blocks & 15, blocks >> 4], axis=2)
    elif code_bits == 8:
        columns = blocks
    else:
        low = blocks[:, :, :8]
        columns = np.concatenate([low & 3, low >> 2 & 3, low >> 4 & 3, low >> 6], axis=2)
        if code_bits == 3:
            columns = columns | np.unpackbits(blocks[:, :, 8:], axis=2, bitorder='little') << 2
    columns = columns.reshape(codes.shape[0], -1)
    if columns[:, n_cols:].any():
        raise AssertionError('a code behind the last column is not 0')
    return columns[:, :n_cols]


def quantize(w, method, group_size=0, weighting='auto', mean=None, second=None, seed=0, repeats=0):
    """A dictionary: what quantize_dump lists, its arrays by name (bf16 as float32), codes unpacked."""
    has_moments = mean is not None
    parts = [b'any4rows', np.array([*w.shape, has_moments], '<u4').tobytes(), w.astype('<f4').tobytes()]
    if has_moments:
        parts += [mean.astype('<f4').tobytes(), second.astype('<f4').tobytes()]
    done = subprocess.run([os.environ['TEST_QUANTIZE_DUMP'], method, str(group_size), weighting, str(seed), str(repeats)],
                          input=b''.join(parts), stdout=subprocess.PIPE, check=True)
    line, _, rest = done.stdout.partition(b'\n')
    out = json.loads(line)
    for name, kind, n_rows, n_cols in out.pop('arrays'):
        array = np.frombuffer(rest, kind, n_rows * n_cols).reshape(n_rows, n_cols)
        rest = rest[array.nbytes:]
        out[name] = (array.astype(np.uint32) << 16).view(np.float32) if kind == '<u2' else array
    if rest:
        raise AssertionError('more output than its arrays')
    out['codes'] = unpack(out['codes'], out['code_bits'], out['n_cols'])
    return out
