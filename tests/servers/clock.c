/* A server whose clocks a test moves while it runs: preloaded, it adds the offsets of a mapped file to what the kernel
 * says. The file named by TEST_CLOCK holds two 64-bit numbers of nanoseconds: for the wall clock, and for the clocks
 * that only go forward.
 *
 * It must neither allocate nor look up symbols: redis-server's allocator asks for the time while it is being set up,
 * and libfaketime, which does both, hangs there. Sleeps and timeouts are the kernel's and stay as they are. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t none[2];
static const volatile int64_t *offsets = none; /* what asks before `attach` is told the truth */

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED)
        _exit(97); /* a clock that silently stays true would let a test pass for nothing */
    close(file);
    offsets = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    int64_t offset = 0;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI)
        offset = offsets[0];
    else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_MONOTONIC_COARSE ||
             clock == CLOCK_BOOTTIME)
        offset = offsets[1];
    if (result == 0 && offset != 0) {
        int64_t nanoseconds = now->tv_sec * INT64_C(1000000000) + now->tv_nsec + offset;
        now->tv_sec = nanoseconds / 1000000000;
        now->tv_nsec = nanoseconds % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone; /* obsolete, and always zero on Linux */
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where)
        *where = exact.tv_sec;
    return exact.tv_sec;
}
