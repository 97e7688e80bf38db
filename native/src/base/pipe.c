#include "base/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/fault.h"
#include "base/os.h"

enum { DUE_MS = 1, MOST_CHANGES = 8 };

/* Computes the path of a pipe beside that file; returns false if the file has no path any more. */
static bool path_beside(int file, uint64_t suffix, char path[PATH_MAX]) {
    if (!os_file_path(file, path, PATH_MAX - 24)) return false;
    snprintf(path + strlen(path), 24, "~%llx", (unsigned long long)suffix);
    return true;
}

static void remove_pipe(const char *path) {
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISFIFO(status.st_mode)) unlink(path);
}

/* Opens the same pipe again for reading and writing, so that it never reports a hang-up. */
static int open_again(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return FAULT(EMFILE) ? -1 : above_standard(open(link, O_RDWR | O_NONBLOCK | O_CLOEXEC));
}

/* Rights ---------------------------------------------------------------------------------- */

#define ACCESS_LIST "system.posix_acl_access"
#define NO_ID UINT32_MAX

static bool are_same_rights(const struct stat *a, const struct stat *b) {
    return ((a->st_mode ^ b->st_mode) & 0666) == 0 && a->st_uid == b->st_uid &&
           a->st_gid == b->st_gid;
}

/* Sets a list of access: the pipe's owner, and those whom the file lets in. False if it cannot. */
static bool set_list(const char *link, const struct stat *file) {
    uint16_t owner = (uint16_t)(file->st_mode >> 6 & 6);
    uint16_t group = (uint16_t)(file->st_mode >> 3 & 6);
    uint16_t others = (uint16_t)(file->st_mode & 6);
    struct {
        struct posix_acl_xattr_header header;
        struct posix_acl_xattr_entry entries[6]; /* the order is the kernel's */
    } list = {
        {POSIX_ACL_XATTR_VERSION},
        {{ACL_USER_OBJ, 6, NO_ID},
         {ACL_USER, owner, file->st_uid},
         {ACL_GROUP_OBJ, others, NO_ID},
         {ACL_GROUP, group, file->st_gid},
         {ACL_MASK, 6, NO_ID},
         {ACL_OTHER, others, NO_ID}},
    };
    return setxattr(link, ACCESS_LIST, &list, sizeof list, 0) == 0;
}

int os_pipe_permit(int pipe, int file, uint32_t from) {
    char link[64];
    struct stat now, wanted;
    if (fstat(pipe, &now) || fstat(file, &wanted)) return IPCHEAP_SYSTEM;
    if (are_same_rights(&now, &wanted)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", pipe); /* `pipe` may be no way to change it */
    /* The mode before the owner: afterwards we may not be allowed to. */
    removexattr(link, ACCESS_LIST);
    if (chmod(link, wanted.st_mode & 0666)) return IPCHEAP_SYSTEM;
    bool gives = now.st_uid == from && now.st_uid != wanted.st_uid;
    if (chown(link, (uid_t)-1, wanted.st_gid) == 0) now.st_gid = wanted.st_gid;
    if (gives && chown(link, wanted.st_uid, (gid_t)-1) == 0) now.st_uid = wanted.st_uid;
    bool belongs = now.st_uid == wanted.st_uid && now.st_gid == wanted.st_gid;
    return belongs || set_list(link, &wanted) ? 0 : IPCHEAP_SYSTEM;
}

/* What changes the file's rights later sees the pipe, and changes those of the pipe. */
static void permit(int fd, int file) {
    struct stat before = {0}, after;
    for (int i = 0; i < MOST_CHANGES && fstat(file, &after) == 0; i++) {
        if (are_same_rights(&before, &after)) return;
        before = after;
        os_pipe_permit(fd, file, (uint32_t)geteuid());
    }
}

/* Making ---------------------------------------------------------------------------------- */

static int make_named(int file, const char *path) {
    remove_pipe(path);
    if (FAULT(ENOSPC) || mkfifo(path, 0600)) return -1;
    int flags = O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW;
    int fd = FAULT(EMFILE) ? -1 : above_standard(open(path, flags));
    if (fd >= 0) {
        permit(fd, file);
        return fd;
    }
    int error = errno;
    unlink(path);
    errno = error;
    return -1;
}

static int make_nameless(void) {
    int ends[2];
    if (FAULT(EMFILE) || pipe2(ends, O_NONBLOCK | O_CLOEXEC)) return -1;
    int fd = open_again(ends[0]);
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    errno = error;
    return fd;
}

int os_pipe_make(int file, uint64_t suffix, uint64_t *inode) {
    char path[PATH_MAX], other[PATH_MAX];
    struct stat status;
    bool beside = path_beside(file, suffix, path);
    int fd = beside ? make_named(file, path) : -1;
    /* ENOENT: a remover of the heap has removed the pipe already. */
    if (fd < 0 && (!beside || errno == EEXIST || errno == EACCES || errno == ENOENT)) {
        beside = false;
        fd = make_nameless();
    }
    if (fd < 0) return proc_error();
    /* If the heap was removed in the meantime, the remover has not seen the pipe. */
    if (beside && !path_beside(file, suffix, other)) remove_pipe(path);
    if (fstat(fd, &status)) {
        close(fd);
        return IPCHEAP_SYSTEM;
    }
    *inode = status.st_ino;
    return fd;
}

/* Checks before it opens: anything may lie at that path. */
static int open_if(const char *path, uint64_t inode) {
    struct stat status;
    int seen = FAULT(EMFILE) ? -1 : open(path, O_PATH | O_CLOEXEC), fd = -1;
    if (seen < 0) return -1;
    if (fstat(seen, &status) == 0 && S_ISFIFO(status.st_mode) && status.st_ino == inode)
        fd = open_again(seen);
    close(seen);
    return fd;
}

int os_pipe_open(int file, uint64_t suffix, uint32_t pid, int fd, uint64_t inode) {
    char path[PATH_MAX];
    int opened = -1;
    if (path_beside(file, suffix, path)) opened = open_if(path, inode);
    if (opened < 0) {
        snprintf(path, sizeof path, "/proc/%u/fd/%d", pid, fd);
        opened = open_if(path, inode);
    }
    return opened < 0 ? IPCHEAP_SYSTEM : opened;
}

void os_pipe_remove(int file, uint64_t suffix) {
    char path[PATH_MAX];
    int error = errno; /* perhaps the reason for the removal */
    if (path_beside(file, suffix, path)) remove_pipe(path);
    errno = error;
}

void os_pipe_ring(int fd) {
    while (write(fd, "", 1) < 0 && errno == EINTR) {} /* a full pipe is readable already */
}

bool os_pipe_clear(int fd) {
    char bytes[256];
    ssize_t first = read(fd, bytes, sizeof bytes), got = first;
    for (int i = 0; i < 256 && got == (ssize_t)sizeof bytes; i++)
        got = read(fd, bytes, sizeof bytes);
    return first > 0;
}

void os_pipe_clear_soon(int fd) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (poll(&wait, 1, DUE_MS) > 0) os_pipe_clear(fd);
}

int os_poll_make(void) {
    int fd = FAULT(EMFILE) ? -1 : above_standard(epoll_create1(EPOLL_CLOEXEC));
    return fd < 0 ? IPCHEAP_SYSTEM : fd;
}

int os_poll_add(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN};
    return FAULT(ENOSPC) || epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) ? IPCHEAP_SYSTEM : 0;
}

bool os_poll_has(int poll, int fd) {
    struct epoll_event event = {.events = EPOLLIN};
    return poll >= 0 && fd >= 0 && epoll_ctl(poll, EPOLL_CTL_MOD, fd, &event) == 0;
}

int os_process_watch(uint32_t pid) {
    int fd = FAULT(EMFILE) ? -1 : above_standard((int)syscall(SYS_pidfd_open, pid, 0));
    return fd < 0 ? IPCHEAP_SYSTEM : fd;
}

int os_file_watch(int file) {
    char link[64];
    int watch = FAULT(EMFILE) ? -1 : above_standard(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (watch < 0) return IPCHEAP_SYSTEM;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (!FAULT(ENOSPC) && inotify_add_watch(watch, link, IN_CLOSE_WRITE) >= 0) return watch;
    close(watch);
    return IPCHEAP_SYSTEM;
}

bool os_file_watch_clear(int watch) {
    char events[4096];
    int reads = 0;
    while (reads < 16 && read(watch, events, sizeof events) > 0) reads++;
    return reads > 0;
}
