#!/bin/sh
# Builds the producer against an installed ipcheap and runs both sides.
#
#   run.sh PREFIX [BUILD]     PREFIX as in cmake --install … --prefix PREFIX

set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${1:?usage: run.sh PREFIX [BUILD]}
build=${2:-$here/../../build/c_producer}
heap=readings-$$

cmake -S "$here" -B "$build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release
cmake --build "$build"

"${PYTHON:-python3}" "$here/consumer.py" "$heap" &
consumer=$!
if ! "$build/producer" "$heap" 1000; then
    kill "$consumer"
    exit 1
fi
wait "$consumer"
