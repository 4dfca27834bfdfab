"""Runs in the emulated machine, for want of ssh: each connection brings a command as JSON, and takes its status and outputs."""

import json
import socketserver
import subprocess
import threading


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        command = json.loads(self.rfile.readline())
        if not command:
            threading.Thread(target=self.server.shutdown).start()
            return
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        self.wfile.write(json.dumps([done.returncode, done.stdout, done.stderr]).encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("", 9000), Handler).serve_forever()
