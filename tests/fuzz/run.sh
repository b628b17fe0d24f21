#!/bin/sh
# Builds the libFuzzer targets and runs each for COUNT executions (default one million):
#   tests/fuzz/run.sh [COUNT] [TARGET...]        targets: json config safetensors cache tokenizer detokenizer request
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
count=${1:-1000000}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- json config safetensors cache tokenizer detokenizer request
build=${FUZZ_BUILD:-$root/build-fuzz}
[ -d "$build" ] || CC=clang CXX=clang++ meson setup "$build" "$root" -Dfuzz=true -Dcuda=disabled
for target in "$@"; do
    ninja -C "$build" "tests/fuzz/fuzz_$target"
    mkdir -p "$build/corpus-$target"
    dictionary="$root/tests/fuzz/$target.dict"
    # Findings go into the first folder, seeds are read from the second; crash files land in the build folder.
    "$build/tests/fuzz/fuzz_$target" -runs="$count" -seed=1 -max_len=8192 -timeout=20 -rss_limit_mb=3072 \
        $([ -f "$dictionary" ] && echo "-dict=$dictionary") -artifact_prefix="$build/" \
        -print_final_stats=1 -verbosity=0 "$build/corpus-$target" "$root/tests/fuzz/corpus/$target"
    echo "fuzz_$target: $count executions clean"
done
