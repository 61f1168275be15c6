#!/bin/sh
# Builds the exporter twice: here, and from a copy at another place with an empty
# build cache. Both must be the same, byte for byte.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
mkdir "$here/copy"
# What is not committed yet is a part of what is built, too.
git ls-files -z --cached --others --exclude-standard -- go.mod go.sum cmd internal third_party | tar -c --null -T - | tar -x -C "$here/copy"
make -s build GO="$GO" VERSION="$VERSION" REVISION="$REVISION"
cp Makefile "$here/copy/"
(cd "$here/copy" && GOCACHE="$here/cache" make -s build GO="$GO" VERSION="$VERSION" REVISION="$REVISION")
for binary in workload-identity-exporter gke-metadata-simulator; do
  one=$(sha256sum <"bin/$binary") two=$(sha256sum <"$here/copy/bin/$binary")
  echo "$binary ${one%% *}"
  [ "$one" = "$two" ] || { echo "reproduce: $binary of another place and cache is ${two%% *}" >&2; exit 1; }
done
