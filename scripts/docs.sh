#!/usr/bin/env bash
# Builds the documentation site, build/site/index.html, after scripts/setup.sh docs. A warning is an error.
source "$(dirname "$0")/common.sh"
[[ -d $VENV/docs ]] || die "mkdocs is not there: run scripts/setup.sh docs, or make docs"
# A note on what may follow mkdocs is none of ours.
build_site() { NO_MKDOCS_2_WARNING=1 PYTHONPATH=$VENV/docs "$VENV_PYTHON" -m mkdocs build --strict --clean --quiet; }
stage docs "docs: building the site" build_site
echo "build/site/index.html"
