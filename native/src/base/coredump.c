#include "base/coredump.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"

/* Flags of a thread in /proc/PID/task/TID/stat: it has left user code and does not return to it. */
#define PF_EXITING 0x4u
#define PF_POSTCOREDUMP 0x8u /* it waits for the end of the dump; Linux 5.16 */
#define PF_DUMPCORE 0x200u   /* it writes the dump */

/* Returns what follows the name of a line of /proc/PID/status; NULL if there is no such line. */
static const char *field_of(const char *status, const char *name) {
    const char *at = strstr(status, name);
    return at ? at + strlen(name) : NULL;
}

/* True if /proc shows the PID namespace of this process: there, it has one number only. */
static bool proc_is_ours(void) {
    char status[2048];
    if (!os_text_of("/proc/self/status", status, sizeof status)) return false;
    const char *numbers = field_of(status, "\nNSpid:\t");
    char *end = NULL;
    return numbers && strtol(numbers, &end, 10) == getpid() && *end == '\n';
}

static bool thread_has_stopped(const char *path) {
    char stat[512];
    if (!os_text_of(path, stat, sizeof stat)) return false;
    unsigned int flags = 0;
    const char *rest = strrchr(stat, ')'); /* after the name, which may be anything */
    if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1) return false;
    return (flags & (PF_EXITING | PF_POSTCOREDUMP | PF_DUMPCORE)) != 0;
}

bool process_is_dumped(uint32_t pid) {
    char path[64], status[2048];
    snprintf(path, sizeof path, "/proc/%u/status", pid);
    if (!os_text_of(path, status, sizeof status)) return false;
    const char *dumping = field_of(status, "\nCoreDumping:\t");
    if (!dumping || *dumping != '1' || !proc_is_ours()) return false;
    snprintf(path, sizeof path, "/proc/%u/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) return false;
    int stopped = 0;
    bool all = true;
    for (struct dirent *task; all && (task = readdir(tasks));) {
        if (task->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%u/task/%.16s/stat", pid, task->d_name);
        all = thread_has_stopped(path);
        stopped += all;
    }
    closedir(tasks);
    return all && stopped > 0;
}
