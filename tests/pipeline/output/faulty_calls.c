/* Makes one system call of a process fail. Loaded with LD_PRELOAD.
 *
 * Calls on paths that contain FAULT_ROOT are counted. The one with the number FAULT_AT fails with FAULT_ERRNO.
 * FAULT_ERRNO -1 makes a read or write short instead. With FAULT_LOG, the number and name of every such call is
 * appended to that file. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int counted = 0;

static void note(const char *call) {
    const char *log = getenv("FAULT_LOG");
    if (!log) return;
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644);
    char line[128];
    int n = snprintf(line, sizeof line, "%d %s\n", counted, call);
    if (fd >= 0) { syscall(SYS_write, fd, line, n); syscall(SYS_close, fd); }
}

/* 0: go on; 1: fail, errno is set; 2: make the call short. */
static int strikes(const char *call, const char *path) {
    const char *root = getenv("FAULT_ROOT"), *at = getenv("FAULT_AT"), *number = getenv("FAULT_ERRNO");
    if (!root || !path || !strstr(path, root)) return 0;
    counted++;
    note(call);
    if (!at || !number || atoi(at) != counted) return 0;
    if (atoi(number) < 0) return strcmp(call, "read") && strcmp(call, "write") ? 0 : 2;
    errno = atoi(number);
    return 1;
}

static int strikes_fd(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strikes(call, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list more;                                               \
        va_start(more, flags);                                      \
        mode_t mode = va_arg(more, mode_t);                         \
        va_end(more);                                               \
        if (strikes("open", path)) return -1;                       \
        return NEXT(name)(path, flags, mode);                       \
    }
OPEN(open)
OPEN(open64)

#define READ_WRITE(name, call, type)                                \
    ssize_t name(int fd, type buffer, size_t size) {                \
        int how = strikes_fd(call, fd);                             \
        if (how == 1) return -1;                                    \
        return NEXT(name)(fd, buffer, how == 2 && size > 1 ? size / 2 : size); \
    }
READ_WRITE(read, "read", void *)
READ_WRITE(write, "write", const void *)

#define ON_FD(name)                                                 \
    int name(int fd) {                                              \
        if (strikes_fd(#name, fd) == 1) return -1;                  \
        return NEXT(name)(fd);                                      \
    }
ON_FD(fsync)

#define ON_PATH(name, parameters, arguments)                        \
    int name parameters {                                           \
        if (strikes(#name, path) == 1) return -1;                   \
        return NEXT(name) arguments;                                \
    }
ON_PATH(unlink, (const char *path), (path))
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(link, (const char *path, const char *to), (path, to))
ON_PATH(rename, (const char *path, const char *to), (path, to))
ON_PATH(stat, (const char *restrict path, struct stat *restrict found), (path, found))
ON_PATH(stat64, (const char *restrict path, struct stat64 *restrict found), (path, found))

DIR *opendir(const char *path) {
    if (strikes("opendir", path) == 1) return NULL;
    return NEXT(opendir)(path);
}
