"""The rows of `make bench-large`: one member, as much data as was asked for and fits on the disk."""

import json, shutil, subprocess, sys, tempfile, time

from rows import LATE, PUT, RATES, filled, row, sized

# Both keep the latest value and the history: what is stored takes about so many times its size on the disk while
# files are being rewritten.
ROOM = 3
FLAGS = ("--quota-backend-bytes", str(64 << 30))
KEYS = 10_000_000
REVISIONS = 5_000_000


def restart(keys):
    def run(bench):
        bench.fill(keys, 1024)
        bench.cluster.kill()
        bench.cluster.forget_pages()
        began = time.monotonic()
        bench.cluster.start()
        took = time.monotonic() - began
        found = bench.count()
        return {"serving_s": took, "errors": {"keys missing": keys - found} if found != keys else {}}
    return run


def compact(bench):
    """Compaction of REVISIONS under an open loop of 2,000 put/s: its time, and the puts' latencies while it runs."""
    for _ in range(REVISIONS // 100_000):
        bench.fill(100_000)
    arguments = ["bench", "put", "--clients", "200", "--conns", "10", "--rate", "2000", "--seconds", "30", *PUT]
    load = subprocess.Popen(bench.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        time.sleep(1)
        revision = bench.ctl("get", "!")["header"]["revision"]
        began = time.monotonic()
        bench.run("compaction", "--physical", str(revision))
        took = time.monotonic() - began
        text, _ = load.communicate(timeout=120)
    finally:
        load.kill()
    return {**json.loads(text.strip().splitlines()[-1]), "compacted_s": took}


def rows(gigabytes):
    """Those that fit; says of each other one why it is skipped."""
    keys = int(gigabytes * 1e9 / 1024)
    wanted = [
        (gigabytes, row("restart", f"{gigabytes:g} GB in keys of 1 KiB, killed, cold: until it serves", restart(keys),
                        ("serving_s",), {"serving_s": (2, 10)})),
        (KEYS * 100 / 1e9, row("range-10m", "range of one of 10 M keys, 100 clients",
                               filled(KEYS, 64, "range", "--clients", "100", "--conns", "10", "--key-space-size",
                                      str(KEYS)), RATES)),
        (KEYS * 100 / 1e9, row("put-10m", "put of one of 10 M keys, 100 clients",
                               filled(KEYS, 64, "put", "--clients", "100", "--conns", "10",
                                    *sized("--key-space-size", str(KEYS))), RATES)),
        (REVISIONS * 300 / 1e9, row("compact", "compaction of 5 M revisions under 2,000 put/s", compact,
                                    LATE + ("compacted_s",), {"p99_us": (3, 10), "compacted_s": (10, 50)})),
    ]
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    fitting = []
    for size, one in wanted:
        if ROOM * size > free:
            print(f"skipped: {one.name}: {size:g} GB of data need {ROOM * size:.0f} GB of disk, and "
                  f"{tempfile.gettempdir()} has {free:.0f}", file=sys.stderr)
        else:
            fitting.append(one)
    return fitting
