#!/usr/bin/env bash
# Layout of C++ and Python, Python checks, syntax of the scripts, forbidden compiler flags.
#   scripts/lint.sh          says what is wrong and changes nothing
#   scripts/lint.sh --fix    lays out the files and applies the fixes that are safe
source "$(dirname "$0")/common.sh"
fix=${1:-}
[[ -z $fix || $fix == --fix ]] || die "usage: scripts/lint.sh [--fix]"

# New files count before they are added; a tracked file that was deleted does not.
list() { git ls-files --cached --others --exclude-standard --deduplicate -- "$@" | while read -r f; do [[ ! -f $f ]] || echo "$f"; done; }
mapfile -t cpp_files < <(list '*.cc' '*.h' '*.hpp')
mapfile -t python_files < <(list '*.py')
mapfile -t shell_files < <(list '*.sh' .ci/run)
failed=0
check() {
  local what=$1
  shift
  if "$@"; then
    echo "lint: $what: ok"
  else
    echo "lint: $what: FAILED"
    failed=1
  fi
}

if [[ $fix == --fix ]]; then
  ((${#cpp_files[@]} == 0)) || clang-format -i "${cpp_files[@]}"
  if ((${#python_files[@]} > 0)); then
    "$VENV/bin/ruff" check --quiet --fix "${python_files[@]}" || failed=1
    "$VENV/bin/ruff" format --quiet "${python_files[@]}"
  fi
  echo "format: ${#cpp_files[@]} C++ files, ${#python_files[@]} Python files"
  exit "$failed"
fi

cpp_is_laid_out() {
  local file bad=0
  for file in "$@"; do
    clang-format "$file" | cmp -s - "$file" || { echo "$file: not laid out, run make format"; bad=1; }
  done
  return "$bad"
}
python_is_laid_out() {
  "$VENV/bin/ruff" format --check --quiet "$@" >"$LOGS/ruff-format.log" 2>&1 && return 0
  sed -nE 's/^ *--> ([^:]*).*/\1: not laid out, run make format/p' "$LOGS/ruff-format.log" | sort -u
  return 1
}
# Sums must mean the same on every machine and compiler: none of the flags that let it reorder or drop roundings. The
# pattern is put together here so that this file does not hold it.
forbidden_flags() { ! git grep --untracked -nE -e "-f""fast-math|-O""fast|-f""associative-math|-f""unsafe-math-optimizations" -- .; }
# docs/causes.md says which causes are looked for; the source decides.
causes_are_documented() {
  local known documented in_source
  known=$(sed -nE 's/^\| `([a-z_.]+)` \|.*/\1/p' docs/causes.md | sort)
  documented=$(sed -nE 's/^\| `([a-z_.]+)` \| yes \|.*/\1/p' docs/causes.md | sort)
  in_source=$(cat src/diagnose/*.cc src/compare/tokens.cc | grep -oE '"[a-z_.]+"' | tr -d '"' | sort -u | comm -12 - <(echo "$known"))
  comm -3 <(echo "$documented") <(echo "$in_source") | sed -E 's/^\t(.*)/docs\/causes.md: \1: the source looks for it, "now" does not say yes/; t; s/^(.*)/docs\/causes.md: \1: "now" says yes, the source does not look for it/' | { ! grep .; }
}
shell_syntax() { local f; for f in "$@"; do bash -n "$f" || return 1; done; }

((${#cpp_files[@]} == 0)) || check "layout of ${#cpp_files[@]} C++ files" cpp_is_laid_out "${cpp_files[@]}"
if ((${#python_files[@]} > 0)); then
  check "${#python_files[@]} Python files" "$VENV/bin/ruff" check --quiet --output-format concise "${python_files[@]}"
  check "layout of ${#python_files[@]} Python files" python_is_laid_out "${python_files[@]}"
fi
check "syntax of ${#shell_files[@]} scripts" shell_syntax "${shell_files[@]}"
check "causes in docs and source" causes_are_documented
check "no compiler flag that changes sums" forbidden_flags
exit "$failed"
