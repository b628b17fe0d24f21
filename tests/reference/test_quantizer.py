"""quant/ against the published methods in plain NumPy (any4_paper.py) and against scikit-learn's k-means."""
import os
import sys
import warnings

os.environ['OMP_NUM_THREADS'] = '1'  # scikit-learn's threads wait by spinning: on rows this short they only cost
import interpreter

interpreter.need('numpy')
import numpy as np

try:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
except ImportError:
    KMeans = None

import any4_paper
from dump import quantize

WIDTHS = [64, 172, 384, 4096]
GROUP_SIZES = [32, 64, 128]
N_ROWS = 6


def rows_of(kind, n_cols, rng):
    n = rng.standard_normal((N_ROWS, n_cols))
    return {'normal': 0.02 * n,
            'student-t5': 0.02 * n / np.sqrt(rng.chisquare(5, n.shape) / 5),
            'bf16': any4_paper.bf16(0.02 * n),  # as weights are stored: many ties
            FAR: 1 + 0.02 * n,
            'few values': np.round(4 * n) / 64,
            'with zeros': np.where(np.arange(n_cols) // 32 % 3 == 1, 0, 0.02 * n)}[kind].astype(np.float32)


# Values exactly halfway between two centres go to the lower code by the method; scikit-learn lets rounding decide, and may
# end in a better or a worse optimum. Rows that are full of them are compared with NumPy alone.
TIED = ['few values']
FAR = 'far'
KINDS = ['normal', 'student-t5', 'bf16', FAR, 'few values', 'with zeros']


def moments_of(n_cols, rng):
    second = np.exp(rng.standard_normal(n_cols))
    mean = 0.3 * np.sqrt(second) * rng.standard_normal(n_cols)
    return mean.astype(np.float32), second.astype(np.float32)


def fits(holds, *what):
    if not holds:
        raise AssertionError(' '.join(str(part) for part in what))


def equal_bits(found, expected, what):
    found, expected = np.ascontiguousarray(found), np.ascontiguousarray(expected)
    different = np.argwhere((found != expected) | (np.signbit(found) != np.signbit(expected)))
    fits(found.shape == expected.shape and not len(different), what, len(different), 'differ, the first at', different[:1],
         found[tuple(different[0])] if len(different) else '', expected[tuple(different[0])] if len(different) else '')


def values_by_format(out):
    """What quant/any4.h says that the stored parts mean."""
    codes = out['codes'].astype(np.int64)
    def by_column(name):
        return any4_paper.spread(out[name], out['n_cols'], out['group_size'])
    if out['kind'] == 'lut_int8':
        table = np.take_along_axis(out['table'].astype(np.int32), codes, axis=1)
        return out['row_scales'] * (by_column('group_scales') * table).astype(np.float32)
    if out['kind'] == 'lut':
        step = np.take_along_axis(out['lut'], codes, axis=1)
    else:
        step = (codes - 2 ** (out['code_bits'] - 1)).astype(np.float32)
    product = by_column('scales') * step
    return product + by_column('zeros') if 'zeros' in out else product


def loss_of(values, w, weight):
    return float(np.sum(weight * (values.astype(np.float64) - w) ** 2))


def sklearn_loss(u, weight, start):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # fewer distinct values than centres
        kmeans = KMeans(len(start), init=start.reshape(-1, 1), n_init=1, max_iter=any4_paper.MAX_ITERATIONS, tol=0)
        kmeans.fit(u.astype(np.float64).reshape(-1, 1), sample_weight=weight)
    return kmeans.inertia_


def partition_loss(u, weight, codes):
    """Weighted squared distance of u to the weighted means of its runs."""
    mass = np.bincount(codes, weight, 16)
    centres = np.bincount(codes, weight * u, 16) / np.where(mass > 0, mass, 1)
    return float(np.sum(weight * (u - centres[codes]) ** 2))


class Paper:
    """any4-paper, row by row; sums up how the tables compare."""

    def __init__(self):
        self.rows = self.equal = 0
        self.worst = {'numpy': 0, 'scikit-learn': 0}

    def compare(self, name, loss, other, scale):
        fits(loss <= 1.0005 * other + 1e-12 * scale, f'loss {loss:g}, {name} has {other:g} from the same start')
        if other > 1e-9 * scale:
            self.worst[name] = max(self.worst[name], loss / other)

    def check(self, w, group_size, mean, second, seed, with_sklearn):
        out = quantize(w, 'any4-paper', group_size, mean=mean, second=second, seed=seed)
        expected = any4_paper.paper(w, group_size, mean=mean, seed=seed or any4_paper.SEED)
        scale, u, _ = any4_paper.asymmetric(w, group_size, 4, any4_paper.MIN_RANGE)
        weight = any4_paper.element_weights(scale, mean, w.shape[1], group_size)
        fits(out['kind'] == 'lut' and out['code_bits'] == 4 and out['group_size'] == group_size, out)
        equal_bits(out['scales'], expected.scales, 'scales')
        equal_bits(out['zeros'], expected.zeros, 'zero points')
        equal_bits(out['values'], values_by_format(out), 'values')
        for row in range(len(w)):
            points, scaled = u[row].astype(np.float64), float(np.sum(weight[row]) * 225)
            loss = partition_loss(points, weight[row], out['codes'][row])
            start = any4_paper.start_plus_plus(u[row], weight[row], 16, seed or any4_paper.SEED)
            self.compare('numpy', loss, partition_loss(points, weight[row], expected.codes[row]), scaled)
            if KMeans and with_sklearn:
                self.compare('scikit-learn', loss, sklearn_loss(u[row], weight[row], start), scaled)
            self.rows += 1
            self.equal += (np.array_equal(out['lut'][row], expected.table[row])
                           and np.array_equal(out['codes'][row], expected.codes[row]))

    def report(self):
        print(f'any4-paper: {self.equal} of {self.rows} rows have the same table and codes as in NumPy; worst loss / '
              + ', '.join(f'{name} {worst:.6f}' for name, worst in self.worst.items() if worst))
        fits(self.equal >= 0.99 * self.rows, 'tables and codes differ from NumPy\'s in more than rounding')


def check_fixed(name, w, group_size):
    out = quantize(w, name, group_size)
    if name.startswith('int'):
        expected = any4_paper.integer(w, group_size, int(name[3:]))
        equal_bits(out['zeros'], expected.zeros, 'zero points')
    else:
        expected = any4_paper.fixed_table(w, group_size, name)
        fits('zeros' not in out, 'zero points')
    equal_bits(out['scales'], expected.scales, 'scales')
    equal_bits(out['values'], values_by_format(out), 'values')
    if out['kind'] == 'lut':
        fits(np.array_equal(out['lut'], expected.table), 'table', out['lut'][0])
    # fp4 and mx4 have two zeros: the values must agree, not which of them stands for 0.
    fits(np.array_equal(out['values'], expected.values), 'values differ in',
         np.argwhere(out['values'] != expected.values)[:3])


def check_ours(name, w, mean, second, losses):
    """Our own format: its values by its formula; appends its loss and that of the paper's method with as many entries."""
    out = quantize(w, name, mean=mean, second=second)
    equal_bits(out['values'], values_by_format(out), 'values')
    paper = any4_paper.paper(w, 128, bits=int(name[3:]), mean=mean)
    weight = np.ones(w.shape[1]) if second is None else second.astype(np.float64)
    ours, theirs = loss_of(out['values'], w, weight), loss_of(paper.values, w, weight)
    fits(abs(loss_of(out['values'], w, 1) - out['error_energy']) <= 1e-9 * out['error_energy'], 'reported error')
    losses.append((ours, theirs))


def report_ours(name, kind, losses):
    """Less loss than the paper's method, but far from zero, where a zero point is what pays: that is printed alone."""
    ratio = float(np.exp(np.mean([np.log(ours / theirs) for ours, theirs in losses if theirs > 0])))
    print(f'{name}, {kind}: loss / published method with as many entries {ratio:.4f}')
    fits(kind == FAR or ratio < 1, name, kind, ratio)


def main():
    paper, totals = Paper(), {}
    for n_cols in WIDTHS:
        for kind in KINDS:
            rng = np.random.default_rng(n_cols * 100 + KINDS.index(kind))
            w = rows_of(kind, n_cols, rng)
            mean, second = moments_of(n_cols, rng)
            for group_size in GROUP_SIZES:
                where = f'{kind}, K {n_cols}, g {group_size}'
                try:
                    paper.check(w, group_size, None, None, 0, kind not in TIED)
                    paper.check(w, group_size, mean, second, 7 + group_size, kind not in TIED)
                    for name in ['int4', 'int3', 'int2', 'int8', 'nf4', 'fp4'] + ['mx4'] * (group_size == 32):
                        where = f'{name}, {kind}, K {n_cols}, g {group_size}'
                        check_fixed(name, w, group_size)
                except AssertionError as error:
                    raise AssertionError(f'{where}: {error}') from error
            for name in ['any4', 'any3', 'any2']:
                losses = totals.setdefault((name, kind), [])
                check_ours(name, w, None, None, losses)
                check_ours(name, w, mean, second, losses)
    paper.report()
    for (name, kind), losses in sorted(totals.items()):
        report_ours(name, kind, losses)
    if not KMeans:
        print('*** SKIPPED: the comparison with scikit-learn (import sklearn fails) ***', file=sys.stderr)


if __name__ == '__main__':
    main()
