#!/bin/sh
# A base for both images from Debian's packages alone, for a machine that reaches no image
# registry: `make image-base`, as root. Debian 12 has Python 3.11, which the images need.
#   deploy/docker/make-base.sh localhost/hanse-base:bookworm
set -eu
name=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mmdebstrap --variant=minbase --include=ca-certificates,python3-venv,python-is-python3 \
  bookworm "$work/base.tar"
container=$(buildah from scratch)
buildah add --quiet "$container" "$work/base.tar" / >/dev/null
buildah commit --quiet --format docker --rm "$container" "$name"
