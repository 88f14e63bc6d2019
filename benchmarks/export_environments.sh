#!/bin/sh
# An environment for each exporter, as their pins ask for, and its tests in it: some minutes and some GB.
#
#     sh benchmarks/export_environments.sh [FOLDER]
set -eu
root=${1:-runs/export_environments}

check() { # the name of the environment, the extras, the tests
    python3 -m venv "$root/$1"
    "$root/$1/bin/pip" install -q -e ".[$2]" pytest beartype hypothesis
    # Warnings of these packages are not ours to fix.
    "$root/$1/bin/python" -m pytest -q -W default $3
}

check integer onnx,nncf "tests/exporters"
check litert litert tests/exporters/test_mobile.py
check executorch executorch,coreml tests/exporters/test_mobile.py
