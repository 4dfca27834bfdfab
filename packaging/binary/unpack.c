/* The beginning of the one file that is copied to a host: unpacks the program's tree once, and executes it from there.

   THEORY OF OPERATION

   The file is this program (static: a host needs no compiler, no Python, no library), the list of the tree's entries, their contents
   compressed, and a trailer that says where these are and what the tree is called: <version>-<hash of list and contents>. At every
   start the tree of that name is compared with the list, each entry by kind, size, owner and mode, which takes some
   milliseconds; so what a killed start, a full disk or a cleaner of temporary folders has left is noticed. When it is whole it is
   executed. Else, under a lock, so that of two starts at once one unpacks and the other waits, a new one is made under another name,
   written to the disk, checked by the compressed data's own sum, and renamed: a tree with its final name was complete once.

   Where: root's lie in /usr/local/lib/codeactions, which others may use but not write; other users' in their cache folder, else in
   a folder of theirs in /var/tmp. Each is used only if nobody else can write there and programs may be executed from it. Where none
   fits, one line says why, for each; CODEACTIONS_UNPACK names another folder, and then only that is tried. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <lzma.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAGIC "codeactions-tree"
#define SHARED "/usr/local/lib/codeactions"
#define PROGRAM "codeactions"
#define LOCK ".unpack.lock"
#define BLOCK (128 * 1024)
#define MIB (1024 * 1024)

/* Written by build.py: little-endian, no padding. */
struct trailer {
    uint64_t list_offset, list_packed, list_size; /* compressed, and not */
    uint64_t contents_offset, contents_size;
    uint64_t tree_bytes;
    char name[64];
    char magic[16];
} __attribute__((packed));

/* An entry of the list, one a line: kind (d, l, f), mode, size, then the path; a link's target follows after a tab. */
struct entry {
    char kind;
    unsigned mode;
    uint64_t size;
    char *path, *target;
};

static struct trailer trailer;
static struct entry *entries;
static size_t entry_count;
static int self;
static char reasons[4096];

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("codeactions: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

/* Remembers why a folder doesn't serve; returns false. */
static bool refuse(const char *folder, const char *format, ...) {
    size_t used = strlen(reasons);
    va_list arguments;
    va_start(arguments, format);
    used += (size_t)snprintf(reasons + used, sizeof reasons - used, "%s%s: ", used ? "; " : "", folder);
    if (used < sizeof reasons)
        vsnprintf(reasons + used, sizeof reasons - used, format, arguments);
    va_end(arguments);
    return false;
}

static void read_at(void *buffer, uint64_t size, uint64_t offset) {
    for (char *at = buffer; size > 0;) {
        ssize_t got = pread(self, at, size, (off_t)offset);
        if (got <= 0)
            die("this file can't be read: %s", got < 0 ? strerror(errno) : "it is cut: copy it again");
        at += got, offset += (uint64_t)got, size -= (uint64_t)got;
    }
}

static void parse_list(char *text) {
    size_t lines = 0;
    for (char *at = text; (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    entries = calloc(lines, sizeof *entries);
    if (entries == NULL)
        die("no memory");
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        struct entry *entry = &entries[entry_count++];
        int path_at = 0;
        sscanf(line, "%c %o %" SCNu64 " %n", &entry->kind, &entry->mode, &entry->size, &path_at);
        if (path_at == 0)
            die("this file is damaged: copy it again");
        entry->path = line + path_at;
        entry->target = strchr(entry->path, '\t');
        if (entry->target != NULL)
            *entry->target++ = 0;
    }
}

static char *read_list(void) {
    uint64_t memory = UINT64_MAX;
    size_t taken = 0, made = 0;
    uint8_t *packed = malloc(trailer.list_packed), *list = malloc(trailer.list_size + 1);
    if (packed == NULL || list == NULL)
        die("no memory");
    read_at(packed, trailer.list_packed, trailer.list_offset);
    lzma_ret result = lzma_stream_buffer_decode(&memory, 0, NULL, packed, &taken, trailer.list_packed, list, &made, trailer.list_size);
    if (result != LZMA_OK || made != trailer.list_size)
        die("this file is damaged: copy it again");
    list[made] = 0;
    free(packed);
    return (char *)list;
}

static void read_self(void) {
    self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (self < 0)
        die("this file can't be read: %s", strerror(errno));
    off_t end = lseek(self, 0, SEEK_END);
    if (end < (off_t)sizeof trailer)
        die("this file is cut: copy it again");
    read_at(&trailer, sizeof trailer, (uint64_t)end - sizeof trailer);
    if (memcmp(trailer.magic, MAGIC, sizeof trailer.magic) != 0)
        die("this file is cut: copy it again");
    parse_list(read_list());
}

/* Nobody but root and us may have made it, or may change it. */
static bool is_ours(const struct stat *status) {
    bool owned = status->st_uid == 0 || status->st_uid == geteuid();
    return owned && (S_ISLNK(status->st_mode) || (status->st_mode & (S_IWGRP | S_IWOTH)) == 0);
}

static bool is_as_listed(int tree, const struct entry *entry) {
    struct stat status;
    if (fstatat(tree, entry->path, &status, AT_SYMLINK_NOFOLLOW) != 0 || !is_ours(&status))
        return false;
    if (entry->kind == 'd')
        return S_ISDIR(status.st_mode);
    if (entry->kind == 'l')
        return S_ISLNK(status.st_mode) && (uint64_t)status.st_size == strlen(entry->target);
    bool executable = (status.st_mode & S_IXUSR) == (entry->mode & S_IXUSR);
    return S_ISREG(status.st_mode) && (uint64_t)status.st_size == entry->size && executable;
}

static bool is_whole(int base, const char *name) {
    struct stat status;
    int tree = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (tree < 0)
        return false;
    bool whole = fstat(tree, &status) == 0 && is_ours(&status);
    for (size_t index = 0; whole && index < entry_count; index++)
        whole = is_as_listed(tree, &entries[index]);
    close(tree);
    return whole;
}

/* Removes a tree, or what there is of one; links aren't followed. */
static bool remove_tree(int folder, const char *name) {
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT)
        return true;
    int fd = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (listing == NULL)
        return false;
    bool removed = true;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            removed = remove_tree(fd, entry->d_name) && removed;
    closedir(listing);
    return removed && unlinkat(folder, name, AT_REMOVEDIR) == 0;
}

/* The contents of all files, one after the other. */
struct stream {
    lzma_stream lzma;
    uint64_t offset, left;
    uint8_t input[BLOCK], output[BLOCK];
    size_t taken; /* of what is in output */
    bool ended;
};

/* Fills the output again; false when the data are damaged. */
static bool decode(struct stream *stream) {
    stream->lzma.next_out = stream->output;
    stream->lzma.avail_out = sizeof stream->output;
    stream->taken = 0;
    while (stream->lzma.avail_out > 0 && !stream->ended) {
        if (stream->lzma.avail_in == 0 && stream->left > 0) {
            size_t size = stream->left < BLOCK ? stream->left : BLOCK;
            read_at(stream->input, size, stream->offset);
            stream->offset += size, stream->left -= size;
            stream->lzma.next_in = stream->input;
            stream->lzma.avail_in = size;
        }
        lzma_ret result = lzma_code(&stream->lzma, stream->left > 0 ? LZMA_RUN : LZMA_FINISH);
        stream->ended = result == LZMA_STREAM_END;
        if (result != LZMA_OK && !stream->ended) {
            errno = EBADMSG;
            return false;
        }
    }
    return true;
}

static bool write_contents(struct stream *stream, int file, uint64_t size) {
    while (size > 0) {
        size_t ready = sizeof stream->output - stream->lzma.avail_out - stream->taken;
        if (ready == 0) {
            if (stream->ended) {
                errno = EBADMSG;
                return false;
            }
            if (!decode(stream))
                return false;
            continue;
        }
        ssize_t wrote = write(file, stream->output + stream->taken, ready < size ? ready : size);
        if (wrote < 0)
            return false;
        stream->taken += (size_t)wrote, size -= (uint64_t)wrote;
    }
    return true;
}

static bool make_entry(struct stream *stream, int tree, const struct entry *entry) {
    if (entry->kind == 'd')
        return mkdirat(tree, entry->path, entry->mode) == 0;
    if (entry->kind == 'l')
        return symlinkat(entry->target, tree, entry->path) == 0;
    int file = openat(tree, entry->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, entry->mode);
    if (file < 0)
        return false;
    bool written = write_contents(stream, file, entry->size);
    int number = errno;
    if (close(file) != 0 && written)
        return false;
    errno = number;
    return written;
}

static bool make_tree(int base, const char *name) {
    static struct stream stream;
    memset(&stream, 0, sizeof stream);
    stream.offset = trailer.contents_offset, stream.left = trailer.contents_size;
    stream.lzma.avail_out = sizeof stream.output;
    if (lzma_stream_decoder(&stream.lzma, UINT64_MAX, 0) != LZMA_OK) {
        errno = ENOMEM;
        return false;
    }
    if (mkdirat(base, name, 0755) != 0)
        return false;
    int tree = openat(base, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool made = tree >= 0;
    for (size_t index = 0; made && index < entry_count; index++)
        made = make_entry(&stream, tree, &entries[index]);
    while (made && !stream.ended) /* to the end, where the sum is compared */
        made = decode(&stream);
    made = made && syncfs(tree) == 0;
    lzma_end(&stream.lzma);
    return made;
}

/* With the lock held. */
static bool unpack(int base, const char *folder) {
    char partial[sizeof trailer.name + 16];
    snprintf(partial, sizeof partial, "%s.partial", trailer.name);
    if (!remove_tree(base, partial) || !remove_tree(base, trailer.name))
        return refuse(folder, "what lies there can't be replaced: %s", strerror(errno));
    mode_t before = umask(0);
    bool made = make_tree(base, partial) && renameat(base, partial, base, trailer.name) == 0 && fsync(base) == 0;
    int number = errno;
    umask(before);
    if (made)
        return is_whole(base, trailer.name) || refuse(folder, "the files that were written there aren't as they should be");
    remove_tree(base, partial);
    if (number == EBADMSG)
        die("this file is damaged: copy it again");
    return refuse(folder, "%s", strerror(number));
}

/* mkdir -p */
static bool make_folders(const char *folder) {
    char path[PATH_MAX];
    mode_t mode = geteuid() == 0 ? 0755 : 0700;
    if (snprintf(path, sizeof path, "%s", folder) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return false;
    }
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, mode) != 0 && errno != EEXIST && access(path, X_OK) != 0)
            return false;
        *slash = '/';
    }
    return mkdir(path, mode) == 0 || errno == EEXIST;
}

static bool serves(int base, const char *folder) {
    struct stat status;
    struct statvfs about;
    if (fstat(base, &status) != 0 || fstatvfs(base, &about) != 0)
        return refuse(folder, "%s", strerror(errno));
    if (!is_ours(&status))
        return refuse(folder, "others can write there");
    if (about.f_flag & ST_NOEXEC)
        return refuse(folder, "mounted noexec");
    return true;
}

static bool has_room(int base, const char *folder) {
    struct statvfs about;
    uint64_t needed = trailer.tree_bytes + 8 * MIB;
    if (fstatvfs(base, &about) == 0 && (uint64_t)about.f_bavail * about.f_frsize < needed)
        return refuse(folder, "%" PRIu64 " MiB free", (uint64_t)about.f_bavail * about.f_frsize / MIB);
    return true;
}

static bool unpack_under_lock(int base, const char *folder) {
    int lock = openat(base, LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) != 0)
        return refuse(folder, "%s", strerror(errno));
    bool there = is_whole(base, trailer.name) || (has_room(base, folder) && unpack(base, folder));
    close(lock);
    return there;
}

/* Executes the tree in this folder, and makes it before if it isn't there and `may_unpack`. Returns only when that fails. */
static void try(const char *folder, bool may_unpack, char **arguments) {
    char program[PATH_MAX];
    if (may_unpack && !make_folders(folder)) {
        refuse(folder, "%s", strerror(errno));
        return;
    }
    int base = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (base < 0) {
        if (may_unpack)
            refuse(folder, "%s", errno == ENOTDIR || errno == ELOOP ? "not a folder itself" : strerror(errno));
        return;
    }
    bool there = serves(base, folder) && (is_whole(base, trailer.name) || (may_unpack && unpack_under_lock(base, folder)));
    close(base);
    if (!there)
        return;
    snprintf(program, sizeof program, "%s/%s/" PROGRAM, folder, trailer.name);
    execv(program, arguments);
    refuse(folder, "can't be executed: %s", strerror(errno));
}

static void try_below(const char *folder, const char *below, char **arguments) {
    char path[PATH_MAX];
    if (folder != NULL && folder[0] == '/' && snprintf(path, sizeof path, "%s%s", folder, below) < (int)sizeof path)
        try(path, true, arguments);
}

int main(int count, char **arguments) {
    (void)count;
    char own[64];
    const char *named = getenv("CODEACTIONS_UNPACK"), *cache = getenv("XDG_CACHE_HOME");
    read_self();
    if (named != NULL && *named != 0) {
        if (*named != '/')
            die("CODEACTIONS_UNPACK %s: an absolute path is needed", named);
        try(named, true, arguments);
        die("can't unpack to the folder that CODEACTIONS_UNPACK names: %s", reasons);
    }
    try(SHARED, geteuid() == 0, arguments);
    if (geteuid() != 0) {
        if (cache != NULL && *cache == '/')
            try_below(cache, "/codeactions", arguments);
        else
            try_below(getenv("HOME"), "/.cache/codeactions", arguments);
        snprintf(own, sizeof own, "/var/tmp/codeactions-%u", (unsigned)geteuid());
        try(own, true, arguments);
    }
    die("nowhere to unpack this program, which takes %" PRIu64 " MiB (%s): name a folder in CODEACTIONS_UNPACK",
        trailer.tree_bytes / MIB + 1, reasons);
}
