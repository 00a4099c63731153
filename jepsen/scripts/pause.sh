#!/usr/bin/env bash
# Stops processes (SIGSTOP) for a while and lets them go on, whatever happens to this script.
#
#   pause.sh --pids P[,Q...] [--seconds 2]
#
# Example: the leader sleeps for 5 seconds and wakes up deposed
#   pause.sh --pids 4002 --seconds 5
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "pause.sh: $*" >&2; exit 1; }

pids="" seconds=2
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --pids) pids=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        *) fail "unknown: $1 (try --help)" ;;
    esac
done
[ -n "$pids" ] || { usage >&2; exit 1; }
[ "${seconds%.*}" -le 3600 ] || fail "an hour is enough"
IFS=, read -r -a pid <<<"$pids"

resume() { for p in "${pid[@]}"; do kill -CONT "$p" 2>/dev/null || true; done; }
trap resume EXIT
trap 'exit 130' INT TERM
for p in "${pid[@]}"; do
    kill -STOP "$p" || fail "process $p cannot be stopped"
done
for p in "${pid[@]}"; do
    for _ in $(seq 100); do
        state=$(sed 's/.*) //;s/ .*//' "/proc/$p/stat")
        [ "$state" = T ] && break
        sleep 0.01
    done
    [ "$state" = T ] || fail "no effect: process $p is in state $state"
done
echo "stopped: $pids"
sleep "$seconds" &
wait $!
resume
echo "going on: $pids"
