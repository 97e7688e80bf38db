"""dbus-daemon with jeepney: signals there, a method call without reply back."""

import shutil
import subprocess
import tempfile

from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    MessageFlag,
    message_bus,
    new_method_call,
    new_signal,
)
from jeepney.io.blocking import open_dbus_connection

from peers.buses import Buses, Credit, Debt, Listener, Writer

DAEMON = shutil.which("dbus-daemon")
if DAEMON is None:
    raise ImportError("there is no dbus-daemon on the PATH")

NAME, INTERFACE = "bench.Writer", "bench.Bus"
SENDER = DBusAddress("/bench", interface=INTERFACE)
WRITER = DBusAddress("/bench", bus_name=NAME, interface=INTERFACE)


def said(message):
    """Return what a message is named, and its first argument."""
    return message.header.fields.get(HeaderFields.member), message.body[0] if message.body else None


class DbusWriter(Writer):
    """The daemon drops what a slow listener has no room for, so the writer counts."""

    def __init__(self, address, listeners, depth):
        self.connection = open_dbus_connection(address)
        self.connection.send_and_get_reply(message_bus.RequestName(NAME))
        self.listeners = listeners
        self.credit = Credit(listeners, depth, self._collect)
        self.close = self.connection.close

    def _collect(self):
        while True:
            name, number = said(self.connection.receive())
            if name == "Acknowledge":
                return (number,)

    def round(self, data):
        self.connection.send(new_signal(SENDER, "Message", "ay", (data,)))
        for _ in range(self.listeners):
            self._collect()

    def send(self, data):
        self.credit.use()
        self.connection.send(new_signal(SENDER, "Message", "ay", (data,)))


class DbusListener(Listener):
    """A connection with a match rule for the signal."""

    def __init__(self, address, number, depth):
        self.connection = open_dbus_connection(address)
        rule = MatchRule(type="signal", interface=INTERFACE, member="Message")
        self.connection.send_and_get_reply(message_bus.AddMatch(rule))
        self.number = number
        self.debt = Debt(depth)
        self.close = self.connection.close

    def _next(self):
        while True:
            name, data = said(self.connection.receive())
            if name == "Message":
                return data

    def _acknowledge(self):
        call = new_method_call(WRITER, "Acknowledge", "u", (self.number,))
        call.header.flags |= MessageFlag.no_reply_expected
        self.connection.send(call)

    def answer(self):
        data = self._next()
        self._acknowledge()
        return data

    def recv(self):
        data = self._next()
        if self.debt.due():
            self._acknowledge()
        return data


class Dbus(Buses):
    """One daemon of its own, with the limits of a user's session."""

    title = "dbus-daemon, signals"
    package = "jeepney"

    def __init__(self, listeners, nbytes, depth):
        self.listeners, self.depth = listeners, depth
        self.folder = tempfile.TemporaryDirectory(prefix="bench.")
        self.address = f"unix:path={self.folder.name}/socket"
        command = [DAEMON, "--session", f"--address={self.address}", "--nofork", "--print-address"]
        self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE)
        if not self.daemon.stdout.readline():  # it prints the address when it listens
            self.close()
            raise RuntimeError("dbus-daemon did not start")

    def writer(self):
        return DbusWriter(self.address, self.listeners, self.depth)

    def listener(self, number):
        return DbusListener(self.address, number, self.depth)

    def close(self):
        self.daemon.terminate()
        self.daemon.wait()
        self.daemon.stdout.close()
        self.folder.cleanup()
