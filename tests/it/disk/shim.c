/* Fails, or records, what a process does to the files of one folder. Loaded with LD_PRELOAD, for tests only.
 *
 * TTI_DISK_FOLDER   the folder: an absolute path without links. Files of folders in it are left alone.
 * TTI_DISK_CONTROL  a file, read at each call: "write 28" lets writes fail with errno 28. Words: open (for writing),
 *                   create, write, sync, trunc, remove (unlink, rename), all. Empty: all is well.
 * TTI_DISK_RECORD   a file to which each call that succeeded is appended, and each sync that failed:
 *                   u8 kind, u8 length of the name, u8 length of the second name, u8 0, i64 offset or size,
 *                   u64 length of the data, the names, the data; numbers in the machine's order.
 *                   Kinds: c create, w write, t truncate, s sync, e failed sync, u unlink, r rename, d sync of the folder.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096
#define NAME 128
#define REAL(name) ((__typeof__(&name))real(#name))

static char names[FDS][NAME]; /* within the folder, by file descriptor; "." is the folder itself */
static int record = -1;
static pthread_mutex_t one = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP; /* a call and its record are one step */

static void *real(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

/* The name within the folder, or NULL. */
static const char *inside(const char *path) {
    const char *folder = getenv("TTI_DISK_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || !path || strncmp(path, folder, length)) return NULL;
    if (!path[length]) return ".";
    if (path[length] != '/' || strchr(path + length + 1, '/')) return NULL;
    return strlen(path + length + 1) < NAME ? path + length + 1 : NULL;
}

static const char *of(int fd) {
    return fd >= 0 && fd < FDS && names[fd][0] ? names[fd] : NULL;
}

/* Whether a call of this kind fails now; sets errno. */
static int fails(const char *kind) {
    const char *control = getenv("TTI_DISK_CONTROL");
    char text[64] = "", word[16];
    int fd = control ? REAL(open)(control, O_RDONLY | O_CLOEXEC) : -1, code;
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    REAL(close)(fd);
    if (length <= 0 || sscanf(text, "%15s %d", word, &code) != 2) return 0;
    if (strcmp(word, "all") && strcmp(word, kind)) return 0;
    errno = code;
    return 1;
}

static void note(char kind, const char *name, const char *second, int64_t offset, const void *data, uint64_t length) {
    const char *path = getenv("TTI_DISK_RECORD");
    if (!path) return;
    if (record < 0) record = REAL(open)(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    unsigned char head[20] = {(unsigned char)kind, (unsigned char)strlen(name), (unsigned char)strlen(second), 0};
    memcpy(head + 4, &offset, 8);
    memcpy(head + 12, &length, 8);
    struct iovec parts[4] = {{head, 20}, {(void *)name, strlen(name)}, {(void *)second, strlen(second)}, {(void *)data, length}};
    if (writev(record, parts, 4) < 0) abort();
}

static int opened(int (*call)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    const char *name = inside(path);
    if (!name) return call(path, flags, mode);
    struct stat before;
    int existed = !stat(path, &before), fd = -1;
    pthread_mutex_lock(&one);
    int refused = ((flags & O_ACCMODE) != O_RDONLY && fails("open")) || ((flags & O_CREAT) && !existed && fails("create"));
    if (!refused) fd = call(path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        strcpy(names[fd], name);
        if (!existed && strcmp(name, ".")) note('c', name, "", 0, NULL, 0);
        if (existed && (flags & O_TRUNC)) note('t', name, "", 0, NULL, 0);
    }
    pthread_mutex_unlock(&one);
    return fd;
}

#define MODE(flags) mode_t mode = 0; if ((flags) & O_CREAT) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(REAL(open), path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(REAL(open64), path, flags, mode); }
int openat(int at, const char *path, int flags, ...) {
    MODE(flags)
    return inside(path) ? opened(REAL(open), path, flags, mode) : REAL(openat)(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    return inside(path) ? opened(REAL(open64), path, flags, mode) : REAL(openat64)(at, path, flags, mode);
}

int close(int fd) {
    if (of(fd)) names[fd][0] = 0;
    return REAL(close)(fd);
}

static ssize_t written(int fd, const void *data, size_t length, off_t offset) {
    pthread_mutex_lock(&one);
    ssize_t done = fails("write") ? -1 : REAL(pwrite)(fd, data, length, offset);
    if (done > 0) note('w', of(fd), "", offset, data, (uint64_t)done);
    pthread_mutex_unlock(&one);
    return done;
}
ssize_t write(int fd, const void *data, size_t length) {
    if (!of(fd)) return REAL(write)(fd, data, length);
    int append = fcntl(fd, F_GETFL) & O_APPEND;
    off_t at = lseek(fd, 0, append ? SEEK_END : SEEK_CUR);
    ssize_t done = written(fd, data, length, at);
    if (done > 0) lseek(fd, at + done, SEEK_SET);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return of(fd) ? written(fd, data, length, offset) : REAL(pwrite)(fd, data, length, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }

static int synced(int (*call)(int), int fd) {
    if (!of(fd)) return call(fd);
    pthread_mutex_lock(&one);
    int folder = !strcmp(of(fd), "."), done = 0;
    if (fails("sync")) {
        if (!folder) note('e', of(fd), "", 0, NULL, 0);
        done = -1;
    } else if (getenv("TTI_DISK_RECORD") || !(done = call(fd))) {
        /* What is recorded counts as synced; the real disk would only be slow. */
        note(folder ? 'd' : 's', of(fd), "", 0, NULL, 0);
    }
    pthread_mutex_unlock(&one);
    return done;
}
int fsync(int fd) { return synced(REAL(fsync), fd); }
int fdatasync(int fd) { return synced(REAL(fdatasync), fd); }

static int truncated(int fd, off_t size) {
    pthread_mutex_lock(&one);
    int done = fails("trunc") ? -1 : REAL(ftruncate)(fd, size);
    if (!done) note('t', of(fd), "", size, NULL, 0);
    pthread_mutex_unlock(&one);
    return done;
}
int ftruncate(int fd, off_t size) { return of(fd) ? truncated(fd, size) : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int unlink(const char *path) {
    const char *name = inside(path);
    if (!name) return REAL(unlink)(path);
    pthread_mutex_lock(&one);
    int done = fails("remove") ? -1 : REAL(unlink)(path);
    if (!done) note('u', name, "", 0, NULL, 0);
    pthread_mutex_unlock(&one);
    return done;
}

int rename(const char *from, const char *to) {
    if (!inside(from) || !inside(to)) return REAL(rename)(from, to);
    pthread_mutex_lock(&one);
    int done = fails("remove") ? -1 : REAL(rename)(from, to);
    if (!done) note('r', inside(from), inside(to), 0, NULL, 0);
    pthread_mutex_unlock(&one);
    return done;
}
