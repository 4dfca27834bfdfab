"""The system bus, as far as the launcher needs it: systemd's manager makes, changes and stops units for us.

THEORY OF OPERATION

One task reads the connection and hands each message to whoever waits for it: a reply by its serial, the end of a job by its
unit. A waiter is entered before the call is sent, so that no answer can come too early, and removed in `finally`, so that a
cancelled one harms nobody. The system bus, not systemd's private socket, since that one sends every signal to every client;
of the signals we ask for the ends of jobs only.
"""

import itertools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    Message,
    MessageFlag,
    MessageType,
    Parser,
    Properties,
    message_bus,
    new_method_call,
)
from jeepney.auth import BEGIN, AuthenticationError, Authenticator

SOCKET = "/run/dbus/system_bus_socket"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")
_UNITS = "/org/freedesktop/systemd1/unit/"
_READ_BYTES = 64 << 10
_STUCK_SECONDS = 10  # a call takes a millisecond; a manager that reloads its units may take some seconds

_NUMBER = struct.Struct("<I")  # as jeepney writes
_AT_SERIAL = 8  # D-Bus specification, "Message Format"
_BLANK = 0x5A5A5A5A  # above all pids

Property = tuple[str, tuple[str, Any]]
"""A unit's property as D-Bus has it: name, (signature, value)."""


class BusError(Exception):
    """What we asked for was not done; the message says why, in systemd's words."""


class Form:
    """A call of the manager that is made often: serialised once for all whose texts have the same lengths, and then filled in.

    `fill` makes it of as many texts (ASCII) and of a number. To serialise the two of each run anew took a fifth of the launcher's
    time.
    """

    def __init__(self, fill: Callable[[Sequence[str], int], Message]) -> None:
        self._fill = fill
        self._known: dict[tuple[int, ...], tuple[bytes, tuple[int, ...]]] = {}

    def message(self, serial: int, texts: Sequence[str], number: int = 0) -> bytes:
        lengths = tuple(map(len, texts))
        if lengths not in self._known:
            self._known[lengths] = self._serialise(lengths)
        empty, (at_number, *places) = self._known[lengths]
        data = bytearray(empty)
        _NUMBER.pack_into(data, _AT_SERIAL, serial)
        if at_number >= 0:
            _NUMBER.pack_into(data, at_number, number)
        for place, text in zip(places, texts, strict=True):
            data[place : place + len(text)] = text.encode("ascii")
        return bytes(data)

    def _serialise(self, lengths: tuple[int, ...]) -> tuple[bytes, tuple[int, ...]]:
        blanks = [chr(index) * length for index, length in enumerate(lengths, 1)]
        data = self._fill(blanks, _BLANK).serialise(1)
        return data, (data.rfind(_NUMBER.pack(_BLANK)), *(data.index(blank.encode()) for blank in blanks))


class _Waiter:
    """For one message; `body` stays None when the connection was lost."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._message: Message | None = None

    def set(self, message: Message | None) -> None:
        self._message = message
        self._event.set()

    async def body(self) -> tuple[Any, ...]:
        with trio.move_on_after(_STUCK_SECONDS) as patience:
            await self._event.wait()
        if patience.cancelled_caught:
            raise BusError(f"systemd did not answer for {_STUCK_SECONDS} s")
        if self._message is None:
            raise BusError("the connection to the system bus was lost")
        body: tuple[Any, ...] = self._message.body
        if self._message.header.message_type is MessageType.error:
            raise BusError(f"{self._message.header.fields[HeaderFields.error_name]}: {body[0] if body else ''}")
        return body


class Bus:
    """An open connection. Every method raises `BusError`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._serials = itertools.count(1)
        self._replies: dict[int, _Waiter] = {}
        self._jobs: dict[str, _Waiter] = {}
        self._sending = trio.Lock()
        self._name = ""
        self.lost = trio.Event()

    async def start_scope(self, form: Form, name: str, pid: int) -> None:
        """Makes a transient scope by a form of `scope_form`; returns when it is there, with that process in it."""
        await self._job(name, "StartTransientUnit", lambda serial: form.message(serial, (name,), pid))

    async def stop_unit(self, name: str) -> None:
        await self._job(name, "StopUnit", new_method_call(_MANAGER, "StopUnit", "ss", (name, "replace")).serialise)

    async def set_properties(self, name: str, properties: Sequence[Property]) -> None:
        """Of a loaded unit, until it is gone. That systemd says yes does not mean that the kernel did."""
        await self._call(_set_properties(name, properties))

    async def post_description(self, name: str, description: str) -> None:
        """Of a loaded unit, without waiting for the answer: nothing depends on it. Who asks later is answered later."""
        self._require_connection()
        await self._send(_DESCRIPTION.message(next(self._serials), (name, description)))

    async def unit_of(self, pid: int) -> str:
        """The name of the unit that a process is in."""
        [path] = await self._manage("GetUnitByPID", "u", (pid,))
        return _unescape(str(path).removeprefix(_UNITS))

    async def main_pid(self, service: str) -> int:
        [path] = await self._manage("GetUnit", "s", (service,))
        address = DBusAddress(path, _MANAGER.bus_name, "org.freedesktop.systemd1.Service")
        [[_, pid]] = await self._call(Properties(address).get("MainPID"))
        return int(pid)

    async def own_pid(self) -> int:
        """Ours as the bus sees it. Another number than our own: another pid namespace, where our pids are other processes'."""
        [pid] = await self._call(message_bus.GetConnectionUnixProcessID(self._name))
        return int(pid)

    async def greet(self) -> None:
        [self._name] = await self._call(message_bus.Hello())
        rule = MatchRule(
            type="signal", sender=_MANAGER.bus_name, interface=_MANAGER.interface, path=_MANAGER.object_path, member="JobRemoved"
        )
        await self._call(message_bus.AddMatch(rule))

    async def _job(self, unit: str, method: str, serialise: Callable[[int], bytes]) -> None:
        waiter = self._jobs[unit] = _Waiter()
        try:
            await self._exchange(serialise)
            result = (await waiter.body())[3]
        finally:
            del self._jobs[unit]
        if result != "done":
            raise BusError(f"{method} of {unit}: {result}")

    async def _manage(self, method: str, signature: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return await self._call(new_method_call(_MANAGER, method, signature, arguments))

    async def _call(self, message: Message) -> tuple[Any, ...]:
        return await self._exchange(message.serialise)

    async def _exchange(self, serialise: Callable[[int], bytes]) -> tuple[Any, ...]:
        self._require_connection()
        serial = next(self._serials)
        waiter = self._replies[serial] = _Waiter()
        try:
            await self._send(serialise(serial))
            return await waiter.body()
        finally:
            del self._replies[serial]

    def _require_connection(self) -> None:
        if self.lost.is_set():
            raise BusError("the connection to the system bus was lost")

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            # Whole, even when cancelled: half a message would make the rest of the connection unreadable.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _STUCK_SECONDS):
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:  # closed: while we waited for our turn
                    raise BusError("the connection to the system bus was lost") from error
                return
            await self._stream.aclose()
        raise BusError(f"the system bus took nothing for {_STUCK_SECONDS} s")

    async def listen(self) -> None:
        """Hands out what comes; returns when the connection is lost, and all who wait have been told."""
        parser = Parser()
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                for message in parser.feed(data):
                    self._take(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.lost.set()
            for waiter in (*self._replies.values(), *self._jobs.values()):
                waiter.set(None)
            await trio.aclose_forcefully(self._stream)

    def _take(self, message: Message) -> None:
        fields = message.header.fields
        if HeaderFields.reply_serial in fields:
            waiter = self._replies.get(fields[HeaderFields.reply_serial])
        elif fields.get(HeaderFields.member) == "JobRemoved":
            waiter = self._jobs.get(message.body[2])
        else:
            return
        if waiter is not None:
            waiter.set(message)


def _set_properties(name: str, properties: Sequence[Property]) -> Message:
    return new_method_call(_MANAGER, "SetUnitProperties", "sba(sv)", (name, True, list(properties)))


def _describe(texts: Sequence[str], number: int) -> Message:
    name, description = texts
    message = _set_properties(name, [("Description", ("s", description))])
    message.header.flags = MessageFlag.no_reply_expected
    return message


_DESCRIPTION = Form(_describe)


def scope_form(properties: Sequence[Property]) -> Form:
    """Of scopes with these properties, which differ in name and process."""

    def start(texts: Sequence[str], pid: int) -> Message:
        arguments: tuple[Any, ...] = (texts[0], "fail", [*properties, ("PIDs", ("au", [pid]))], [])
        return new_method_call(_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)

    return Form(start)


async def connect(nursery: trio.Nursery, path: str = SOCKET) -> Bus:
    """A connection that is greeted and hears of jobs; a task of `nursery` reads it and at last closes it. Raises `BusError`."""
    try:
        stream = await trio.open_unix_socket(path)
    except OSError as error:
        raise BusError(f"{path}: {error.strerror}") from error
    try:
        await _authenticate(stream)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    bus = Bus(stream)
    nursery.start_soon(bus.listen, name="system bus")
    await bus.greet()
    return bus


async def _authenticate(stream: trio.SocketStream) -> None:
    authenticator = Authenticator()
    try:
        for data in authenticator:
            await stream.send_all(data)
            authenticator.feed(await stream.receive_some(_READ_BYTES) or b"the end\r\n")
        await stream.send_all(BEGIN)
    except (AuthenticationError, trio.BrokenResourceError) as error:
        raise BusError(f"the system bus refuses us: {error}") from error


def _unescape(label: str) -> str:
    """A unit's name out of its object path: what isn't a letter or digit is `_` and two hexadecimal digits."""
    first, *others = label.split("_")
    return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in others)
