# The one list of packages that any4 needs, and how they get installed. Sourced by serve.sh and test.sh.
# Debian 12 or newer, Ubuntu 24.04 or newer (Meson 1.0); elsewhere install the same libraries yourself and these scripts go on.

packages_build="gcc g++ libc6-dev meson ninja-build pkg-config libmicrohttpd-dev libcjson-dev libsentencepiece-dev
libxxhash-dev"
packages_test="libcriterion-dev python3 python3-numpy"

# install_packages PACKAGE...: installs those that are missing; asks for nothing where all are there.
install_packages() {
    if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
        echo "any4: no apt here; needed (Debian's names): $*" >&2
        return 0
    fi
    missing=""
    for package in "$@"; do
        case "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" in
        *"install ok installed"*) ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -z "$missing" ] && return 0
    echo "any4: installing:$missing" >&2
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "any4: not root and no sudo; please install:$missing" >&2
            return 1
        fi
        as_root="sudo"
    fi
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# cuda_options: Meson options for this machine. CUDA is compiled in where there are nvcc and cards that it is for, for those cards.
cuda_options() {
    nvcc=$(command -v nvcc || echo "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc")
    cards=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d '. ' | sort -n -u |
        while read -r card; do [ "$card" -ge 80 ] 2>/dev/null && echo "$card"; done | paste -s -d , -)
    if [ -x "$nvcc" ] && [ -n "$cards" ]; then
        echo "-Dcuda=enabled -Dcards=$cards"
    else
        echo "-Dcuda=disabled"
    fi
}

# build_in DIRECTORY TARGET MESON_OPTION...: configures once (again if the options changed) and compiles the target.
build_in() {
    directory=$1
    target=$2
    shift 2
    if [ -f "$directory/build.ninja" ]; then
        meson configure "$directory" "$@" >/dev/null
    elif ! meson setup "$directory" "$@" >"$directory.log" 2>&1; then
        cat "$directory.log" >&2
        return 1
    fi
    if ! ninja -C "$directory" "$target" >"$directory.log" 2>&1; then
        tail -n 40 "$directory.log" >&2
        return 1
    fi
}
