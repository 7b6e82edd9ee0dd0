#!/bin/sh
# Tells what an installation will do, and stops it at once where Python, venv or disk space is
# missing. POSIX sh, since nothing is installed yet. `make install` sets PYTHON, VENV and CPU.
set -u
python=${PYTHON:-python3}
venv=${VENV:-.venv}

stop() {
  echo "hanse cannot be installed here: $1" >&2
  exit 1
}

if [ -x "$venv/bin/python" ]; then
  python=$venv/bin/python
elif ! command -v "$python" >/dev/null 2>&1; then
  stop "there is no $python; install Python 3.11, 3.12 or 3.13, or name one: make install PYTHON=python3.12"
else
  found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || found=none
  case $found in
    3.11 | 3.12 | 3.13) ;;
    *) stop "$python is Python $found, and 3.11, 3.12 or 3.13 is needed: make install PYTHON=python3.12" ;;
  esac
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    stop "$python has no venv; on Debian and Ubuntu: apt-get install python$found-venv"
fi

# Only PyPI's torch for Linux on x86 brings CUDA, and only where pip has no other index that has it.
size=2
if [ "$(uname -s)" = Linux ] && [ "$(uname -m)" = x86_64 ] && [ -z "${CPU:-}" ]; then
  size=8
fi
place=$(dirname "$venv")
free=$(df -Pk "$place" 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')
if [ ! -x "$venv/bin/python" ] && [ -n "$free" ] && [ "$free" -lt "$size" ]; then
  if [ "$size" -gt 2 ]; then
    stop "$size GB of disk are needed for torch with CUDA, and $free GB are free; make install CPU=1 needs 2 GB"
  fi
  stop "$size GB of disk are needed, and $free GB are free"
fi

echo "Setting up $venv, about 2 GB: two to four minutes, longer on a slow line"
if [ "$size" -gt 2 ]; then
  echo "On Linux, PyPI's torch brings CUDA: 3 GB more to download, 8 GB on disk. Without: make install CPU=1"
fi
