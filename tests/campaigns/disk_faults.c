/* A disk that is slow, or whose fsync fails: write and fsync as LD_PRELOAD gives them to a process.

   DISK_FAULT   "slow": every write and fsync below DISK_FOLDER sleeps DISK_NUMBER microseconds
                "fsync": the DISK_NUMBER-th fsync below it fails with EIO, and each one after it
   Without DISK_FAULT all is as usual. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long syncs;

static const char *fault_of(int descriptor) {
    const char *fault = getenv("DISK_FAULT"), *folder = getenv("DISK_FOLDER");
    if (!fault || !folder) return "";
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return "";
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) ? "" : fault;
}

static long number(void) { return atol(getenv("DISK_NUMBER")); }

static void sleep_if_slow(int descriptor) {
    int before = errno;
    if (!strcmp(fault_of(descriptor), "slow")) usleep(number());
    errno = before;
}

ssize_t write(int descriptor, const void *data, size_t n) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    sleep_if_slow(descriptor);
    return real(descriptor, data, n);
}

ssize_t writev(int descriptor, const struct iovec *parts, int n) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = dlsym(RTLD_NEXT, "writev");
    sleep_if_slow(descriptor);
    return real(descriptor, parts, n);
}

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    sleep_if_slow(descriptor);
    if (!strcmp(fault_of(descriptor), "fsync") && ++syncs >= number()) {
        errno = EIO;
        return -1;
    }
    return real(descriptor);
}
