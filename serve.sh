#!/bin/sh
# Installs what is missing, builds any4 and serves a model:
#   ./serve.sh                     the demo model that ships in this repository
#   ./serve.sh MODEL_DIR [FLAGS]   your Hugging Face folder; flags go to `any4 serve` (see any4 serve --help)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/scripts/deps.sh"

case "${1:-}" in
"" | -*) model="$here/configs/demo-model" ;;
*)
    if [ ! -d "$1" ]; then
        echo "any4: $1 is no folder" >&2
        exit 3
    fi
    model=$(cd "$1" && pwd)
    shift
    ;;
esac

install_packages $packages_build
cd "$here"
echo "any4: building (a minute the first time)" >&2
build_in build server/any4 --buildtype=release -Dtests=disabled
exec ./build/server/any4 serve "$model" "$@"
