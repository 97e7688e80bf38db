#!/bin/sh
# Builds the listener against an installed ipcheap and runs both sides.
#
#   run.sh PREFIX [BUILD]     PREFIX as in cmake --install … --prefix PREFIX

set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:?usage: run.sh PREFIX [BUILD]}
build=${2:-$here/../../build/c_listener}
heap=frames-$$

cmake -S "$here" -B "$build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release
cmake --build "$build"

"${PYTHON:-python3}" "$here/poster.py" "$heap" &
writer=$!
if ! "$build/listener" "$heap"; then
    kill "$writer"
    exit 1
fi
wait "$writer"
