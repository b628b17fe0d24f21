#!/bin/sh
# Proves that nothing is taken for granted: makes a bare Debian root with debootstrap, clones this repository into it, and runs
# ./serve.sh to its first completion and ./test.sh there. Needs root, debootstrap and the network; no container engine.
#   tests/container/bare_root.sh [WORK_FOLDER] [MIRROR]     default: a new folder under /var/tmp
# BARE_ROOT=DIR takes a copy of an existing bare root instead of bootstrapping one.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d /var/tmp/any4-bare.XXXXXX)}
mirror=${2:-http://deb.debian.org/debian}
root=$work/root
mkdir -p "$work"
if [ -n "${BARE_ROOT:-}" ]; then
    cp -a "$BARE_ROOT" "$root"
else
    debootstrap --variant=minbase bookworm "$root" "$mirror" >"$work/debootstrap.log"
fi
cleanup() {
    for folder in proc dev sys; do umount -l "$root/$folder" 2>/dev/null || true; done
}
trap cleanup EXIT
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/src"
git clone -q "$here" "$root/src/any4"
if [ -d "${ANY4_FIXTURES:-$here/../shared/fixtures}" ]; then
    mkdir -p "$root/src/shared"
    cp -r "${ANY4_FIXTURES:-$here/../shared/fixtures}" "$root/src/shared/fixtures"
fi

# Python comes with meson, so the first request can be made by what serve.sh installs.
cat >"$root/first_request.py" <<'END'
import json, sys, time, urllib.request
begin = time.time()
body = json.dumps({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}).encode()
while True:
    try:
        request = urllib.request.Request("http://127.0.0.1:18080/v1/completions", body)
        print(urllib.request.urlopen(request).read().decode())
        break
    except OSError as error:
        if time.time() - begin > 900:
            sys.exit("no answer: %s" % error)
        time.sleep(0.2)
END
begin=$(date +%s)
chroot "$root" /bin/sh -c 'cd /src/any4 && exec ./serve.sh --port 18080' >"$work/serve.log" 2>&1 &
server=$!
while [ ! -e "$root/src/any4/build/build.ninja" ]; do
    sleep 1
    kill -0 $server || { cat "$work/serve.log"; exit 1; }
done
chroot "$root" python3 /first_request.py
echo "bare root: ./serve.sh to its first completion: $(($(date +%s) - begin)) s"
kill -TERM $server
wait $server || true

begin=$(date +%s)
status=0
env -u ANY4_FIXTURES chroot "$root" /bin/sh -c 'cd /src/any4 && ./test.sh' >"$work/test.log" 2>&1 || status=$?
tail -n 5 "$work/test.log"
echo "bare root: ./test.sh: $(($(date +%s) - begin)) s, exit code $status"
exit $status
