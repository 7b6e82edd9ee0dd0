#!/usr/bin/env bash
# The part of the quick suite that needs no torch, on another Python than the first: what both
# sides agree on, the coordinator, and auditors. torch for it would be PyPI's, with CUDA.
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
  tests/property/test_{arithmetic,decoders,dropouts,mutated_messages,vector}.py \
  tests/protocol_attacks/test_{bad_shares,bad_vectors,both_shares,confirmations,disputes}.py \
  tests/protocol_attacks/test_{equivocation,identities,openings,replaced_keys,replay}.py \
  tests/protocol_attacks/test_{stage_order,survivor_lists,uninvited,weak_keys}.py \
  tests/unit/test_{admission,append_only,attendance,blame,company_certificate,durable}.py \
  tests/unit/test_{edwards,identity,ledger,ledger_files,monitoring,paths,platforms}.py \
  tests/unit/test_{randomness,rotating_log,roundlog,run_files,secrets_and_imports}.py
