#!/bin/sh
# Packs a program with every shared library that it loads, loader included: scripts/pack.sh PROGRAM OUT
# OUT gets the same paths as this machine (OUT/usr/lib/..., OUT/lib64/ld-...), so that it can be the root of a container image
# without anything else in it, or be run from anywhere by OUT/run, which the script writes.
set -eu
program=$1
out=$2
mkdir -p "$out/usr/bin"
cp "$program" "$out/usr/bin/"
# ldd prints "name => path (address)" or, for the loader, "path (address)"; the vdso has no path.
ldd "$program" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | sort -u | while read -r library; do
    mkdir -p "$out$(dirname "$library")"
    cp -L "$library" "$out$library"
done
loader=$(ldd "$program" | awk '$1 ~ /^\/.*ld-linux/ { print $1 }')
libraries=$(ldd "$program" | awk '$3 ~ /^\// { print $3 }' | xargs -n 1 dirname | sort -u | sed 's|^|$here|' | tr '\n' ':')
cat >"$out/run" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
exec "\$here$loader" --library-path "$libraries" "\$here/usr/bin/$(basename "$program")" "\$@"
END
chmod +x "$out/run"
