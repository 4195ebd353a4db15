# Shared by setup.sh and build.sh: stages that say what they do, stamps that make a repeated stage free.
# A stage may be interrupted at any time: its stamp is written last, so that it runs again.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
VENV=${PARITRACE_VENV:-.venv}
VENV_PYTHON=$VENV/bin/python
STAMPS=$VENV/.stamps
LOGS=build/log
JOBS=$(nproc)
mkdir -p "$LOGS"

heartbeat_pid=
stop_heartbeat() {
  if [[ -n $heartbeat_pid ]]; then
    kill "$heartbeat_pid" 2>/dev/null || true
    wait "$heartbeat_pid" 2>/dev/null || true
    heartbeat_pid=
  fi
}
trap stop_heartbeat EXIT
trap 'echo; echo "interrupted; the same command goes on where this one stopped" >&2; exit 130' INT TERM

die() {
  echo "error: $*" >&2
  exit 1
}

# Addresses of mirrors and package indexes may hold names or passwords of a private network: they stay out of the logs.
redact() {
  sed -u -E \
    -e 's#[A-Za-z][A-Za-z0-9+.-]*://[^ ,;)"]+#<address>#g' \
    -e "s#(host=|resolve |connect to |connection to |connecting to )['\"]?[A-Za-z0-9._:-]+['\"]?#\1<host>#gI"
}

# hash_of TEXT-OR-FILE...: one hash over the words given; a word that is a file counts with its content.
hash_of() {
  local word
  for word in "$@"; do
    if [[ -f $word ]]; then cat "$word"; else printf '%s\n' "$word"; fi
  done | sha256sum | cut -c1-32
}
is_stamped() { [[ -f $STAMPS/$1 && $(<"$STAMPS/$1") == "$2" ]]; }
stamp() {
  mkdir -p "$STAMPS"
  printf '%s\n' "$2" >"$STAMPS/$1.new"
  mv "$STAMPS/$1.new" "$STAMPS/$1"
}

# A failed network call is long in the log; this is its one line.
explain_failure() {
  local log=$1
  if grep -qiE 'temporary failure (in name resolution|resolving)|could not resolve|name or service not known|network is unreachable|connection (timed out|refused)|ConnectTimeout|ReadTimeout|NewConnectionError|Max retries exceeded|Failed to fetch' "$log"; then
    echo "cause: the network or the package server did not answer; what was done so far is kept, run the same command again" >&2
  elif grep -q 'No matching distribution found' "$log"; then
    echo "cause: the package index in use does not offer this version: $(grep -m1 'No matching distribution found' "$log" | sed 's/.*found for //')" >&2
  elif grep -qi 'No space left on device' "$log"; then
    echo "cause: the disk is full" >&2
  elif grep -qE 'Killed signal|std::bad_alloc|out of memory' "$log"; then
    echo "cause: not enough memory" >&2
  fi
}

# stage NAME WHAT COMMAND...: one line with a dot each ten seconds and the time at the end; output goes to the stage's log.
stage() {
  local name=$1 what=$2 started=$SECONDS status=0
  local log=$LOGS/$name.log
  shift 2
  printf '%s ' "$what"
  (while sleep 10 </dev/null >/dev/null 2>&1; do printf '.'; done) 9>&- &
  heartbeat_pid=$!
  "$@" 2>&1 9>&- | redact >"$log" || status=$?
  stop_heartbeat
  if ((status == 0)); then
    printf ' %d s\n' $((SECONDS - started))
    return 0
  fi
  printf ' failed after %d s\n' $((SECONDS - started))
  echo "--- the end of $log" >&2
  tail -n 25 "$log" >&2
  echo "---" >&2
  explain_failure "$log"
  return "$status"
}

# Two of us in one checkout would write the same files: the second waits.
lock() {
  exec 9>"$LOGS/../.lock"
  if ! flock --nonblock 9; then
    echo "another set-up or build is at work in this folder; waiting for it"
    flock 9
  fi
}
