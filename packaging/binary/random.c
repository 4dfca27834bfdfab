/* Debian 12's libexpat takes its random numbers by arc4random_buf, which glibc has since 2.36; Ubuntu 22.04 has 2.35. This, linked
   with Debian's own archive of the library, makes one that both can load. getrandom(2) is what arc4random_buf reads itself. */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/random.h>

void arc4random_buf(void *buffer, size_t size) {
    for (char *at = buffer; size > 0;) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            abort();
        at += got;
        size -= (size_t)got;
    }
}
