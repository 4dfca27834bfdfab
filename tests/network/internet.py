"""A program that plays the internet, in a network namespace of its own: `python -m tests.network.internet`.

Every address is its own, public, private or reserved, so that whatever leaves the host arrives; it says which address was
asked for and by whom. TCP on a few ports, UDP on one, names on another.
"""

import socket
import socketserver
import subprocess
import sys
import threading

import dns.flags
import dns.message
import dns.rrset

PORTS = (25, 80, 587, 5432)
UDP_PORT = 7
NAME_SERVER = "9.9.9.53"
# Names → what they stand for; `names` says how often each was asked for.
NAMES = {
    "www.public.example.": ("93.184.216.34",),
    "inside.example.": ("10.50.60.70",),
    "rebound.example.": ("127.0.0.1",),
    "long.example.": tuple(f"93.184.{number}.1" for number in range(120)),
}


class Page(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        asked, asker = self.request.getsockname()[0], self.client_address[0]
        if self.request.getsockname()[1] in (80, 5432):
            self.request.recv(4096)
        body = f"{asked.removeprefix('::ffff:')} {asker.removeprefix('::ffff:')}"
        self.request.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


def answer(data: bytes) -> dns.message.Message:
    question = dns.message.from_wire(data)
    reply = dns.message.make_response(question, recursion_available=True)
    asked = question.question[0]
    addresses = NAMES.get(asked.name.to_text().lower(), ())
    if addresses and asked.rdtype == 1:
        reply.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", *addresses))
    return reply


def serve_names_udp() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((NAME_SERVER, 53))
    while True:
        data, asker = sock.recvfrom(4096)
        reply = answer(data)
        wire = reply.to_wire(max_size=65535)
        if len(wire) > 1232:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        forged = dns.message.from_wire(wire)
        forged.id ^= 1
        sock.sendto(forged.to_wire(max_size=65535), asker)  # somebody who guesses is first
        sock.sendto(wire, asker)


class NamesTcp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        length = int.from_bytes(self.request.recv(2), "big")
        wire = answer(self.request.recv(length)).to_wire(max_size=65535)
        self.request.sendall(len(wire).to_bytes(2, "big") + wire)


class TcpNameServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve_echo() -> None:
    """Whom a datagram came from, for addresses that are its own only (UDP answers from where it is bound)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("93.184.216.34", UDP_PORT))
    while True:
        _, asker = sock.recvfrom(4096)
        sock.sendto(asker[0].encode(), asker)


def main() -> None:
    sys.stdout.write("made\n")
    sys.stdout.flush()
    sys.stdin.readline()  # its device is there now
    for command in (
        "link set lo up",
        "address add 11.0.0.1/24 dev uplink",
        "-6 address add 2a00:1::1/64 dev uplink nodad",
        "link set uplink up",
        "route add local default dev lo table main",
        "-6 route add local default dev lo table main",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    servers: list[socketserver.TCPServer] = [Server(("::", port), Page) for port in PORTS]
    servers.append(TcpNameServer((NAME_SERVER, 53), NamesTcp))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    for serve in (serve_names_udp, serve_echo):
        threading.Thread(target=serve, daemon=True).start()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
