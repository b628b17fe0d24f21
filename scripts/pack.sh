#!/bin/sh
# Packs a program with the shared libraries that it loads, so that it runs where they are not installed.
#
#   scripts/pack.sh PROGRAM OUT             all of them, loader and C library included. OUT gets the same paths as this machine
#                                           (OUT/usr/lib/..., OUT/lib64/ld-...), so that it can be the root of a container image
#                                           without anything else in it, or be run from anywhere by OUT/run.
#   scripts/pack.sh --system-libc BUILD OUT those that are not part of the C library, beside the stripped `any4` of the build
#                                           folder (or any program): for machines with a C library as new as this one, whose own
#                                           drivers it must load (CUDA's). OUT/any4 runs it from anywhere.
set -eu

# The paths of what a program loads. ldd prints "name => path (address)" or, for the loader, "path (address)"; the vdso has no
# path.
libraries_of() {
    ldd "$1" | awk '{ for (i = 1; i <= NF; i++) if ($i ~ /^\//) print $i }' | sort -u
}

if [ "${1-}" = --system-libc ]; then
    program=$2
    out=$3
    [ ! -d "$program" ] || program=$(find "$program/any4" "$program/server/any4" -maxdepth 0 -type f 2>/dev/null | head -n 1)
    [ -f "$program" ] || { echo "pack.sh: there is no any4 in $2" >&2; exit 1; }
    mkdir -p "$out/bin" "$out/lib"
    rm -f "$out/lib"/*.so*
    name=$(basename "$program")
    strip -o "$out/bin/$name" "$program"
    libraries_of "$program" | while read -r library; do
        case $(basename "$library") in
        ld-linux* | libc.so* | libm.so* | libmvec.so* | libpthread.so* | libdl.so* | librt.so* | libresolv.so* | libcuda.so*) ;;
        *) strip --strip-unneeded -o "$out/lib/$(basename "$library")" "$library" ;;
        esac
    done
    cat >"$out/$name" <<END
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
LD_LIBRARY_PATH="\$here/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "\$here/bin/$name" "\$@"
END
    chmod +x "$out/$name"
    exit
fi

program=$1
out=$2
mkdir -p "$out/usr/bin"
cp "$program" "$out/usr/bin/"
libraries_of "$program" | while read -r library; do
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
