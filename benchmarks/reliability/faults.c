/* Lets the n-th write, fsync, rename, read, link or lock below a folder fail, or kills there.
 *
 * Loaded with LD_PRELOAD. Nothing happens until `faults_arm` is called; the counter is shared with
 * all processes that are forked from then on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct plan {
    char folder[PATH_MAX];
    char operation[16];
    char where[PATH_MAX]; /* of the operation that failed */
    atomic_long left;     /* operations until it fails */
    atomic_long seen;
    int error;  /* errno; 0: the process group is killed */
    int sticky; /* all later ones fail, too */
};

static struct plan *plan;

void faults_arm(const char *folder, const char *operation, long nth, int error, int sticky) {
    plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(plan->folder, sizeof plan->folder, "%s", folder);
    snprintf(plan->operation, sizeof plan->operation, "%s", operation);
    plan->left = nth;
    plan->error = error;
    plan->sticky = sticky;
}

long faults_seen(void) { return plan ? plan->seen : -1; }
const char *faults_where(void) { return plan ? plan->where : ""; }

static int below(const char *path) {
    size_t length = strlen(plan->folder);
    return strncmp(path, plan->folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Whether this operation is to fail; then errno is set. */
static int fails(const char *operation, const char *path) {
    if (!plan || strcmp(operation, plan->operation) || !below(path)) return 0;
    plan->seen++;
    long left = plan->left--;
    if (left != 1 && !(plan->sticky && left < 1)) return 0;
    if (left == 1) snprintf(plan->where, sizeof plan->where, "%s", path);
    if (plan->error == 0) {
        kill(0, SIGKILL);
        _exit(137);
    }
    errno = plan->error;
    return 1;
}

static int fails_at(const char *operation, int descriptor) {
    char link[64], path[PATH_MAX];
    if (!plan || strcmp(operation, plan->operation)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(operation, path);
}

static int fails_path(const char *operation, int folder, const char *path) {
    char whole[PATH_MAX];
    if (!plan || strcmp(operation, plan->operation)) return 0;
    if (path[0] == '/') return fails(operation, path);
    if (folder == AT_FDCWD) {
        if (!getcwd(whole, sizeof whole)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, whole, sizeof whole - 1);
        if (length < 0) return 0;
        whole[length] = 0;
    }
    size_t used = strlen(whole);
    snprintf(whole + used, sizeof whole - used, "/%s", path);
    return fails(operation, whole);
}

#define NEXT(type, name, ...) \
    static type (*next)(__VA_ARGS__); \
    if (!next) next = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(ssize_t, write, int, const void *, size_t);
    return fails_at("write", fd) ? -1 : next(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *data, int count) {
    NEXT(ssize_t, writev, int, const struct iovec *, int);
    return fails_at("write", fd) ? -1 : next(fd, data, count);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    NEXT(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    return fails_at("write", fd) ? -1 : next(fd, data, size, at);
}
ssize_t read(int fd, void *data, size_t size) {
    NEXT(ssize_t, read, int, void *, size_t);
    return fails_at("read", fd) ? -1 : next(fd, data, size);
}
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    NEXT(ssize_t, pread64, int, void *, size_t, off64_t);
    return fails_at("read", fd) ? -1 : next(fd, data, size, at);
}
int fsync(int fd) {
    NEXT(int, fsync, int);
    return fails_at("fsync", fd) ? -1 : next(fd);
}
int flock(int fd, int how) {
    NEXT(int, flock, int, int);
    return fails_at("lock", fd) ? -1 : next(fd, how);
}
int rename(const char *from, const char *to) {
    NEXT(int, rename, const char *, const char *);
    return fails_path("rename", AT_FDCWD, to) ? -1 : next(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    NEXT(int, renameat, int, const char *, int, const char *);
    return fails_path("rename", to_folder, to) ? -1 : next(from_folder, from, to_folder, to);
}
int mkdir(const char *path, mode_t mode) {
    NEXT(int, mkdir, const char *, mode_t);
    return fails_path("mkdir", AT_FDCWD, path) ? -1 : next(path, mode);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    NEXT(int, linkat, int, const char *, int, const char *, int);
    return fails_path("link", to_folder, to) ? -1 : next(from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) {
    NEXT(int, link, const char *, const char *);
    return fails_path("link", AT_FDCWD, to) ? -1 : next(from, to);
}
