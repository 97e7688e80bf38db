"""Redis on a Unix socket; this peer starts a server, which writes nothing to a disk."""

import shutil
import subprocess
import tempfile
import time

import redis

from peers.stores import Reader, Stores, Writer

SERVER = shutil.which("redis-server")
if SERVER is None:
    raise ImportError("there is no redis-server on the PATH")


class RedisEnd(Writer, Reader):
    """One connection."""

    def __init__(self, path):
        self.client = redis.Redis(unix_socket_path=path)
        self.put, self.get, self.close = self.client.set, self.client.get, self.client.close
        self.put_many, self.get_many = self.client.mset, self.client.mget

    def put_array(self, key, array):
        self.put(key, array.data)


class Server:
    """A server of its own in a folder of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="bench.")
        self.path = f"{self.folder}/socket"
        options = {"port": "0", "unixsocket": self.path, "save": "", "appendonly": "no"}
        command = [
            SERVER,
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        self._until_ready()

    def _until_ready(self):
        end = time.monotonic() + 10
        with redis.Redis(unix_socket_path=self.path) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if time.monotonic() > end:
                        self.close()
                        raise
                    time.sleep(0.01)
                else:
                    return

    def close(self):
        """End it and remove its folder."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


class Redis(Stores):
    """One server, with one connection per process."""

    title = "Redis"
    package = "redis"
    together = True

    def __init__(self, keys, nbytes, readers):
        self.server = Server()

    def writer(self):
        return RedisEnd(self.server.path)

    def reader(self):
        return RedisEnd(self.server.path)

    def close(self):
        self.server.close()
