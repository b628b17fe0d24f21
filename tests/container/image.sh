#!/bin/sh
# Builds the Dockerfile for real with buildah, without a container engine, and tries the image as it would be deployed: as a
# user that nobody foresaw, on a read-only root. Needs root, buildah, debootstrap (or BARE_ROOT=DIR) and the network.
#   tests/container/image.sh [WORK_FOLDER]
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d /var/tmp/any4-image.XXXXXX)}
mkdir -p "$work/storage" "$work/run" "$work/source"
b="buildah --root $work/storage --runroot $work/run --storage-driver vfs"
if [ -n "${BARE_ROOT:-}" ]; then
    bare=$BARE_ROOT
else
    bare=$work/bare
    [ -d "$bare" ] || debootstrap --variant=minbase bookworm "$bare" http://deb.debian.org/debian >"$work/debootstrap.log"
fi

# A base image of our own stands in for the registry's.
base=$($b from scratch)
$b copy -q "$base" "$bare" /
$b commit -q "$base" any4-base >/dev/null
git -C "$here" archive HEAD | tar -x -C "$work/source"
begin=$(date +%s)
$b bud -q --isolation chroot --network host --build-arg BASE=localhost/any4-base -t any4 "$work/source" >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log"
    exit 1
}
container=$($b from any4)
image=$($b mount "$container")
echo "image: built in $(($(date +%s) - begin)) s, $(du -sm "$image" | cut -f1) MiB, $(find "$image" -type f | wc -l) files"
find "$image" -name '*sh' -path '*bin*' | grep . && { echo "image: there is a shell in it"; exit 1; }

# What a container engine would do with --user 12345 --read-only: the image's root, bound read-only, another user.
root=$work/root
mkdir -p "$root"
mount --bind "$image" "$root"
mount -o remount,ro,bind "$root"
server=
trap 'kill $server 2>/dev/null || true; umount -l "$root"; '"$b"' umount "$container" >/dev/null; rm -rf "$work/storage"' EXIT
touch "$root/should-fail" 2>/dev/null && { echo "image: the root is not read-only"; exit 1; }
env -i PATH="$PATH" ANY4_HOST=127.0.0.1 ANY4_PORT=18081 chroot --userspec=12345:12345 "$root" /usr/bin/any4 serve /usr/share/any4/demo-model >"$work/serve.log" 2>&1 &
server=$!
for i in $(seq 100); do
    env -i PATH="$PATH" ANY4_PORT=18081 chroot --userspec=12345:12345 "$root" /usr/bin/any4 healthcheck >/dev/null 2>&1 && break
    sleep 0.1
done
env -i PATH="$PATH" ANY4_PORT=18081 chroot --userspec=12345:12345 "$root" /usr/bin/any4 healthcheck || { cat "$work/serve.log"; exit 1; }
grep -q '^Uid:[[:space:]]*12345' "/proc/$server/status" # env and chroot exec in place: the pid is the server's own
python3 - <<'END'
import json, urllib.request
body = json.dumps({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}).encode()
answer = json.load(urllib.request.urlopen("http://127.0.0.1:18081/v1/completions", body))
print("image:", answer["choices"][0]["text"])
assert answer["usage"]["completion_tokens"] > 0
END
kill -TERM $server
wait $server
echo "image: served as uid 12345 on a read-only root, drained with exit code 0"
