#!/bin/sh
# Links libpccl.so, with versioned symbols and nothing else visible, from the static library that cargo builds:
#   link.sh libpccl_ffi.a libpccl.so
# rustc's own shared library cannot have versions: it brings a version script that knows none.
set -eu
here=$(dirname "$0")
exec "${CC:-cc}" -shared -o "$2" -Wl,-soname,libpccl.so "-Wl,--version-script=$here/pccl.map" \
    -Wl,--whole-archive "$1" -Wl,--no-whole-archive -Wl,--gc-sections -Wl,-z,defs -Wl,-z,relro,-z,now \
    -lgcc_s -lpthread -lm -ldl -lc
