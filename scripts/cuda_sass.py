#!/usr/bin/env python3
"""Counts instructions per weight in the inner loops of the kernels over 4-bit matrices, from compiled code.

    cuda_sass.py OBJECT [CARD]     OBJECT: what scripts/nvcc.py wrote; CARD: sm_90 by default

Needs cuobjdump (CUDA toolkit) on PATH. The inner loop is the shortest stretch that jumps back and holds most of the
kernel's products; a lane's weights in it are known from the kernel: 128 of gemv (a row of a tile), 64 of gemm (a
sixteenth of two rows of tiles). "int" are the instructions of the integer pipe, "shared" loads from shared memory.
"""
import re
import shutil
import subprocess
import sys

PRODUCTS = {'HMMA', 'HFMA2', 'FFMA'}
INTEGER = {'LOP3', 'PRMT', 'SHF', 'IADD3', 'LEA', 'ISETP', 'SEL', 'VIADD', 'VIMNMX', 'IMNMX', 'PLOP3', 'IADD'}


def instructions(text):
    """(address, opcode, jump target or None) in order."""
    found = []
    for match in re.finditer(r'/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)([^;]*);', text):
        target = re.search(r'0x([0-9a-f]+)', match.group(3)) if match.group(2) == 'BRA' else None
        found.append((int(match.group(1), 16), match.group(2), int(target.group(1), 16) if target else None))
    return found


def inner_loop(code):
    loops = [[op for at, op, _ in code if target <= at <= address]
             for address, _, target in code if target is not None and target < address]
    products = [sum(op in PRODUCTS for op in loop) for loop in loops]
    enough = [loop for loop, n in zip(loops, products) if n and n >= 0.6 * max(products)]
    return min(enough, key=len) if enough else []


def main():
    if not shutil.which('cuobjdump'):
        print('cuda_sass.py: cuobjdump (CUDA toolkit) is not on PATH', file=sys.stderr)
        return 1
    path, card = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else 'sm_90'
    text = subprocess.run(['cuobjdump', '-sass', '-arch', card, path], capture_output=True, text=True, check=True).stdout
    print(f'{"kernel (" + card + ")":48} {"int":>6} {"shared":>6} {"issue":>6}   per weight')
    rows = []
    for part in text.split('Function : ')[1:]:
        name = subprocess.run(['c++filt', part.split('\n')[0].strip()], capture_output=True, text=True, check=True)
        short = re.split(r'\((?:any4|prefill|grouped)_args', name.stdout)[0].replace('void ', '').strip()
        weights = 128 if 'gemv' in short else 64
        loop = inner_loop(instructions(part))
        if loop:
            rows.append((short, sum(op in INTEGER for op in loop) / weights, loop.count('LDS') / weights,
                         len(loop) / weights))
    for row in sorted(rows):
        print('%-48s %6.2f %6.2f %6.2f' % row)
    return 0


if __name__ == '__main__':
    sys.exit(main())
