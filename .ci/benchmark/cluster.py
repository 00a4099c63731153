"""The members of one system in a temporary directory, and what the machine is doing beside them."""

import os, pathlib, re, shutil, signal, socket, subprocess, tempfile, time, urllib.request


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Syncs:
    """How often some processes call fdatasync and fsync while this is open; None where perf cannot count."""

    CALLS = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync"

    def __init__(self, pids):
        self.count, self.pids, self.counter = None, pids, None

    def __enter__(self):
        command = ["perf", "stat", "-x,", "-e", self.CALLS, "-p", ",".join(map(str, self.pids))]
        try:
            self.counter = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        except FileNotFoundError:
            return self
        time.sleep(0.2)
        return self

    def __exit__(self, *_):
        if self.counter:
            self.counter.send_signal(signal.SIGINT)
            _, text = self.counter.communicate(timeout=20)
            counts = [line.split(",")[0] for line in text.splitlines() if "sys_enter" in line]
            # "<not counted>" is what perf calls none at all.
            if len(counts) == 2 and "<not supported>" not in counts:
                self.count = sum(int(count) for count in counts if count.isdigit())


class Null:
    """The service that does nothing, in the place of a cluster."""

    def __init__(self, binary):
        (port,) = free_ports(1)
        self.endpoints = f"127.0.0.1:{port}"
        self.process = subprocess.Popen([binary, self.endpoints, str(os.cpu_count())])
        time.sleep(0.5)

    def pids(self):
        return [self.process.pid]

    def syncs(self):
        return Syncs(self.pids())

    def stop(self):
        self.process.kill()
        self.process.wait()


class Cluster:
    """Members of one system in a temporary directory; ends only its own processes."""

    def __init__(self, binary, flags=(), members=3):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dipper-bench-"))
        ports = free_ports(2 * members)
        peers = ",".join(f"m{i}=http://127.0.0.1:{ports[i]}" for i in range(members))
        self.endpoints = ",".join(f"127.0.0.1:{port}" for port in ports[members:])
        self.processes, self.commands = [], []
        for i in range(members):
            command = [binary, "--name", f"m{i}", "--data-dir", str(self.directory / f"m{i}"),
                       "--listen-peer-urls", f"http://127.0.0.1:{ports[i]}",
                       "--initial-advertise-peer-urls", f"http://127.0.0.1:{ports[i]}",
                       "--listen-client-urls", f"http://127.0.0.1:{ports[i + members]}",
                       "--advertise-client-urls", f"http://127.0.0.1:{ports[i + members]}",
                       "--initial-cluster", peers, *flags]
            self.commands.append(command)
        self.start()

    def wait_healthy(self, port, process):
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SystemExit(f"the member on port {port} ended with {process.returncode}: see {self.directory}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                    if b'"true"' in answer.read():
                        return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"no healthy member on port {port} after 300 s: see {self.directory}")

    def pids(self):
        return [process.pid for process in self.processes]

    def rss_mb(self, field="VmHWM"):
        """Peak resident memory of all, or VmRSS: as it is now."""
        total = 0
        for pid in self.pids():
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(rf"{field}:\s+(\d+)", status)[1])
        return round(total / 1024)

    def reset_peak(self):
        """Peaks count from now; what is in use now, in MB."""
        for pid in self.pids():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
        return self.rss_mb("VmRSS")

    def syncs(self):
        return Syncs(self.pids())

    def forget_pages(self):
        """The next start reads its files from the disk."""
        os.sync()
        for path in self.directory.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / 100

    def kill(self):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def start(self):
        """All members, on what their directories hold."""
        self.processes = []
        for i, command in enumerate(self.commands):
            log = open(self.directory / f"m{i}.log", "ab")
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        for endpoint, process in zip(self.endpoints.split(","), self.processes):
            self.wait_healthy(int(endpoint.rsplit(":", 1)[1]), process)

    def stop(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def busy():
    """The share of the machine that is busy, over one second."""
    def read():
        fields = [int(x) for x in open("/proc/stat").readline().split()[1:]]
        return sum(fields), fields[3] + fields[4]
    total, idle = read()
    time.sleep(1)
    total2, idle2 = read()
    return 1 - (idle2 - idle) / max(1, total2 - total)


def disk_syncs_per_second(directory, seconds=2):
    """What the disk can do at most: appends of 4 KiB, each made durable, one after another."""
    path = pathlib.Path(directory) / "syncs"
    count, block = 0, os.urandom(4096)
    with open(path, "wb", buffering=0) as file:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / seconds


def wait_idle():
    for _ in range(60):
        share = busy()
        if share < 0.10:
            return share
    return share
