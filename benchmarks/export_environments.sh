#!/bin/sh
# An environment for each exporter, as their pins ask for, and its tests in it: some minutes and some GB.
#
#     sh benchmarks/export_environments.sh [FOLDER]
set -eu
root=${1:-runs/export_environments}

check() { # the name of the environment, the extras, the tests
    python3 -m venv "$root/$1"
    "$root/$1/bin/pip" install -q -e ".[$2]" pytest beartype hypothesis
    # Warnings of these packages are not ours to mend.
    "$root/$1/bin/python" -m pytest -q -W default $3
}

check integer onnx,nncf "tests/inference/test_export.py tests/inference/test_int8.py tests/inference/test_bench.py"
check litert litert tests/inference/test_mobile.py
check executorch executorch,coreml tests/inference/test_mobile.py
