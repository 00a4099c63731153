#!/usr/bin/env bash
# Makes the wall clock of a process jump, without touching the machine's: the process must have been started with
# the variables that --env prints (libfaketime), and nothing else is affected. Monotonic time stays true.
#
#   clock.sh --file FILE --env                         prints the variables; creates FILE
#   clock.sh --file FILE --offset SECONDS [--seconds N]  from now on; with --seconds back to normal afterwards
#
# Works for programs that ask libc (Dipper); Go programs (etcd) ask the kernel.
#
# Example: a member whose clock is an hour ahead for ten seconds
#   env $(clock.sh --file /tmp/m0.clock --env) dipper --name m0 ... &
#   clock.sh --file /tmp/m0.clock --offset +3600 --seconds 10
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "clock.sh: $*" >&2; exit 1; }

file="" offset="" seconds="" env=""
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --file) file=$2; shift 2 ;;
        --offset) offset=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --env) env=yes; shift ;;
        *) fail "unknown: $1 (try --help)" ;;
    esac
done
[ -n "$file" ] || { usage >&2; exit 1; }
library=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib64/faketime/libfaketimeMT.so.1 2>/dev/null | head -n 1) || true
[ -n "$library" ] || fail "libfaketime is not installed"
variables="LD_PRELOAD=$library FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 FAKETIME_TIMESTAMP_FILE=$file"
put() { echo "$1" >"$file.new" && mv "$file.new" "$file"; } # in one piece: clocks are asked all the time

if [ -n "$env" ]; then
    put +0
    echo "$variables"
    exit 0
fi
[[ $offset =~ ^[+-][0-9]+$ ]] || fail "--offset +SECONDS or -SECONDS"
[ -f "$file" ] || fail "no process was started with $file (see --env)"
back() { put +0; }
[ -z "$seconds" ] || { trap back EXIT; trap 'exit 130' INT TERM; }
put "$offset"
# shellcheck disable=SC2086
seen=$(($(env $variables date +%s) - $(date +%s)))
[ $((seen - offset)) -ge -2 ] && [ $((seen - offset)) -le 2 ] || fail "no effect: a clock is $seen s off"
echo "clocks behind $file are $seen s off"
[ -z "$seconds" ] || { sleep "$seconds" & wait $!; back; echo "back to normal"; }
