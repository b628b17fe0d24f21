"""The published quantizers in plain NumPy, written from their method (docs/quantization.md), to check quant/ against.

Rows are float32, as weights are; every step that the C code takes in float32 is taken in float32 here, so that scales
and zero points must agree bit for bit. k-means runs in float64. Nothing here is fast, and nothing is shared with quant/.
"""
from dataclasses import dataclass

import numpy as np

MIN_RANGE = np.float32(1e-6)
MAX_ITERATIONS = 100
SEED = 2507

NF4 = [-1, -.6961928, -.5250731, -.3949175, -.2844414, -.1847734, -.0910500, 0,
       .0795803, .1609302, .2461123, .3379152, .4407098, .5626170, .7229568, 1]
FP4 = [-1, -.66667, -.5, -.33333, -.25, -.16667, -.0052083, 0, 0, .0052083, .16667, .25, .33333, .5, .66667, 1]
MX4 = [-6, -4, -3, -2, -1.5, -1, -.5, 0, 0, .5, 1, 1.5, 2, 3, 4, 6]


@dataclass
class Quantized:
    """Values of one matrix: scales, zeros (n_rows, n_groups); table (n_rows, 2^bits) or None; codes (n_rows, n_cols)."""
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    table: np.ndarray
    values: np.ndarray


def bf16(x):
    """Rounds float32 to the nearest bf16, halves to even; returned as float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7fff) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xffff0000)).view(np.float32)


def group_starts(n_cols, group_size):
    return np.arange(0, n_cols, group_size)


def spread(per_group, n_cols, group_size):
    """(n_rows, n_groups) to (n_rows, n_cols): every column has its group's value; the last group is just shorter."""
    return np.repeat(per_group, group_size, axis=1)[:, :n_cols]


def min_max(w, group_size):
    starts = group_starts(w.shape[1], group_size)
    return np.minimum.reduceat(w, starts, axis=1), np.maximum.reduceat(w, starts, axis=1)


def asymmetric(w, group_size, bits, min_range):
    """Scale (max - min) / (2^bits - 1), u = (w - min) / scale, and the value of the middle code, all unrounded."""
    low, high = min_max(w, group_size)
    scale = np.maximum(high - low, min_range) / np.float32(2 ** bits - 1)
    with np.errstate(divide='ignore', invalid='ignore'):
        each = spread(scale, w.shape[1], group_size)
        u = np.where(each > 0, (w - spread(low, w.shape[1], group_size)) / each, np.float32(0))
    return scale, u, low + np.float32(2 ** (bits - 1)) * scale


def uniforms(seed):
    """splitmix64 as doubles in [0, 1)."""
    mask = 2 ** 64 - 1
    state = seed
    while True:
        state = state + 0x9e3779b97f4a7c15 & mask
        x = (state ^ state >> 30) * 0xbf58476d1ce4e5b9 & mask
        x = (x ^ x >> 27) * 0x94d049bb133111eb & mask
        yield ((x ^ x >> 31) >> 11) * 2.0 ** -53


def start_plus_plus(u, weight, n_centres, seed):
    """Greedy k-means++: each next centre is the best of 2 + floor(ln n) points drawn by weight times squared distance."""
    draws = 2 + int(np.log(n_centres))
    uniform = uniforms(seed)
    points, index = np.unique(u.astype(np.float64), return_inverse=True)
    mass = np.bincount(index.ravel(), weight)
    at = np.searchsorted(np.cumsum(mass), next(uniform) * mass.sum(), side='right')
    centres = [points[min(at, len(points) - 1)]]
    distance = (points - centres[0]) ** 2
    while len(centres) < n_centres:
        sums = np.cumsum(mass * distance)
        if not sums[-1] > 0:  # every point is a centre already
            centres.append(centres[-1])
            continue
        drawn = [min(np.searchsorted(sums, next(uniform) * sums[-1], side='right'), len(points) - 1)
                 for _ in range(draws)]
        left = [np.sum(mass * np.minimum(distance, (points - points[i]) ** 2)) for i in drawn]
        centres.append(points[drawn[int(np.argmin(left))]])
        distance = np.minimum(distance, (points - centres[-1]) ** 2)
    return np.sort(np.array(centres))


def nearest(u, centres):
    """Index of the nearest of ascending centres; halfway between two counts as the lower."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, u, side='left')


def lloyd(u, weight, start):
    """Centres and labels after at most 100 iterations; a cluster without weight keeps its centre."""
    u = u.astype(np.float64)
    centres = np.array(start, np.float64)
    labels = nearest(u, centres)
    for _ in range(MAX_ITERATIONS):
        mass = np.bincount(labels, weight, len(centres))
        moment = np.bincount(labels, weight * u, len(centres))
        centres = np.where(mass > 0, moment / np.where(mass > 0, mass, 1), centres)
        before, labels = labels, nearest(u, centres)
        if np.array_equal(before, labels):
            break
    return centres, labels


def element_weights(scale, mean, n_cols, group_size):
    """|mean of the column's activation| times the group's scale; 1 without calibration."""
    if mean is None:
        return np.ones((scale.shape[0], n_cols))
    return np.abs(mean.astype(np.float64)) * spread(scale.astype(np.float64), n_cols, group_size)


def values_of(codes, scales, zeros, table, group_size):
    """scale * table[code] + zero in float32, as quant/any4.h has it."""
    n_cols = codes.shape[1]
    return (spread(scales, n_cols, group_size) * np.take_along_axis(table, codes.astype(np.int64), axis=1)
            + spread(zeros, n_cols, group_size))


def paper(w, group_size, bits=4, mean=None, seed=SEED):
    """any4 as published (Elhoushi and Johnson, ICML 2025), and any3 and any2 likewise. Every rounding comes last."""
    n_rows, n_cols = w.shape
    middle = 2 ** (bits - 1)
    scale, u, zero = asymmetric(w, group_size, bits, MIN_RANGE)
    weights = element_weights(scale, mean, n_cols, group_size)
    table = np.empty((n_rows, 2 ** bits), np.float32)
    codes = np.empty((n_rows, n_cols), np.uint8)
    for row in range(n_rows):
        start = start_plus_plus(u[row], weights[row], 2 ** bits, seed)
        centres, codes[row] = lloyd(u[row], weights[row], start)
        table[row] = bf16((centres - middle).astype(np.float32))
    scales, zeros = bf16(scale), bf16(zero)
    return Quantized(codes, scales, zeros, table, values_of(codes, scales, zeros, table, group_size))


def integer(w, group_size, bits):
    """int2, int3, int4, int8: round to nearest (halves to even) between the group's extremes."""
    scale, u, zero = asymmetric(w, group_size, bits, np.float32(0))
    codes = np.minimum(np.rint(u), 2 ** bits - 1).astype(np.uint8)
    scales, zeros = bf16(scale), bf16(zero)
    ramp = np.arange(2 ** bits, dtype=np.float32) - np.float32(2 ** (bits - 1))
    table = np.broadcast_to(ramp, (w.shape[0], 2 ** bits))
    return Quantized(codes, scales, zeros, table, values_of(codes, scales, zeros, table, group_size))


def fixed_table(w, group_size, name):
    """nf4 and fp4 against the group's largest magnitude, mx4 against a power of two; no zero points."""
    low, high = min_max(w, group_size)
    largest = np.maximum(-low, high)
    values = {'nf4': NF4, 'fp4': FP4, 'mx4': MX4}[name]
    if name == 'mx4':  # 6 is the largest value: 2^(2 + the exponent of the scale) <= largest < 2^(3 + ...)
        scale = np.where(largest > 0, np.ldexp(np.float32(1), np.frexp(largest)[1] - 1 - 2), np.float32(0))
    else:
        scale = largest
    scale = scale.astype(np.float32)
    with np.errstate(divide='ignore', invalid='ignore'):
        each = spread(scale, w.shape[1], group_size)
        u = np.where(each > 0, w / each, np.float32(0)).astype(np.float64)
    codes = nearest(u, np.array(values, np.float32).astype(np.float64)).astype(np.uint8)
    table = np.broadcast_to(bf16(np.array(values, np.float32)), (w.shape[0], 16))
    scales, zeros = bf16(scale), np.zeros_like(scale)
    return Quantized(codes, scales, zeros, table, values_of(codes, scales, zeros, table, group_size))
