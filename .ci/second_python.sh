#!/usr/bin/env bash
# A part of the quick suite that needs no torch, on another Python than the first: golden bytes and
# property tests of the protocol. torch for it would be PyPI's, with CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${SECOND_VENV:-.ci-venv-second}

find_python() {
  local candidate
  for candidate in python3.13 "$HOME"/.pyenv/versions/3.13*/bin/python python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python; do
    if "$candidate" -c 'import venv, ensurepip, ssl, sqlite3' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

python=$(find_python)
if [ -z "$python" ]; then
  echo "no second Python: its tests are skipped"
  exit 0
fi
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --progress-bar off --constraint constraints.txt \
  --editable '.[server,audit,metrics]' pytest pytest-xdist hypothesis packaging pymerkle randomgen
"$venv/bin/python" --version
"$venv/bin/pytest" -n 2 -m "not slow" \
  tests/vectors \
  tests/property/test_{arithmetic,decoders,dropouts,mutated_messages,vector}.py
