#!/bin/sh
# Installs what is missing, builds any4 and serves a model:
#   ./serve.sh                     the demo model that ships in this repository
#   ./serve.sh MODEL_DIR [FLAGS]   your Hugging Face folder; flags go to `any4 serve` (see any4 serve --help)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/scripts/deps.sh"

# The folder may stand first, or last behind the flags.
model=""
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    model=$1
    shift
else
    for last in "$@"; do :; done
    if [ $# -gt 0 ] && [ -d "$last" ]; then
        model=$last
        count=$(($# - 1))
        for argument in "$@"; do # all but the last go round once
            shift
            [ $count -gt 0 ] && set -- "$@" "$argument"
            count=$((count - 1))
        done
    fi
fi
if [ -z "$model" ]; then
    model="$here/configs/demo-model"
elif [ ! -d "$model" ]; then
    echo "any4: $model is no folder" >&2
    exit 3
fi
model=$(cd "$model" && pwd)

install_packages $packages_build
cd "$here"
[ -x build/server/any4 ] || echo "any4: building (a minute the first time)" >&2
if ! build_in build server/any4 --buildtype=release -Dtests=disabled $(cuda_options); then
    echo "any4: building again without CUDA" >&2
    build_in build server/any4 --buildtype=release -Dtests=disabled -Dcuda=disabled
fi
exec ./build/server/any4 serve "$model" "$@"
