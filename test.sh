#!/bin/sh
# Installs what is missing, builds any4 with its tests and runs them all. Arguments go to `meson test`, e.g.
#   ./test.sh --suite kernels
# Long runs are suites of their own, see docs/testing.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/scripts/deps.sh"

install_packages $packages_build $packages_test
cd "$here"
echo "any4: building" >&2
# Where there is nvcc: three of the six kinds of card, for minutes; every one is Meson's default.
build_in build-test all -Dtests=enabled -Dcards=80,90,120
status=0
rm -f build-test/meson-logs/testlog.json
meson test -C build-test --no-rebuild --print-errorlogs --no-suite long "$@" || status=$?
python3 scripts/summary.py build-test/meson-logs/testlog.json || status=1
exit $status
