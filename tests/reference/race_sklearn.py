"""The race against scikit-learn: any4 and any4-paper against KMeans(16, n_init=1, init='k-means++', max_iter=100) with
sample_weight, on the same rows of 4096 in the same run, one thread each. Prints medians of milliseconds of processor time a
row, which other programs on the machine disturb least. Fails where any4 is less than 100 times as fast."""
import os
import sys
import time

for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):  # read when NumPy is imported
    os.environ[name] = '1'
import interpreter

interpreter.need('numpy', 'sklearn', 'threadpoolctl')
import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

import any4_paper
from dump import quantize

N_ROWS, N_COLS, GROUP_SIZE, ROUNDS, BAR = 64, 4096, 128, 3, 100


def race_sklearn(u, weight):
    """Median seconds a row. Only fit is timed: scaling, rounding and packing are ours to do on top."""
    seconds = []
    for row, points in enumerate(u.astype(np.float64)):
        kmeans = KMeans(16, n_init=1, init='k-means++', max_iter=100, random_state=row)
        begin = time.thread_time()
        kmeans.fit(points.reshape(-1, 1), sample_weight=weight[row])
        seconds.append(time.thread_time() - begin)
    return float(np.median(seconds))


def main():
    rng = np.random.default_rng(1)
    w = (0.02 * rng.standard_normal((N_ROWS, N_COLS))).astype(np.float32)
    second = np.exp(rng.standard_normal(N_COLS)).astype(np.float32)
    mean = (0.3 * np.sqrt(second) * rng.standard_normal(N_COLS)).astype(np.float32)
    scale, u, _ = any4_paper.asymmetric(w, GROUP_SIZE, 4, any4_paper.MIN_RANGE)
    weight = any4_paper.element_weights(scale, mean, N_COLS, GROUP_SIZE)
    times = {name: [] for name in ('scikit-learn', 'any4', 'any4-paper')}
    for _ in range(ROUNDS):  # in turn, so that a machine that slows down slows all three
        with threadpool_limits(1):
            times['scikit-learn'].append(race_sklearn(u, weight))
        for method in ('any4', 'any4-paper'):
            out = quantize(w, method, mean=mean, second=second, repeats=21)
            times[method].append(out['median_seconds'] / N_ROWS)
    sklearn = float(np.median(times['scikit-learn']))
    for method, seconds in times.items():
        ours = float(np.median(seconds))
        print(f'{method:12} {1e3 * ours:9.4f} ms a row of {N_COLS}, {sklearn / ours:8.1f} times scikit-learn\'s speed')
    return 0 if sklearn >= BAR * np.median(times['any4']) else 1


if __name__ == '__main__':
    sys.exit(main())
