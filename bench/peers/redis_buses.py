"""Redis on a Unix socket: PUBLISH and SUBSCRIBE there, a list back."""

import redis

from peers.buses import Buses, Credit, Debt, Listener, Writer
from peers.redis_store import Server

CHANNEL, BACK = "bench", "acknowledged"


class RedisWriter(Writer):
    """The server ends the connection of a listener that is too slow, so the writer counts."""

    def __init__(self, path, listeners, depth):
        self.client = redis.Redis(unix_socket_path=path)
        self.listeners = listeners
        self.credit = Credit(listeners, depth, self._collect)
        self.close = self.client.close

    def _collect(self):
        _, numbers = self.client.blmpop(0, 1, BACK, direction="LEFT", count=self.listeners)
        return map(int, numbers)

    def ready(self):
        while self.client.pubsub_numsub(CHANNEL)[0][1] < self.listeners:
            pass

    def round(self, data):
        self.client.publish(CHANNEL, data)
        missing = self.listeners
        while missing:
            missing -= len(list(self._collect()))

    def send(self, data):
        self.credit.use()
        self.client.publish(CHANNEL, data)

    def send_many(self, batch):
        with self.client.pipeline(transaction=False) as pipeline:
            for data in batch:
                self.credit.use()
                pipeline.publish(CHANNEL, data)
            pipeline.execute()


class RedisListener(Listener):
    """Two connections, because one that has subscribed can do nothing else."""

    def __init__(self, path, number, depth):
        self.client = redis.Redis(unix_socket_path=path)
        self.subscription = self.client.pubsub(ignore_subscribe_messages=True)
        self.subscription.subscribe(CHANNEL)
        self.number = number
        self.debt = Debt(depth)

    def _next(self):
        while True:
            message = self.subscription.get_message(timeout=None)
            if message is not None:
                return message["data"]

    def answer(self):
        data = self._next()
        self.client.rpush(BACK, self.number)
        return data

    def recv(self):
        data = self._next()
        if self.debt.due():
            self.client.rpush(BACK, self.number)
        return data

    def recv_many(self, limit):
        return [self.recv()]

    def close(self):
        self.subscription.close()
        self.client.close()


class RedisPublish(Buses):
    """One server of its own."""

    title = "Redis, PUBLISH"
    package = "redis"
    batches = True

    def __init__(self, listeners, nbytes, depth):
        self.listeners, self.depth = listeners, depth
        self.server = Server()

    def writer(self):
        return RedisWriter(self.server.path, self.listeners, self.depth)

    def listener(self, number):
        return RedisListener(self.server.path, number, self.depth)

    def close(self):
        self.server.close()
