#!/usr/bin/env bash
# Takes the room on a disk away, for a while, and gives it back. The directory must be on a file system of its own: a
# full root disk harms everybody.
#
#   disk.sh --directory DIR [--seconds 10] [--leave BYTES] [--at-most BYTES]
#   disk.sh --make DIR [--size 768M]     a small ext4 in a file, mounted on DIR (root)
#   disk.sh --remove DIR                 unmounts it and deletes the file
#
# --at-most (4 GiB) bounds what is written. For disks that are slow, fail syncs, or lose what was not synced, see
# `jepsen process disk --help`.
#
# Example: a member on a disk of its own that is full for ten seconds
#   disk.sh --make /tmp/m0 && dipper --data-dir /tmp/m0/data ... &
#   disk.sh --directory /tmp/m0 --seconds 10
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "disk.sh: $*" >&2; exit 1; }

directory="" seconds=10 leave=0 most=$((4 << 30)) make="" remove="" size=768M
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage; exit 0 ;;
        --directory) directory=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --leave) leave=$2; shift 2 ;;
        --at-most) most=$2; shift 2 ;;
        --make) make=$2; shift 2 ;;
        --remove) remove=$2; shift 2 ;;
        --size) size=$2; shift 2 ;;
        *) fail "unknown: $1 (try --help)" ;;
    esac
done
if [ -n "$make" ]; then
    mkdir -p "$make"
    ! mountpoint -q "$make" || fail "something is mounted on $make"
    truncate -s "$size" "$make.img"
    mkfs.ext4 -q -m 0 "$make.img"
    mount -o loop "$make.img" "$make"
    echo "$make is a disk of $size"
    exit 0
fi
if [ -n "$remove" ]; then
    [ -f "$remove.img" ] || fail "$remove was not made by this script"
    umount "$remove"
    rm "$remove.img"
    rmdir "$remove"
    exit 0
fi
[ -n "$directory" ] || { usage >&2; exit 1; }
[ -d "$directory" ] || fail "$directory is no directory"
[ "${seconds%.*}" -le 3600 ] || fail "an hour is enough"
[ "$(stat -c %d "$directory")" != "$(stat -c %d /)" ] || fail "$directory is on the root disk"
free() { df --output=avail -B1 "$directory" | tail -n 1 | tr -d ' '; }
take=$(($(free) - leave))
[ "$take" -gt 0 ] || fail "there are only $(free) bytes free"
[ "$take" -le "$most" ] || fail "$take bytes are more than --at-most $most"
ballast=$directory/.ballast-$$
give_back() { rm -f "$ballast"; }
trap give_back EXIT
trap 'exit 130' INT TERM
fallocate -l "$take" "$ballast" 2>/dev/null || true
# Block by block to the end, if nothing is to be left.
[ "$leave" != 0 ] || dd if=/dev/zero of="$ballast" bs=4096 oflag=append conv=notrunc count=$((most / 4096)) 2>/dev/null || true
[ "$(free)" -le $((leave + (16 << 20))) ] || fail "no effect: $(free) bytes are free"
echo "$directory has $(free) bytes free"
sleep "$seconds" &
wait $!
give_back
echo "$directory has $(free) bytes free again"
