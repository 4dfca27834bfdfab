"""Systemd's manager, as far as the launcher needs it: it makes, changes and stops units for us.

THEORY OF OPERATION

We speak D-Bus with it on its private socket, as root's systemctl(1) does: without a bus between there are two processes less to
wake for each message, and systemd needn't ask a third who we are (0025). Nobody can choose signals there: each of any unit comes
to us. The end of a job is the only one that we want; a message's header says what it is, and the others are passed over.

One task reads the connection and hands each message to whoever waits for it: a reply by its serial, the end of a job by its
unit. A waiter is entered before the call is sent, so that no answer can come too early, and removed in `finally`, so that a
cancelled one harms nobody.
"""

import itertools
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import trio
from jeepney import DBusAddress, HeaderFields, Message, MessageFlag, MessageType, Parser, Properties, new_method_call
from jeepney.auth import BEGIN, make_auth_external

SOCKET = "/run/systemd/private"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")
_UNITS = "/org/freedesktop/systemd1/unit/"
_READ_BYTES = 64 << 10
_STUCK_SECONDS = 10  # a call takes a millisecond; a manager that reloads its units may take some seconds

# D-Bus specification, "Message Format". Little-endian, as jeepney writes, and as systemd does on each machine that we run on.
_NUMBER = struct.Struct("<I")
_AT_SERIAL = 8
_HEADER = struct.Struct("<cBBBIII")  # byte order, type, flags, version, bytes of the body, serial, bytes of the fields
_JOB_ENDED = "JobRemoved"
_END_OF_LINE = b"\r\n"
_CREDENTIALS = struct.Struct("iII")  # struct ucred
_PID_1 = 1
_BLANK = 0x5A5A5A5A  # above all pids

Property = tuple[str, tuple[str, Any]]
"""A unit's property as D-Bus has it: name, (signature, value)."""


class ManagerError(Exception):
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
            raise ManagerError(f"systemd did not answer for {_STUCK_SECONDS} s")
        if self._message is None:
            raise ManagerError("the connection to systemd was lost")
        body: tuple[Any, ...] = self._message.body
        if self._message.header.message_type is MessageType.error:
            raise ManagerError(f"{self._message.header.fields[HeaderFields.error_name]}: {body[0] if body else ''}")
        return body


class Manager:
    """An open connection. Every method raises `ManagerError`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._serials = itertools.count(1)
        self._replies: dict[int, _Waiter] = {}
        self._jobs: dict[str, _Waiter] = {}
        self._sending = trio.Lock()
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

    def sees_us(self) -> bool:
        """Whether it is of our pid namespace. In another one our pids are other processes'."""
        return self._peer_pid() == _PID_1

    def _peer_pid(self) -> int:
        """Of who listens there, in our namespace; 0 when it isn't in there."""
        return int(
            _CREDENTIALS.unpack(self._stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        )

    async def _job(self, unit: str, method: str, serialise: Callable[[int], bytes]) -> None:
        waiter = self._jobs[unit] = _Waiter()
        try:
            await self._exchange(serialise)
            result = (await waiter.body())[3]
        finally:
            del self._jobs[unit]
        if result != "done":
            raise ManagerError(f"{method} of {unit}: {result}")

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
            raise ManagerError("the connection to systemd was lost")

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            # Whole, even when cancelled: half a message would make the rest of the connection unreadable.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _STUCK_SECONDS):
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:  # closed: while we waited for our turn
                    raise ManagerError("the connection to systemd was lost") from error
                return
            await self._stream.aclose()
        raise ManagerError(f"systemd took nothing for {_STUCK_SECONDS} s")

    async def listen(self, unread: bytearray) -> None:
        """Hands out what comes, after what has been read already; returns when the connection is lost, and all who wait have
        been told."""
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                unread += data
                for message in _wanted(unread):
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
        elif fields.get(HeaderFields.member) == _JOB_ENDED:
            waiter = self._jobs.get(message.body[2])
        else:
            return
        if waiter is not None:
            waiter.set(message)


def _wanted(unread: bytearray) -> Iterator[Message]:
    """Takes the whole messages from the beginning of `unread`; parses those that somebody may wait for."""
    while len(unread) >= _HEADER.size:
        _, kind, _, _, body, _, fields = _HEADER.unpack_from(unread)
        end = _HEADER.size + fields + -fields % 8 + body
        if len(unread) < end:
            return
        if kind != MessageType.signal.value or unread.find(_JOB_ENDED.encode(), 0, _HEADER.size + fields) >= 0:
            yield from Parser().feed(bytes(unread[:end]))
        del unread[:end]


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


async def connect(nursery: trio.Nursery) -> Manager:
    """A connection that a task of `nursery` reads and at last closes. Raises `ManagerError`."""
    try:
        stream = await trio.open_unix_socket(SOCKET)
    except OSError as error:
        raise ManagerError(f"{SOCKET}: {error.strerror}") from error
    try:
        with trio.fail_after(_STUCK_SECONDS):
            unread = await _authenticate(stream)
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.TooSlowError):
            raise ManagerError(f"systemd did not answer for {_STUCK_SECONDS} s") from error
        raise
    manager = Manager(stream)
    nursery.start_soon(manager.listen, unread, name="connection to systemd")
    return manager


async def _authenticate(stream: trio.SocketStream) -> bytearray:
    """Returns what came after the answer.

    All in one, as sd-bus itself does it: of a message that comes in one read with BEGIN it takes no notice until the next one.
    """
    answer = bytearray()
    try:
        await stream.send_all(b"\0" + make_auth_external() + BEGIN)
        while _END_OF_LINE not in answer and (data := await stream.receive_some(_READ_BYTES)):
            answer += data
    except trio.BrokenResourceError as error:
        raise ManagerError(f"systemd refuses us: {error}") from error
    line, _, unread = answer.partition(_END_OF_LINE)
    if not line.startswith(b"OK "):
        raise ManagerError(f"systemd refuses us: {line.decode(errors='replace') or 'it closed the connection'}")
    return unread


def _unescape(label: str) -> str:
    """A unit's name out of its object path: what isn't a letter or digit is `_` and two hexadecimal digits."""
    first, *others = label.split("_")
    return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in others)
