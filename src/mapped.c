/* mapped.c: what becomes of a mapped file that can't be read any more.
 *
 * When a file is cut off while it is mapped, or its disk fails, whoever reads the pages that are gone is sent SIGBUS,
 * which ends the process.  For memory that is watched the handler below puts pages of zeros in place, from the one that
 * failed to the end, and notes it; the reader goes on, asks afterwards, and throws away what it has computed.  Any other
 * SIGBUS is left to the handler that was there before.
 */
#include "mapped.h"

#if defined(_WIN32)

/* Windows does not let a file be cut off while it is mapped. */
int sf_watch(const void *memory, size_t n_bytes) { (void)memory; (void)n_bytes; return -1; }
int sf_broken(int number) { (void)number; return 0; }
void sf_unwatch(int number) { (void)number; }

#else

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { N_WATCHED = 64 };

/* end is 0 where none is watched; it is written last and erased first, as the handler may look at any time. */
static struct {
    atomic_uintptr_t begin, end;
    atomic_int broken;
} watched[N_WATCHED];
static struct sigaction before;
static atomic_int passed_on;
static uintptr_t page_bytes;

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    const uintptr_t address = (uintptr_t)info->si_addr;
    /* Codes up to 0 are of signals that some process has sent. */
    for (int i = 0; i < N_WATCHED && info->si_code > 0; i++) {
        const uintptr_t end = atomic_load(&watched[i].end), page = address & ~(page_bytes - 1);
        if (address < end && address >= atomic_load(&watched[i].begin)) {
            const int error = errno;
            void *zeros = mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            errno = error;
            if (zeros != MAP_FAILED) {
                atomic_store(&watched[i].broken, 1);
                return;
            }
        }
    }
    /* One that was installed after us and before another sf_watch is before us and behind us: it may hand the signal
     * back, as Python's faulthandler does. */
    if (atomic_exchange(&passed_on, 1)) signal(signal_number, SIG_DFL);
    else sigaction(signal_number, &before, NULL);
    /* A fault comes again by itself. */
    if (info->si_code <= 0) raise(signal_number);
}

int sf_watch(const void *memory, size_t n_bytes) {
    struct sigaction current;
    if (sigaction(SIGBUS, NULL, &current) != 0) return -1;
    if (!(current.sa_flags & SA_SIGINFO) || current.sa_sigaction != on_bus_error) {
        struct sigaction ours;
        memset(&ours, 0, sizeof ours);
        ours.sa_sigaction = on_bus_error;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&ours.sa_mask);
        before = current;
        atomic_store(&passed_on, 0);
        page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
        if (sigaction(SIGBUS, &ours, NULL) != 0) return -1;
    }
    for (int i = 0; i < N_WATCHED; i++) {
        if (atomic_load(&watched[i].end) == 0) {
            const uintptr_t begin = (uintptr_t)memory, end = begin + n_bytes;
            atomic_store(&watched[i].broken, 0);
            atomic_store(&watched[i].begin, begin & ~(page_bytes - 1));
            atomic_store(&watched[i].end, (end + page_bytes - 1) & ~(page_bytes - 1));
            return i;
        }
    }
    return -1;
}

int sf_broken(int number) { return number >= 0 && atomic_load(&watched[number].broken); }

void sf_unwatch(int number) {
    if (number >= 0) atomic_store(&watched[number].end, 0);
}

#endif
