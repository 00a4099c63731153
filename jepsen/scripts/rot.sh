#!/usr/bin/env bash
# Flips bits in a file that nobody has open, and keeps a copy of it as it was.
#
#   rot.sh --file FILE [--bits 1] [--seed N]      FILE.sound is the copy
#   rot.sh --restore FILE
#
# Damage a minority of members only: what is damaged on a majority is lost.
#
# Example: one bit in the log of a stopped member
#   rot.sh --file /var/lib/m0/raft/000008.log --bits 1
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "rot.sh: $*" >&2; exit 1; }

file="" bits=1 seed=$RANDOM restore=""
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --file) file=$2; shift 2 ;;
        --bits) bits=$2; shift 2 ;;
        --seed) seed=$2; shift 2 ;;
        --restore) restore=$2; shift 2 ;;
        *) fail "unknown: $1 (try --help)" ;;
    esac
done
if [ -n "$restore" ]; then
    [ -f "$restore.sound" ] || fail "there is no $restore.sound"
    mv "$restore.sound" "$restore"
    exit 0
fi
[ -n "$file" ] || { usage >&2; exit 1; }
[ -s "$file" ] || fail "$file is no file, or an empty one"
[ "$bits" -le 10000 ] || fail "10000 bits are enough"
real=$(readlink -f "$file")
holders=$(find /proc/[0-9]*/fd -maxdepth 1 -lname "$real" 2>/dev/null || true) # processes end while it looks
[ -z "$holders" ] || fail "$file is open in a process; stop it first"
[ ! -e "$file.sound" ] || fail "$file.sound exists: restore it first"
cp -p "$file" "$file.sound"
RANDOM=$seed
size=$(stat -c %s "$file")
for _ in $(seq "$bits"); do
    at=$(((RANDOM << 30 | RANDOM << 15 | RANDOM) % size))
    byte=$(od -An -tu1 -j "$at" -N 1 "$file" | tr -d ' ')
    flipped=$((byte ^ (1 << (RANDOM % 8))))
    # shellcheck disable=SC2059
    printf "\\x$(printf %02x "$flipped")" | dd of="$file" bs=1 seek="$at" conv=notrunc 2>/dev/null
    echo "byte $at of $size: $byte is now $flipped"
done
! cmp -s "$file" "$file.sound" || fail "no effect: every flip was taken back by another"
