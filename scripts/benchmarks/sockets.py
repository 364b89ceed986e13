"""Bytes that processes of a cluster send each other: what the kernel counts at each of their sockets, asked for now and then."""

import re
import subprocess
import threading

from . import machine

SECONDS = 0.2


class Exchanged:
    """Between processes that listen at these ports, from here to `stop`. What a socket has sent since it was last asked is missing:
    at most SECONDS before its end, when a job that drains has only commits left to do."""

    def __init__(self, ports):
        among = " or ".join(f"sport = :{port} or dport = :{port}" for port in ports)
        self.command = [machine.SCRIPTS / "debian", "ss", "-tinHO", among]
        self.sent, self.failed = {}, None
        self.stopped = threading.Event()
        self.ask()  # if it can not be asked, that is said here
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        try:
            while not self.stopped.wait(SECONDS):
                self.ask()
        except machine.Failed as error:
            self.failed = error

    def ask(self):
        said = subprocess.run(self.command, capture_output=True, text=True)
        if said.returncode != 0:
            raise machine.Failed(f"cannot read the bytes sent at the sockets: {said.stderr.strip()}")
        # Both ends of a connection are here: each is counted by what it has sent.
        self.sent |= sent_by_socket(said.stdout)

    def stop(self):
        """All bytes that were sent."""
        self.stopped.set()
        self.thread.join()
        if self.failed:
            raise self.failed
        return sum(self.sent.values())


def sent_by_socket(said):
    """By local and remote address the bytes that were sent; the kernel says nothing before the first."""
    sockets = {}
    for line in said.splitlines():
        _, _, _, local, remote, info = line.split(None, 5)
        found = re.search(r"\bbytes_sent:(\d+)", info)
        sockets[local, remote] = int(found[1]) if found else 0
    return sockets
