#!/usr/bin/env bash
# The README's example is examples/hello/hello.cpp, and the output it shows is what the program (the argument) prints.
set -euo pipefail
cd "$(dirname "$0")/.."
block() {  # the fenced block that follows the line <!-- NAME -->
  awk -v mark="<!-- $1 -->" '$0 == mark { found = 1; next } found && /^```/ { if (inside) exit; inside = 1; next } inside' README.md
}
diff <(block examples/hello/hello.cpp) examples/hello/hello.cpp || { echo "README.md shows another program than examples/hello/hello.cpp" >&2; exit 1; }
diff <(block 'output of hello') <("$1") || { echo "README.md shows another output than the program prints" >&2; exit 1; }
