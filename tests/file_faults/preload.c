/* Faults of the file system for the processes of a test: errors, stalls and lost answers of libc's calls on files.
 *
 * LD_PRELOAD names this library, and FORETRAIN_TEST_FAULTS a file of `struct control`, which all processes of a test
 * share: the test changes its rules and reads their counts while they run (tests/file_faults/faults.py). The calls are
 * those that Python makes. Pages of a memory map are read by no call, so a fault of theirs cannot be made here.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NUM_RULES 64

struct rule {
    char call[16];         /* the kind of calls, such as "write"; "*": all of them */
    char pattern[256];     /* of absolute paths; a star also matches slashes */
    int32_t error;         /* the errno; 0: the call only takes longer */
    int32_t is_done;       /* whether the call is made and its answer lost */
    double stall_s;        /* seconds that the call takes longer */
    double window_s;       /* seconds from the first fault on in which all calls fail; 0: `count` decides */
    int64_t first;         /* the first call that fails, from 1 */
    int64_t count;         /* the number of calls that fail */
    _Atomic int64_t seen;  /* calls so far that the rule is about */
    _Atomic int64_t hit;   /* those of them that have failed */
    _Atomic int64_t at_ns; /* when the first one failed */
};

struct control {
    _Atomic int64_t num_rules;
    struct rule rules[NUM_RULES];
};

static struct control *control;

__attribute__((constructor)) static void find_control(void) {
    const char *path = getenv("FORETRAIN_TEST_FAULTS");
    if (path == NULL) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped != MAP_FAILED) control = mapped;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void stall(double seconds) {
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) { /* as a call on a dead server, no signal ends it */
    }
}

/* Count a call on an absolute path. Returns the rule by which it fails or stalls, or NULL. */
static struct rule *rule_of(const char *call, const char *path) {
    for (int64_t number = 0; number < atomic_load(&control->num_rules); number++) {
        struct rule *rule = &control->rules[number];
        if (strcmp(rule->call, "*") != 0 && strcmp(rule->call, call) != 0) continue;
        if (fnmatch(rule->pattern, path, 0) != 0) continue;
        int64_t seen = atomic_fetch_add(&rule->seen, 1) + 1;
        if (seen < rule->first) continue;
        if (rule->window_s > 0) {
            int64_t began = 0, now = now_ns();
            if (atomic_compare_exchange_strong(&rule->at_ns, &began, now)) began = now;
            if ((double)(now - began) > rule->window_s * 1e9) continue;
        } else if (seen >= rule->first + rule->count) {
            continue;
        }
        atomic_fetch_add(&rule->hit, 1);
        return rule;
    }
    return NULL;
}

static const char *absolute(int folder, const char *path, char *buffer) {
    if (path[0] == '/') return path;
    char link[64];
    ssize_t length;
    if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, buffer, PATH_MAX);
    if (length < 0) return path;
    if (path[0] == 0) buffer[length] = 0;
    else snprintf(buffer + length, PATH_MAX, "/%s", path);
    return buffer;
}

/* The rule for a call on a path or on an open file; it has stalled already. */
static struct rule *met(const char *call, int folder, const char *path) {
    if (control == NULL || atomic_load(&control->num_rules) == 0 || path == NULL) return NULL;
    char buffer[2 * PATH_MAX];
    int before = errno;
    struct rule *rule = rule_of(call, absolute(folder, path, buffer));
    if (rule != NULL && rule->stall_s > 0) stall(rule->stall_s);
    errno = before;
    return rule != NULL && rule->error != 0 ? rule : NULL;
}

static struct rule *met_open(const char *call, int fd) { return met(call, fd, ""); }

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Make a call unless a rule lets it fail; with `is_done`, it fails afterwards. */
#define FAIL_OR(by, failure, make) \
    do { \
        struct rule *found = (by); \
        if (found != NULL && !found->is_done) { \
            errno = found->error; \
            return failure; \
        } \
        __typeof__(make) result = make; \
        if (found == NULL) return result; \
        errno = found->error; \
        return failure; \
    } while (0)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        REAL(name); \
        FAIL_OR(met("open", AT_FDCWD, path), -1, real(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        REAL(name); \
        FAIL_OR(met("open", folder, path), -1, real(folder, path, flags, mode)); \
    }
OPENAT(openat)
OPENAT(openat64)

DIR *opendir(const char *path) {
    REAL(opendir);
    FAIL_OR(met("list", AT_FDCWD, path), NULL, real(path));
}

#define ON_FILE(kind, returned, name, parameters, arguments) \
    returned name parameters { \
        REAL(name); \
        FAIL_OR(met_open(kind, fd), -1, real arguments); \
    }
ON_FILE("read", ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
ON_FILE("read", ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
ON_FILE("read", ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
ON_FILE("read", ssize_t, readv, (int fd, const struct iovec *to, int count), (fd, to, count))
ON_FILE("read", ssize_t, preadv, (int fd, const struct iovec *to, int count, off_t at), (fd, to, count, at))
ON_FILE("read", ssize_t, preadv64, (int fd, const struct iovec *to, int count, off64_t at), (fd, to, count, at))
ON_FILE("read", ssize_t, preadv2, (int fd, const struct iovec *to, int count, off_t at, int flags), (fd, to, count, at, flags))
ON_FILE("read", ssize_t, preadv64v2, (int fd, const struct iovec *to, int count, off64_t at, int flags), (fd, to, count, at, flags))
ON_FILE("write", ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
ON_FILE("write", ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
ON_FILE("write", ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
ON_FILE("write", ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
ON_FILE("write", int, ftruncate, (int fd, off_t size), (fd, size))
ON_FILE("write", int, ftruncate64, (int fd, off64_t size), (fd, size))
ON_FILE("fsync", int, fsync, (int fd), (fd))
ON_FILE("fsync", int, fdatasync, (int fd), (fd))
ON_FILE("lock", int, flock, (int fd, int kind), (fd, kind))
ON_FILE("stat", int, fstat, (int fd, struct stat *to), (fd, to))
ON_FILE("stat", int, fstat64, (int fd, struct stat64 *to), (fd, to))

int close(int fd) {
    REAL(close);
    struct rule *rule = met_open("close", fd);
    int result = real(fd); /* also if it fails: Linux never keeps the number */
    if (rule == NULL) return result;
    errno = rule->error;
    return -1;
}

#define FCNTL(name) \
    int name(int fd, int command, ...) { \
        va_list more; \
        va_start(more, command); \
        void *argument = va_arg(more, void *); \
        va_end(more); \
        REAL(name); \
        int is_lock = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW; \
        FAIL_OR(is_lock ? met_open("lock", fd) : NULL, -1, real(fd, command, argument)); \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

#define ON_PATH(kind, name, parameters, folder, arguments) \
    int name parameters { \
        REAL(name); \
        FAIL_OR(met(kind, folder, path), -1, real arguments); \
    }
ON_PATH("mkdir", mkdir, (const char *path, mode_t mode), AT_FDCWD, (path, mode))
ON_PATH("mkdir", mkdirat, (int folder, const char *path, mode_t mode), folder, (folder, path, mode))
ON_PATH("unlink", unlink, (const char *path), AT_FDCWD, (path))
ON_PATH("unlink", unlinkat, (int folder, const char *path, int flags), folder, (folder, path, flags))
ON_PATH("unlink", rmdir, (const char *path), AT_FDCWD, (path))
ON_PATH("stat", stat, (const char *path, struct stat *to), AT_FDCWD, (path, to))
ON_PATH("stat", stat64, (const char *path, struct stat64 *to), AT_FDCWD, (path, to))
ON_PATH("stat", lstat, (const char *path, struct stat *to), AT_FDCWD, (path, to))
ON_PATH("stat", lstat64, (const char *path, struct stat64 *to), AT_FDCWD, (path, to))
ON_PATH("stat", fstatat, (int folder, const char *path, struct stat *to, int flags), folder, (folder, path, to, flags))
ON_PATH("stat", fstatat64, (int folder, const char *path, struct stat64 *to, int flags), folder, (folder, path, to, flags))
ON_PATH("stat", statvfs, (const char *path, struct statvfs *to), AT_FDCWD, (path, to))
ON_PATH("stat", statvfs64, (const char *path, struct statvfs64 *to), AT_FDCWD, (path, to))

/* A rule is about the new name, which is the one that others look for. */
int rename(const char *from, const char *path) {
    REAL(rename);
    FAIL_OR(met("rename", AT_FDCWD, path), -1, real(from, path));
}
int renameat(int old_folder, const char *from, int folder, const char *path) {
    REAL(renameat);
    FAIL_OR(met("rename", folder, path), -1, real(old_folder, from, folder, path));
}
