"""A PNG image, made with nothing but the standard library: a bar whose length is the parameter `percent`."""

import struct
import zlib

WIDTH, HEIGHT = 200, 20
FULL, EMPTY = b"\x1f\x8f\x4f", b"\xdd\xdd\xdd"  # red, green, blue


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a colour, RGB
    pixels = b"".join(b"\0" + row for row in rows)  # 0: this row isn't filtered
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def Run(engine):
    percent = min(100, max(0, int(engine.params.get("percent", "50"))))
    filled = WIDTH * percent // 100
    row = FULL * filled + EMPTY * (WIDTH - filled)
    engine.result.set(
        png(WIDTH, HEIGHT, [row] * HEIGHT),
        content_type="image/png",
        headers={"Cache-Control": "max-age=60"},
    )
