#!/usr/bin/env bash
# Builds the page that --html fills, report/dist/report.html, with Node.js and npm. Free when nothing changed.
#   scripts/report.sh            install its packages under report/node_modules, build
#   scripts/report.sh test       that, then the tests: logic in Node.js, views in chromium
source "$(dirname "$0")/common.sh"
what=${1:-build}
case $what in build | test) ;; *) die "usage: scripts/report.sh [build|test]" ;; esac
command -v npm >/dev/null || die "npm is missing: apt-get install nodejs npm"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 18 ? 0 : 1)' || die "Node.js 18 or later is needed, this is $(node --version)"

lock

# Debian's chromium runs the tests; packages run no scripts of their own on installation.
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1
install_packages() { npm --prefix report ci --ignore-scripts --no-audit --no-fund --loglevel=error; }
build_page() { npm --prefix report run build; }

# Stamps lie beside what they stand for: removing one removes the other.
is_built() { [[ -f $1/.inputs && $(<"$1/.inputs") == "$2" ]]; }
packages=$(hash_of report/package-lock.json "$(node --version)")
if ! is_built report/node_modules "$packages"; then
  stage report-packages "report: installing its packages" install_packages
  echo "$packages" >report/node_modules/.inputs
fi
mapfile -t files < <(find report/src report/*.json report/*.html report/*.ts -type f | LC_ALL=C sort)
inputs=$(hash_of "$packages" "$(printf '%s\n' "${files[@]}")" "${files[@]}")
if ! is_built report/dist "$inputs" || [[ ! -f report/dist/report.html ]]; then
  rm -rf report/dist  # an old page must not be taken for a new one
  stage report "report: building the page" build_page
  echo "$inputs" >report/dist/.inputs
fi
if [[ $what == test ]]; then
  npm --prefix report run test:unit
  npm --prefix report run test:pages
fi
