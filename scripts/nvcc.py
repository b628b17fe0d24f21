#!/usr/bin/env python3
"""Compiles one CUDA source for every card and refuses kernels that spill registers or need a stack frame.

    nvcc.py NVCC SOURCE ROOT OBJECT REPORT DEPENDENCIES ARCH... [-FLAG...]

OBJECT is a fat binary; REPORT gets a line a kernel and card, DEPENDENCIES a Makefile rule; flags go to nvcc.
"""
import re
import shutil
import subprocess
import sys


def demangled(names):
    tool = shutil.which('c++filt')
    if not tool:
        return names
    out = subprocess.run([tool], input='\n'.join(names), capture_output=True, text=True, check=True).stdout
    return [line.split('(')[0].replace('void ', '') if line else name
            for name, line in zip(names, out.splitlines())]


def kernels(text):
    """(kernel, card, registers, stack bytes, spilled bytes) of what `ptxas -v` printed."""
    found = []
    for part in re.split(r'Compiling entry function ', text)[1:]:
        name, card = re.match(r"'(\S+)' for '(\w+)'", part).groups()
        stack, stores, loads = re.search(r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads',
                                         part).groups()
        registers = re.search(r'Used (\d+) registers', part).group(1)
        found.append((name, card, int(registers), int(stack), int(stores) + int(loads)))
    return found


def main():
    nvcc, source, root, out, report, dependencies, *rest = sys.argv[1:]
    cards = [argument for argument in rest if not argument.startswith('-')]
    flags = [argument for argument in rest if argument.startswith('-')]
    command = [nvcc, '-std=c++17', '-O3', '-x', 'cu', '-I', root, '-Xptxas', '-v', '-Xcompiler', '-Wall,-Wextra',
               '-t', '2', '-MD', '-MF', dependencies, '-c', source, '-o', out, *flags]
    for card in cards:
        command.append(f'-gencode=arch=compute_{card},code=sm_{card}')
    command.append(f'-gencode=arch=compute_{cards[-1]},code=compute_{cards[-1]}')  # for cards to come
    run = subprocess.run(command, capture_output=True, text=True)
    messages = [line for line in run.stderr.splitlines()
                if line and not re.match(r'\s*(ptxas info|\d+ bytes (stack|gmem))', line)]
    if run.returncode or messages:
        print(run.stderr if run.returncode else '\n'.join(messages), file=sys.stderr)
    if run.returncode:
        return 1
    found = kernels(run.stderr)
    names = demangled([kernel[0] for kernel in found])
    bad = 0
    with open(report, 'w', encoding='utf-8') as file:
        for name, (_, card, registers, stack, spilled) in sorted(zip(names, found)):
            print(f'{card:8} {registers:4} registers {stack:4} stack {spilled:4} spilled  {name}', file=file)
            if stack or spilled:
                bad += 1
                print(f'{name} for {card}: {stack} bytes of stack, {spilled} spilled', file=sys.stderr)
    with open(source, encoding='utf-8') as file:
        expected = '.cuh"' in file.read()
    if expected and not found:
        print(f'{source}: no kernels in it', file=sys.stderr)
    return 1 if bad or (expected and not found) else 0


if __name__ == '__main__':
    sys.exit(main())
