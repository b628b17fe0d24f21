#!/bin/sh
# Builds the tests of tests/cuda with the compilers alone, for a card or for the host's runtime. Called by run.sh.
#
#   build.sh card|host BUILD_DIR ARCH
#
# BUILD_DIR gets a program a test: test_NAME.run and, with few shapes, few_NAME.run (all that the host gets); and
# bench_kernels, on the host with the CUDA of tests/gpu/fake_cuda. Tests join by themselves: every tests/cuda/test_*.cc is a plain main. One source that fails costs only the
# programs that need it; the exit code tells.
set -u
cd "$(dirname "$0")/../.." || exit 1

# `faults` plants mistakes that only the host's runtime can catch.
host_only=" faults "
# What tests/cuda/meson.build links, and room for tests to come: a program takes from the library what it calls.
c_sources="engine/base/cgroup.c engine/base/cpu_features.c engine/base/status.c engine/base/thread_pool.c engine/sampler.c
    kernels/fixed/any4.c kernels/fixed/attention.c kernels/fixed/swiglu.c
    kernels/kernels.c quant/feedback.c quant/feedback_rows.c quant/kmeans.c quant/pack.c quant/quantize.c quant/rows.c
    tests/kernels/support.c $(echo kernels/scalar/*.c kernels/cuda/*.c)"

compile() { # KIND SOURCE OBJECT [FLAG...]
    kind=$1 source=$2 object=$BUILD/$3
    shift 3
    how="$kind $ARCH $CC $CXX $*"
    # Headers are few: an object is old when any of them changed.
    if [ -f "$object" ] && [ "$(cat "$object.how" 2>/dev/null)" = "$how" ] &&
        [ -z "$(find "$source" kernels quant engine tests/cuda tests/gpu tests/kernels -newer "$object" \
            \( -path "$source" -o -name '*.h' -o -name '*.cuh' \))" ]; then
        return 0
    fi
    rm -f "$object"
    common="-I. -D_GNU_SOURCE -DFIXED_SET=scalar -DQUANT_ROWS=quant_rows_scalar -DFEEDBACK_ROWS_NAME=feedback_rows_scalar"
    case $kind in
    c) $CC -std=gnu11 -O2 -ffp-contract=off -fno-math-errno $common "$@" -c "$source" -o "$object" ;;
    host) $CXX -std=c++17 -O1 -ffp-contract=off $common -Itests/gpu/fake_cuda "$@" -c "$source" -o "$object" ;;
    card)
        "$NVCC" -std=c++17 -O3 -lineinfo -arch="$ARCH" -Xcompiler -ffp-contract=off $common "$@" -x cu -c "$source" -o "$object"
        ;;
    esac || {
        echo "build.sh: $source does not compile" >&2
        return 1
    }
    echo "$how" >"$object.how"
}

if [ "$1" = --compile ]; then
    shift
    compile "$@"
    exit
fi

mode=$1 BUILD=$2 ARCH=$3
CC=${CC:-cc} CXX=${CXX:-c++}
NVCC=${NVCC:-$(command -v nvcc || echo "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc")}
export BUILD ARCH CC CXX NVCC
toolkit=$(dirname "$(dirname "$(readlink -f "$NVCC")")")
cublas=''
[ ! -f "$toolkit/include/cublasLt.h" ] || cublas="-DANY4_CUBLASLT -isystem $toolkit/include"

tests() {
    for source in tests/cuda/test_*.cc; do
        test=${source#tests/cuda/test_}
        test=${test%.cc}
        case "$mode:$host_only" in card:*" $test "*) ;; *) echo "$test" ;; esac
    done
}

sources() { # lines of KIND SOURCE OBJECT FLAG..., the slow ones first
    for source in kernels/cuda/*.cc; do
        case $mode:$source in
        card:*/host_lanes.cc | card:*/host_runtime.cc) ;;
        card:*/launch_quantize.cc) echo "$mode $source lib_cuda_launch_quantize.o -fmad=false" ;; # the processor's bits
        *) echo "$mode $source lib_cuda_$(basename "$source" .cc).o" ;;
        esac
    done
    for test in $(tests); do
        [ "$mode" = host ] || echo "$mode tests/cuda/test_$test.cc test_$test.o"
        echo "$mode tests/cuda/test_$test.cc few_$test.o -DTEST_FEW_SHAPES"
    done
    echo "$mode tests/gpu/bench_kernels.cc main_bench.o"
    for source in $c_sources; do
        object=lib_$(echo "${source%.c}" | tr / _).o
        case $mode:$source in
        *:*none.c) ;; # what stands in for what is here
        card:*/cublas.c) echo "c $source $object $cublas" ;;
        *) echo "c $source $object" ;;
        esac
    done
}

link() { # PROGRAM OBJECT
    rm -f "$BUILD/$1"
    [ -f "$BUILD/$2" ] || return 1
    if [ "$mode" = card ]; then
        "$NVCC" -arch="$ARCH" "$BUILD/$2" "$BUILD/libany4.a" -o "$BUILD/$1" -lpthread -ldl
    else
        $CXX "$BUILD/$2" "$BUILD/libany4.a" -o "$BUILD/$1" -lm -lpthread
    fi
}

status=0
sources | xargs -P "$(nproc 2>/dev/null || echo 4)" -L 1 "$0" --compile || status=1
rm -f "$BUILD/libany4.a"
ar crs "$BUILD/libany4.a" "$BUILD"/lib_*.o || exit 1
for test in $(tests); do
    link "few_$test.run" "few_$test.o" || status=1
    [ "$mode" = host ] || link "test_$test.run" "test_$test.o" || status=1
done
link bench_kernels main_bench.o || status=1
exit $status
