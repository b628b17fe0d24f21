#!/bin/sh
# Everything there is to do on a machine with a card, in one call and within ten minutes. It needs nvcc and a C++ compiler;
# compute-sanitizer, Python, PyTorch and a packed any4 (scripts/pack.sh) are used where they are.
#
#   tests/gpu/run.sh [--out DIR] [--any4 DIR] [--build DIR] [--arch sm_90] [--only STAGES] [--quick]
#   tests/gpu/run.sh --host [...]   the half that needs no card: the same tests on the host's runtime
#
#   --out     (./gpu-out, or $OUT) for table.txt, results.json, summary.txt and logs.txt
#   --any4    folder with `any4`, to run the demo model on the card and on the processor
#   --build   (a folder in /tmp) for objects, which the next call takes again, and logs
#   --arch    (native) what nvcc compiles for
#   --only    comma list of tests, bench, torch, any4, sanitizers
#   --quick   few sizes in the benchmark
#
# A stage that fails or runs out of time does not stop the others. Exit: 0, 1 where anything failed, 2 usage.
set -u
start=$(pwd)
cd "$(dirname "$0")/../.." || exit 1
here=$(pwd)

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$here/tests/gpu/run.sh" >&2
    exit 2
}

# ---------------------------------------------------------------- arguments

mode=card out=${OUT:-gpu-out} any4='' build='' arch=native only='' quick=''
while [ $# -gt 0 ]; do
    case $1 in
    --host) mode=host ;;
    --quick) quick="--tokens 1,16,512 --shapes 4096x4096,14336x4096 --repeats 5" ;;
    --out | --any4 | --build | --arch | --only)
        [ $# -gt 1 ] || usage
        case $1 in
        --out) out=$2 ;;
        --any4) any4=$2 ;;
        --build) build=$2 ;;
        --arch) arch=$2 ;;
        --only) only=$2 ;;
        esac
        shift
        ;;
    *) usage ;;
    esac
    shift
done
for word in $(echo "$only" | tr , ' '); do
    case $word in tests | bench | torch | any4 | sanitizers) ;; *) usage ;; esac
done

folder() { # made, and absolute: from where the call came
    (cd "$start" && mkdir -p "$1" && cd "$1" && pwd) || exit 2
}
out=$(folder "$out") || exit 2
build=$(folder "${build:-${TMPDIR:-/tmp}/any4-gpu-$(id -u)-$mode}") || exit 2
[ -z "$any4" ] || any4=$(cd "$start" && cd "$any4" && pwd) || exit 2
mkdir -p "$build/logs"
rm -f "$build"/*.run "$build"/logs/*.log "$build"/bench-*.json "$out/results.json" "$out/table.txt" "$out/summary.txt" "$out/logs.txt"

# ---------------------------------------------------------------- stages

started=$(date +%s) total=${ANY4_GPU_SECONDS:-560} failed=0 stages=''

note() { # NAME RESULT SECONDS DETAIL
    printf '%-28s %-8s %4s s  %s\n' "$1" "$2" "$3" "$4" | tee -a "$out/summary.txt"
    stages="$stages${stages:+,
}{\"stage\":\"$1\",\"result\":\"$2\",\"seconds\":$3}"
    case $2 in FAILED | TIMEOUT) failed=1 ;; esac
}

# stage NAME LIMIT_SECONDS COMMAND...: the output goes to a log, whose end is shown where the command fails. Code 77 says
# that it had to be skipped.
stage() {
    name=$1 limit=$2
    shift 2
    log=$build/logs/$(echo "$name" | tr ' ' '_').log
    left=$((started + total - $(date +%s)))
    [ "$left" -ge "$limit" ] || limit=$left
    if [ "$limit" -lt 1 ]; then
        note "$name" TIMEOUT 0 "no time was left"
        return
    fi
    begin=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null
    code=$?
    seconds=$(($(date +%s) - begin))
    last=$(tail -n 1 "$log" | cut -c 1-90)
    case $code in
    0) note "$name" passed "$seconds" "$last" ;;
    77) note "$name" SKIPPED "$seconds" "$last" ;;
    124 | 137) note "$name" TIMEOUT "$seconds" "after $limit s" ;;
    *) note "$name" FAILED "$seconds" "exit code $code" ;;
    esac
    case $code in 0 | 77) ;; *) tail -n 15 "$log" | sed 's/^/    | /' ;; esac
}

skipped() { # NAME WHY
    note "$1" SKIPPED 0 "*** $2 ***"
}

wanted() {
    case ",${only:-$1}," in *",$1,"*) return 0 ;; esac
    return 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

json_or_null() {
    if [ -s "$1" ]; then cat "$1"; else echo null; fi
}

finish() {
    {
        echo "{\"mode\":\"$mode\",\"stages\":[$stages],"
        for part in elementwise linear attention torch; do
            echo "\"$part\":$(json_or_null "$build/bench-$part.json"),"
        done
        echo "\"failed\":$failed}"
    } >"$out/results.json"
    if have python3; then
        python3 tools/gpu/table.py "$out/results.json" "$out/table.txt" || failed=1
    else
        cat "$build"/logs/bench_*.log >"$out/table.txt" 2>/dev/null
    fi
    [ ! -s "$out/table.txt" ] || cat "$out/table.txt"
    for log in "$build"/logs/*.log; do
        printf '\n======== %s\n' "$(basename "$log" .log)"
        cat "$log"
    done >"$out/logs.txt"
    echo
    cat "$out/summary.txt"
    n_skipped=$(grep -c ' SKIPPED ' "$out/summary.txt")
    echo "$([ $failed = 0 ] && echo "nothing failed" || echo "SOMETHING FAILED"), $n_skipped skipped, in" \
        "$(($(date +%s) - started)) s; see $out"
    exit $failed
}

tests_in() { # PREFIX of programs: the names of tests
    for program in "$build/$1"_*.run; do
        [ ! -x "$program" ] || basename "${program#"$build/$1"_}" .run
    done
}

# ---------------------------------------------------------------- without a card

if [ $mode = host ]; then
    for script in tests/gpu/*.sh scripts/*.sh; do
        stage "parse $(basename "$script")" 10 sh -n "$script"
    done
    if have python3; then
        stage "parse Python" 20 python3 -c 'import ast, sys; [ast.parse(open(f).read()) for f in sys.argv[1:]]' \
            tools/gpu/*.py
        stage "check table.py" 20 python3 tools/gpu/table.py --check
    fi
    stage build 600 tests/gpu/build.sh host "$build" -
    for test in $(tests_in few); do
        stage "test $test" 120 "$build/few_$test.run"
    done
    # The benchmark's own logic, on a card that tests/gpu/fake_cuda pretends: its times mean nothing.
    stage "bench linear" 60 "$build/bench_kernels" --part linear --tokens 1,2,9,65 --shapes 64x256 --repeats 1 \
        --json "$build/bench-linear.json"
    stage "bench elementwise" 60 "$build/bench_kernels" --part elementwise --tokens 1 --repeats 1 \
        --json "$build/bench-elementwise.json"
    stage "bench attention" 60 "$build/bench_kernels" --part attention --tokens 1 --contexts 64 --repeats 1 \
        --json "$build/bench-attention.json"
    finish
fi

# ---------------------------------------------------------------- with a card

if have nvidia-smi; then
    stage card 20 sh -c 'nvidia-smi -q -d CLOCK,POWER,PERFORMANCE && nvidia-smi && nvidia-smi -L'
else
    skipped card "no nvidia-smi"
fi
stage build 240 tests/gpu/build.sh card "$build" "$arch"

if wanted tests; then
    for test in $(tests_in test); do
        stage "test $test" 60 "$build/test_$test.run" 5 # seeds, where a test takes a number
    done
fi

if wanted bench; then
    stage "bench elementwise" 30 "$build/bench_kernels" --part elementwise --json "$build/bench-elementwise.json" \
        ${quick:+--tokens 1,64}
    stage "bench linear" 170 "$build/bench_kernels" --part linear --seconds 150 --json "$build/bench-linear.json" $quick
    stage "bench attention" 60 "$build/bench_kernels" --part attention --seconds 45 --json "$build/bench-attention.json"
fi

if wanted torch; then
    if have python3; then
        stage torch 120 python3 tools/gpu/torch_int4.py --seconds 100 --json "$build/bench-torch.json" $quick
    else
        skipped torch "no Python"
    fi
fi

if wanted any4; then
    if [ -n "$any4" ]; then
        stage any4 120 tests/gpu/any4.sh "$any4/any4" configs/demo-model
    else
        skipped any4 "no --any4 folder"
    fi
fi

if wanted sanitizers; then
    sanitizer=$(command -v compute-sanitizer || echo "${CUDA_PATH:-/usr/local/cuda}/bin/compute-sanitizer")
    for tool in memcheck racecheck; do
        if [ -x "$sanitizer" ]; then
            # Several at a time: a program spends its time in the checker, on the processor.
            stage "$tool" 150 sh -c 'tool=$1 sanitizer=$2; shift 2
                printf "%s\n" "$@" | xargs -P 6 -I PROGRAM sh -c \
                    "timeout -k 5 140 $sanitizer --tool $tool --error-exitcode 9 PROGRAM || { echo PROGRAM: \$?; exit 1; }"' \
                sh "$tool" "$sanitizer" "$build"/few_*.run
        else
            skipped "$tool" "no compute-sanitizer"
        fi
    done
fi
finish
