#!/usr/bin/env bash
# The lifetime of views under AddressSanitizer: builds the extension with it and runs
# tests/test_lifetime.py and tests/test_array.py, or what is given.
#
#   tests/asan.sh [pytest arguments]
#
# PYTHON is the interpreter with the packages of the extra "test", python3 unless set.

set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
place=$PWD/build/asan-python
"$python" -m pip install -q --no-deps --upgrade --target "$place" \
    -C cmake.define.IPCHEAP_SANITIZE=address,undefined -C cmake.define.IPCHEAP_LTO=OFF .

# Python itself leaks by design; its own allocator would hide misuse of small objects.
export LD_PRELOAD ASAN_OPTIONS PYTHONMALLOC PYTHONPATH
LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so)"
ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1:abort_on_error=1
PYTHONMALLOC=malloc
PYTHONPATH=$place${PYTHONPATH:+:$PYTHONPATH}

"$python" -P -c "import ipcheap._core as core; assert core.__file__.startswith('$place'), core"
if [[ $# -eq 0 ]]; then
    set -- tests/test_lifetime.py tests/test_array.py
fi
"$python" -P -m pytest -q -p no:cacheprovider "$@"
