#!/usr/bin/env bash
# Installs what losa's build, tests and demo need: Debian (or Ubuntu) packages, and a Python environment at build/venv.
# Silent and quick where everything is there. Uses sudo when not root.
#
#   cmake/setup.sh                 what the build, the tests and the demo need
#   cmake/setup.sh --with-smollm2  what examples/llama/tools/smollm2.py needs too
#   cmake/setup.sh --with-neon     the AArch64 cross compiler and QEMU's user emulator too, for the preset `neon`
#   cmake/setup.sh --with-clang    the newest clang of the distribution too, for checks of the headers
#   cmake/setup.sh --with-torch    PyTorch too (about 3 GB): for training the embedded model and cross-checks
#
# LOSA_TEST_PYPI=1 adds compressed-tensors, transformers and PyTorch: what others make of compressed checkpoints.
set -euo pipefail
cd "$(dirname "$0")/.."

packages="g++ cmake ninja-build ccache pkg-config libeigen3-dev libxsimd-dev nlohmann-json3-dev libcli11-dev
  libopenblas-dev doctest-dev libbenchmark-dev clang libclang-rt-dev clang-format gcovr doxygen git python3 python3-venv"
wheels="numpy matplotlib safetensors"
with_clang=no
for option in "$@"; do
  case $option in
    --with-smollm2) wheels="$wheels gguf tokenizers" ;;
    --with-neon) packages="$packages g++-aarch64-linux-gnu qemu-user" ;;
    --with-clang) with_clang=yes ;;
    --with-torch) wheels="$wheels torch" ;;
    *) echo "setup: unknown option $option; known are --with-smollm2, --with-neon, --with-clang and --with-torch" >&2; exit 2 ;;
  esac
done
# The last release that holds the compressor of the sparse-bitmask layout.
[ "${LOSA_TEST_PYPI:-}" = 1 ] && wheels="$wheels torch transformers compressed-tensors==0.14.0.1"

fail() {
  echo "setup: $1" >&2
  exit 1
}

# The packages of the list that are not installed.
missing_packages() {
  comm -23 <(printf '%s\n' $packages | sort) \
           <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^installed //p' | sort -u)
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
  command -v dpkg-query >/dev/null || fail "this is not a Debian or Ubuntu system; install by hand: $(echo $packages)"
  local missing
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  # Older Ubuntu ships the sanitizer runtime with clang itself and knows no libclang-rt-dev.
  if [ "$missing" = libclang-rt-dev ] && ! apt-cache show libclang-rt-dev >/dev/null 2>&1; then return 0; fi
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
    fail "not root and no sudo; have an administrator run: apt-get install $(echo $missing)"

  echo "setup: installing" $missing
  local log=build/setup.log
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; fail "apt-get update failed"; }
  apt-cache show libclang-rt-dev >/dev/null 2>&1 || missing=$(echo "$missing" | grep -vx libclang-rt-dev)
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >>"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "apt-get install failed: $(echo $missing) (all of its output: $log)"; }
}

# Beside the distribution's own clang; one of version 17 or later that is here already will do.
install_newest_clang() {
  local name
  for name in /usr/bin/clang++-[0-9]*; do
    [ -x "$name" ] && [ "${name##*-}" -ge 17 ] && return 0
  done
  [ -n "$(apt-cache search --names-only '^clang-[0-9]+$')" ] || as_root apt-get update -qq >build/setup.log 2>&1 ||
    { cat build/setup.log >&2; fail "apt-get update failed"; }
  packages=$(apt-cache search --names-only '^clang-[0-9]+$' | cut -d' ' -f1 | sort -V | tail -n 1)
  install_packages
}

# The environment remembers in a file what was installed in it.
install_wheels() {
  local installed=build/venv/losa-wheels.txt needed="" wheel
  for wheel in $wheels; do
    grep -qxF "$wheel" "$installed" 2>/dev/null || needed="$needed $wheel"
  done
  [ -n "$needed" ] || return 0
  echo "setup: installing into build/venv:$needed"
  [ -x build/venv/bin/python ] || python3 -m venv build/venv || fail "python3 -m venv failed"
  build/venv/bin/python -m pip install --quiet --disable-pip-version-check $needed || fail "pip install$needed failed"
  printf '%s\n' $needed >>"$installed"
}

mkdir -p build
install_packages
[ $with_clang = no ] || install_newest_clang
install_wheels
