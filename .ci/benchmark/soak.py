"""Half load for an hour: whether memory stays flat; see `make soak`. Dipper alone.

The load writes and reads over calls and over streams, watches, lets leases expire, and compacts every minute, as
Kubernetes does. Prints each minute's resident memory of each member, and draws it.
"""

import argparse, pathlib, subprocess, sys, time

from cluster import Cluster
from drawing import chart
from rows import PUT, Bench

# What the last quarter may be above the second one: caches are full by then, a leak goes on.
FLAT = 1.05


def resident_mb(pid):
    fields = pathlib.Path(f"/proc/{pid}/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dipper", "load", "svg"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=int, default=6000, help="operations a second")
    options = parser.parse_args()
    cluster = Cluster(options.dipper)
    running = []
    try:
        bench = Bench(options.load, "dipper", cluster, 60)
        length = ["--seconds", str(60 * options.minutes)]

        def begin(*arguments):
            running.append((arguments, subprocess.Popen(bench.command("bench", *arguments, *length), text=True,
                                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)))
        third = str(options.rate // 3)
        begin("mix", "--clients", "100", "--conns", "10", "--reads", "50", "--rate", third, *PUT)
        begin("put", "--clients", "300", "--conns", "3", "--stream", "--rate", third, *PUT)
        begin("txn", "--clients", "50", "--conns", "5", "--rate", third, "--val-size", "1024", "--key-space-size",
              "20000")
        begin("watch", "--watchers", "200", "--streams", "20", "--rate", "10")
        curves = {f"member {i}": [] for i in range(3)}
        began = time.monotonic()
        revision = 0
        for minute in range(options.minutes + 1):
            time.sleep(max(0, began + 60 * minute - time.monotonic()))
            for i, pid in enumerate(cluster.pids()):
                curves[f"member {i}"].append((minute, resident_mb(pid)))
            print(f"minute {minute}: " + ", ".join(f"{points[-1][1]:,.0f}" for points in curves.values()) + " MB",
                  flush=True)
            if minute < options.minutes:
                bench.ctl("bench", "lease", "--leases", "500", "--ttl", "10")
                if revision:
                    bench.run("compaction", str(revision))
                revision = bench.ctl("get", "!")["header"]["revision"]
        failed = False
        for arguments, process in running:
            text, _ = process.communicate(timeout=120)
            line = text.strip().splitlines()[-1] if text.strip() else "no result"
            print(f"{arguments[0]}: {line}")
            failed |= process.returncode != 0 or '"errors":{}' not in line.replace(" ", "")
    finally:
        for _, process in running:
            process.kill()
            process.wait()
        cluster.stop()
    pathlib.Path(options.svg).write_text(chart("Resident memory at half load, MB", curves, "minutes"))
    for name, points in curves.items():
        quarter = max(1, len(points) // 4)
        second = sum(mb for _, mb in points[quarter:2 * quarter]) / quarter
        last = sum(mb for _, mb in points[-quarter:]) / quarter
        verdict = "flat" if last <= FLAT * second else "NOT flat"
        failed |= last > FLAT * second
        print(f"{name}: {second:,.0f} MB in the second quarter, {last:,.0f} MB in the last: {verdict}")
    sys.exit(failed)


main()
