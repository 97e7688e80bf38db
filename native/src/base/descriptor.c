#include "base/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/os.h"

#define LAST_STANDARD STDERR_FILENO
#define POSITIONS 0x3FFFFFFF /* which every file system allows */

int above_standard(int fd) {
    if (fd < 0 || fd > LAST_STANDARD) return fd;
    int copy = FAULT(EMFILE) ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, LAST_STANDARD + 1);
    int error = errno;
    close(fd);
    errno = error;
    return copy;
}

int proc_error(void) {
    if (errno != ENOENT) return IPCHEAP_SYSTEM;
    bool mounted = access("/proc/self/fd", F_OK) == 0;
    errno = ENOENT;
    return mounted ? IPCHEAP_SYSTEM : IPCHEAP_NO_PROC;
}

int descriptor_note(int fd, struct descriptor *noted) {
    struct stat status;
    if (fstat(fd, &status)) return IPCHEAP_SYSTEM;
    *noted = (struct descriptor){fd, status.st_dev, status.st_ino, -1};
    if (S_ISREG(status.st_mode)) noted->position = lseek(fd, 0, SEEK_CUR);
    return 0;
}

/* Gives a description that has just been opened a position that no other has, and notes it. */
static int mark(int fd, struct descriptor *noted) {
    struct stat status;
    if (fstat(fd, &status)) {
        os_close(fd);
        return IPCHEAP_SYSTEM;
    }
    *noted = (struct descriptor){fd, status.st_dev, status.st_ino, -1};
    if (!S_ISREG(status.st_mode)) return 0;
    noted->position = lseek(fd, (off_t)(os_random() & POSITIONS), SEEK_SET);
    if (noted->position < 0) noted->position = lseek(fd, 0, SEEK_CUR); /* it cannot be moved */
    return 0;
}

/* Fills in "/proc/self/fd/N" without stdio, which a forked child must not use here. */
static void path_of_descriptor(int fd, char path[32]) {
    char digits[12];
    int count = 0;
    strcpy(path, "/proc/self/fd/");
    char *end = path + strlen(path);
    do digits[count++] = (char)('0' + fd % 10);
    while (fd /= 10);
    while (count) *end++ = digits[--count];
    *end = 0;
}

int descriptor_reopen(int fd, struct descriptor *again) {
    char path[32];
    *again = NO_DESCRIPTOR;
    path_of_descriptor(fd, path);
    int opened = FAULT(EMFILE) ? -1 : above_standard(open(path, O_RDWR | O_CLOEXEC));
    return opened < 0 ? proc_error() : mark(opened, again);
}

int descriptor_open(const char *path, const struct descriptor *like, struct descriptor *again) {
    struct stat status;
    *again = NO_DESCRIPTOR;
    /* Looked at first: opening may have effects on what is not ours. */
    if (stat(path, &status) || status.st_dev != like->device || status.st_ino != like->inode)
        return IPCHEAP_DESCRIPTOR_LOST;
    int fd = FAULT(EMFILE) ? -1 : above_standard(open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0) return IPCHEAP_SYSTEM;
    int error = mark(fd, again);
    if (error || (again->device == like->device && again->inode == like->inode)) return error;
    descriptor_close(again);
    return IPCHEAP_DESCRIPTOR_LOST;
}

bool descriptor_is_ours(const struct descriptor *noted) {
    struct stat status;
    if (noted->fd < 0 || fstat(noted->fd, &status)) return false;
    if (status.st_dev != noted->device || status.st_ino != noted->inode) return false;
    return noted->position < 0 || lseek(noted->fd, 0, SEEK_CUR) == noted->position;
}

void descriptor_close(struct descriptor *noted) {
    int error = errno;
    if (descriptor_is_ours(noted)) os_close(noted->fd);
    *noted = NO_DESCRIPTOR;
    errno = error;
}
