#!/usr/bin/env bash
# The source archive of what is committed, dist/paritrace-VERSION.tar.gz: with the page of --html, so that neither Node.js nor a
# network is needed to build it. The same commit gives the same bytes.
#   scripts/dist.sh [DIR]
source "$(dirname "$0")/common.sh"
folder=${1:-dist}
git rev-parse --git-dir >/dev/null 2>&1 || die "a source archive is made from a git checkout"
[[ -f report/dist/report.html ]] || scripts/report.sh
version=$(sed -nE 's/^project\(paritrace VERSION ([0-9.]+).*/\1/p' CMakeLists.txt)
name=paritrace-$version
mkdir -p "$folder"
git archive --format=tar --prefix="$name/report/dist/" --add-file=report/dist/report.html \
  --prefix="$name/" HEAD | gzip -9n >"$folder/$name.tar.gz.new"
mv "$folder/$name.tar.gz.new" "$folder/$name.tar.gz"
[[ -z $(git status --porcelain) ]] || echo "dist: what is not committed is not in it" >&2
ls "$folder/$name.tar.gz"
