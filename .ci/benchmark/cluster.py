"""Three members of one system in a temporary directory, and what the machine is doing beside them."""

import pathlib, re, shutil, signal, socket, subprocess, tempfile, time, urllib.request


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Cluster:
    """Three members of one system in a temporary directory; ends only its own processes."""

    def __init__(self, binary, flags=()):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="dipper-bench-"))
        ports = free_ports(6)
        peers = ",".join(f"m{i}=http://127.0.0.1:{ports[i]}" for i in range(3))
        self.endpoints = ",".join(f"127.0.0.1:{port}" for port in ports[3:])
        self.processes, self.commands = [], []
        for i in range(3):
            command = [binary, "--name", f"m{i}", "--data-dir", str(self.directory / f"m{i}"),
                       "--listen-peer-urls", f"http://127.0.0.1:{ports[i]}",
                       "--initial-advertise-peer-urls", f"http://127.0.0.1:{ports[i]}",
                       "--listen-client-urls", f"http://127.0.0.1:{ports[i + 3]}",
                       "--advertise-client-urls", f"http://127.0.0.1:{ports[i + 3]}",
                       "--initial-cluster", peers, *flags]
            self.commands.append(command)
        self.start()

    def wait_healthy(self, port):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                    if b'"true"' in answer.read():
                        return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"no healthy member on port {port} after 20 s: see {self.directory}")

    def pids(self):
        return [process.pid for process in self.processes]

    def rss_mb(self, field="VmHWM"):
        """Peak resident memory of the three, or VmRSS: as it is now."""
        total = 0
        for pid in self.pids():
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(rf"{field}:\s+(\d+)", status)[1])
        return round(total / 1024)

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
        for endpoint in self.endpoints.split(","):
            self.wait_healthy(int(endpoint.rsplit(":", 1)[1]))

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


def wait_idle():
    for _ in range(60):
        share = busy()
        if share < 0.10:
            return share
    return share
