"""Go: a source is compiled once, in a sandbox of its own; each run executes what came of it."""

import os
from pathlib import Path

from engines.go.build import LATER, WARM, version_of
from engines.spec import Found, Lacking, LanguageSpec, Stage

_INSIDE = "/opt/go"
INSTALL = "install Go 1.19 or newer (on Debian: apt install golang-go), or name one by the setting GO"

# The standard library in portions whose compiled form fits into a sandbox's /dev/shm. The first is what the engine itself
# needs, with what costs nothing beside it: a first build waits for it. Then what actions need most.
_LIBRARY = (
    "fmt strings strconv errors sort time os io bytes bufio math regexp encoding/json sync context log unicode/utf8",
    "net/url net net/netip crypto/tls crypto/x509 crypto/sha256 crypto/hmac encoding/base64 encoding/hex math/rand",
    "net/http net/http/httptest net/smtp net/mail net/textproto mime mime/multipart mime/quotedprintable",
    "math/big math/bits math/cmplx container/heap container/list container/ring crypto/md5 crypto/sha1 crypto/sha512 "
    "crypto/rand crypto/aes crypto/cipher crypto/rsa crypto/ecdsa crypto/ed25519 encoding/pem encoding/csv encoding/xml "
    "encoding/binary html text/template compress/gzip compress/zlib compress/flate archive/zip archive/tar hash/crc32 "
    "hash/fnv path path/filepath",
    "html/template os/exec os/signal runtime/debug text/tabwriter text/scanner encoding/gob encoding/base32 unicode "
    "unicode/utf16 io/fs slices maps cmp iter log/slog math/rand/v2 unique testing flag embed go/ast go/parser go/format "
    "image/png image/jpeg image/gif image/draw image/color reflect sync/atomic syscall time/tzdata expvar "
    "index/suffixarray database/sql",
)


def find(program: str) -> Found:
    """The toolchain that `program` belongs to. Debian's lies below /usr, which every root has; others are mounted."""
    path = os.path.realpath(program)
    if not os.path.isfile(path):
        raise Lacking(f"there is no {program}: {INSTALL}")
    goroot = Path(path).parents[1]
    version_of(goroot)
    if goroot.is_relative_to("/usr") and not goroot.is_relative_to("/usr/local"):
        return Found((), path)
    return Found(((str(goroot), _INSIDE),), f"{_INSIDE}/bin/go")


LANGUAGE = LanguageSpec(
    label="Go",
    suffixes=(".go",),
    program="go",
    install=INSTALL,
    least_memory_bytes=32 << 20,
    least_tasks=16,
    run=Stage(preload="engines.go.run"),
    build=Stage(preload="engines.go.build", find=find),
    warming=(WARM + _LIBRARY[0], *(LATER + packages for packages in _LIBRARY[1:])),
)
