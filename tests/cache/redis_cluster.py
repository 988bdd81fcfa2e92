"""A Redis Cluster of one's own: masters on free ports, the slots shared out among them."""

import shutil
import socket
import tempfile
import time

import hiredis

from penstock.testing import RedisServer
from penstock.testing._ports import free_port


class RedisCluster:
    """``count`` masters; ``names[i]`` is what the cluster calls the i-th."""

    def __init__(self, count=3):
        self.folder = tempfile.mkdtemp()
        self.servers = []
        self.count = count
        self.buses = {}  # by port

    def __enter__(self):
        try:
            for number in range(self.count):
                self.servers.append(self._server(number).start())
            self.names = [self.tell(each, "CLUSTER", "MYID").decode() for each in self.servers]
            step = -(-16_384 // self.count)
            for number, server in enumerate(self.servers):
                first, last = number * step, min(number * step + step, 16_384) - 1
                self.tell(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
                self.tell(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for server in self.servers[1:]:
                self.tell(
                    self.servers[0], "CLUSTER", "MEET", "127.0.0.1", server.port, self.buses[server.port]
                )
            self.wait_well()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _server(self, number):
        bus = free_port()
        server = RedisServer(
            *("--cluster-enabled", "yes", "--cluster-config-file", f"{self.folder}/{number}.conf"),
            *("--cluster-port", str(bus), "--cluster-require-full-coverage", "no"),
            *("--cluster-node-timeout", "2000", "--dir", self.folder),
        )
        self.buses[server.port] = bus
        return server

    def __exit__(self, *_):
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self):
        """Two nodes are told, the first of which is not there."""
        return f"redis+cluster://127.0.0.1:1,127.0.0.1:{self.servers[-1].port}"

    def tell(self, server, *command):
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
            sock.sendall(
                hiredis.pack_command(tuple(str(each) if isinstance(each, int) else each for each in command))
            )
            while (answer := reader.gets()) is False:
                reader.feed(sock.recv(65_536))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait_well(self):
        """Until all nodes agree that all slots are somebody's."""
        deadline = time.monotonic() + 60
        for server in self.servers:
            while (
                b"cluster_state:ok" not in self.tell(server, "CLUSTER", "INFO")
                or len(self.tell(server, "CLUSTER", "SLOTS")) < self.count
            ):
                assert time.monotonic() < deadline, self.tell(server, "CLUSTER", "INFO")
                time.sleep(0.02)

    def add_replica(self, number):
        """A server that copies the one of this number."""
        server = self._server(len(self.servers)).start()
        self.servers.append(server)
        master = self.servers[number]
        self.tell(server, "CLUSTER", "MEET", "127.0.0.1", master.port, self.buses[master.port])
        deadline = time.monotonic() + 60
        while True:
            try:
                self.tell(server, "CLUSTER", "REPLICATE", self.names[number])
            except hiredis.ReplyError:  # it does not know the master yet
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return server

    def owner(self, slot):
        """The number of the server that has this slot, by the first server's map."""
        for first, last, master, *_ in self.tell(self.servers[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.names.index(master[2].decode())
        raise LookupError(slot)

    def move(self, slot, number, *, hurry=False):
        """Give a slot with all of its keys to another server.

        :param hurry: leave it half way: the keys have gone, and the old server still has the slot
        """
        source = self.servers[self.owner(slot)]
        target = self.servers[number]
        self.tell(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.names[self.servers.index(source)])
        self.tell(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.names[number])
        keys = self.tell(source, "CLUSTER", "GETKEYSINSLOT", slot, 1_000)
        for key in keys:
            self.tell(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5_000)
        if not hurry:
            for server in (target, source):
                self.tell(server, "CLUSTER", "SETSLOT", slot, "NODE", self.names[number])
