#!/usr/bin/env python3
"""Times PyTorch's 4-bit product (`torch._weight_int4pack_mm`, tinygemm) and its bf16 `F.linear`, for comparison with
`tests/gpu/bench_kernels.cc`: the same shapes and rows, CUDA graphs over copies of the weights that together are more than
twice the cache, the median of 9.

    torch_int4.py [--tokens 1,2,...] [--shapes ROWSxCOLS,...] [--repeats N] [--seconds S] [--json PATH]

Exit: 0 done, 1 a product failed, 77 no PyTorch or no card.
"""
import argparse
import json
import math
import sys
import time

LOGITS_ROWS, LOGITS_MAX_TOKENS = 65536, 128  # as in kernels/cuda/bench_linear.h
GRAPH_US, GRAPH_MAX_US, SAMPLE_US, GRAPH_LAUNCHES = 500, 30000, 2500, 64


def skip(why):
    print(f'*** SKIPPED: {why} ***')
    sys.exit(77)


try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    skip(f'no PyTorch ({error})')


class Timer:
    def __init__(self, repeats):
        self.repeats = repeats
        self.begin = torch.cuda.Event(enable_timing=True)
        self.end = torch.cuda.Event(enable_timing=True)

    def elapsed_us(self, work):
        self.begin.record()
        work()
        self.end.record()
        self.end.synchronize()
        return 1e3 * self.begin.elapsed_time(self.end)

    def us(self, n_copies, launch):
        """Microseconds a launch; launch(i) works on copy i."""

        def round_of_copies():
            for i in range(n_copies):
                launch(i)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm-up where the capture will be: libraries take their memory now
            round_of_copies()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        once = self.elapsed_us(round_of_copies) / n_copies
        n = n_copies * max(1, math.ceil(min(GRAPH_LAUNCHES, GRAPH_US / max(once, 1)) / n_copies))
        if n * once > GRAPH_MAX_US:
            n = min(n, max(2, int(GRAPH_MAX_US / once)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(n):
                launch(i % n_copies)
        graph_us = self.elapsed_us(graph.replay)
        times = int(min(SAMPLE_US / graph_us, 100)) + 1

        def replay():
            for _ in range(times):
                graph.replay()

        self.elapsed_us(replay)
        self.elapsed_us(replay)
        samples = sorted(self.elapsed_us(replay) / (times * n) for _ in range(self.repeats))
        return samples[len(samples) // 2]


def copies_for(n_bytes):
    cache = getattr(torch.cuda.get_device_properties(0), 'L2_cache_size', 0) or (64 << 20)
    return 2 * cache // n_bytes + 1


INNER_K_TILES = 8


def packed_int4(n_rows, n_cols):
    """Random 4-bit weights in tinygemm's order. The packer took int32, one weight each, before PyTorch 2.5, and takes two
    weights a byte since."""
    pairs = torch.randint(0, 256, (n_rows, n_cols // 2), dtype=torch.uint8, device='cuda')
    try:
        return torch.ops.aten._convert_weight_to_int4pack(pairs, INNER_K_TILES)
    except RuntimeError:
        wide = torch.stack((pairs >> 4, pairs & 15), dim=-1).reshape(n_rows, n_cols).to(torch.int32)
        return torch.ops.aten._convert_weight_to_int4pack(wide, INNER_K_TILES)


class Int4:
    def __init__(self, n_rows, n_cols, group):
        first = packed_int4(n_rows, n_cols)
        scales = torch.rand((n_cols // group, n_rows, 2), device='cuda').to(torch.bfloat16)
        n_copies = copies_for(first.numel() * first.element_size() + scales.numel() * scales.element_size())
        self.group = group
        self.copies = [(first.clone(), scales.clone()) for _ in range(n_copies)]

    def launch(self, x, i):
        packed, scales = self.copies[i]
        return torch.ops.aten._weight_int4pack_mm(x, packed, self.group, scales)


class Dense:
    def __init__(self, n_rows, n_cols):
        weight = torch.randn((n_rows, n_cols), device='cuda').to(torch.bfloat16)
        self.copies = [weight] + [weight.clone() for _ in range(copies_for(2 * weight.numel()) - 1)]

    def launch(self, x, i):
        return F.linear(x, self.copies[i])


KINDS = {'torch_bf16_us': Dense,
         'tinygemm_g32_us': lambda n_rows, n_cols: Int4(n_rows, n_cols, 32),
         'tinygemm_g128_us': lambda n_rows, n_cols: Int4(n_rows, n_cols, 128)}


def measure(shapes, tokens, timer, seconds):
    """(rows, failures): a row has a shape, a number of rows of x and a time per kind, None where there is none."""
    until = time.monotonic() + seconds
    rows, failures = {}, []
    for n_rows, n_cols in shapes:
        for key, make in KINDS.items():
            if time.monotonic() > until:
                print('out of time: the rest is left out')
                return list(rows.values()), failures
            shape = f'{n_rows}x{n_cols}'
            try:
                weights = make(n_rows, n_cols)
                for m in tokens:
                    if n_rows > LOGITS_ROWS and m > LOGITS_MAX_TOKENS:
                        continue
                    x = torch.randn((m, n_cols), device='cuda').to(torch.bfloat16)
                    row = rows.setdefault((shape, m), {'shape': shape, 'rows': m})
                    row[key] = timer.us(len(weights.copies), lambda i, x=x, w=weights: w.launch(x, i))
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                failures.append(f'{key}, {shape}: {str(error).splitlines()[0]}')
                print('FAILED', failures[-1])
            weights = x = None
            torch.cuda.empty_cache()
    return list(rows.values()), failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--tokens', default='1,2,4,8,16,32,64,128,512,2048')
    parser.add_argument('--shapes', default='4096x4096,14336x4096,4096x14336,2048x8192,8192x2048,128256x4096')
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--seconds', type=float, default=120)
    parser.add_argument('--json')
    options = parser.parse_args()
    if not torch.cuda.is_available():
        skip('PyTorch finds no card')
    shapes = [tuple(int(n) for n in shape.split('x')) for shape in options.shapes.split(',')]
    tokens = [int(n) for n in options.tokens.split(',')]
    torch.manual_seed(1)
    with torch.no_grad():
        rows, failures = measure(shapes, tokens, Timer(options.repeats), options.seconds)
    result = {'torch': torch.__version__, 'cuda': torch.version.cuda, 'card': torch.cuda.get_device_name(0),
              'failures': failures, 'rows': rows}
    if options.json:
        with open(options.json, 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=1)
    print(f'PyTorch {torch.__version__}, {result["card"]}')
    print(f'{"shape":14} {"rows":>6}' + ''.join(f' {key:>16}' for key in KINDS))
    for row in rows:
        print(f'{row["shape"]:14} {row["rows"]:6}' + ''.join(
            f' {row[key]:16.2f}' if row.get(key) else f' {"-":>16}' for key in KINDS))
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
