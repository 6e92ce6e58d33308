#!/usr/bin/env bash
# Sets up, builds Release and runs every test. Arguments go to ctest: tests/run.sh -R golden
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$(nproc)
cmake/setup.sh --with-smollm2
cmake --preset release
cmake --build --preset release --parallel "$jobs"
ctest --preset release --parallel "$jobs" "$@"
