"""Which limit was met: sentences that name it with its number, and the way out.

Imported when something has failed. The kernel says that there is no room, and not always which of
its limits left none; so each sentence comes from looking at the limits themselves.
"""

from __future__ import annotations

import errno
import os
import resource

from ._arguments import show_size

_PAGE = 4096
_CGROUPS = "/sys/fs/cgroup"
_FEW = 4  # files: a heap takes up to three
_SMALL = 4 << 20  # bytes: a file system with less left is full for any purpose


def of_memory(where: str | None, asked: int | None, code: int) -> str:
    """Return why no memory could be had for a file in that folder; None for an anonymous one.

    `code` is the errno, 0 if that is not known.
    """
    need = max(asked or 0, _SMALL)
    if code == errno.EFBIG:
        return _of_file_size()
    if code == errno.EDQUOT:
        return f"your quota on the file system {where} is used up; remove files there"
    if where is not None and code != errno.ENOMEM:
        try:
            status = os.statvfs(where)
        except OSError:
            return f"the file system {where} has no room; remove files there, or enlarge it"
        large = _free_large_pages(status.f_frsize)
        if large is not None:
            return (
                f"{where} has no large pages of {show_size(status.f_frsize)} left ({large} are "
                "free in the machine); free records and call trim(), raise vm.nr_hugepages, or "
                "enlarge the mount"
            )
        total, left = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        if status.f_files and status.f_favail < _FEW and left >= need:
            return (
                f"the file system {where} holds as many files as it may ({status.f_files}); "
                "remove files there"
            )
        if left < need or code == errno.ENOSPC:
            return (
                f"the file system {where} is full ({show_size(left)} of {show_size(total)} left); "
                "free records and call trim(), remove other files there, or enlarge it"
            )
    return _of_main_memory()


def _free_large_pages(nbytes: int) -> int | None:
    """Return how many large pages the machine has free; None if they are small ones."""
    if nbytes <= os.sysconf("SC_PAGE_SIZE"):
        return None
    text = _text(f"/sys/kernel/mm/hugepages/hugepages-{nbytes >> 10}kB/free_hugepages").strip()
    return int(text) if text.isdigit() else None


def _of_file_size() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return "its file would be larger than the file system allows; choose a smaller capacity"
    return (
        f"no file of this process may be larger than {show_size(limit)} (ulimit -f, RLIMIT_FSIZE);"
        " raise that limit, or choose a smaller capacity"
    )


def _of_main_memory() -> str:
    group = _control_group()
    if group is not None:
        limit, used, file = group
        return (
            f"the control group of this process uses {show_size(used)} of memory and may use "
            f"{show_size(limit)} ({file}); free records and call trim(), or raise that limit"
        )
    total, left = _meminfo("MemTotal"), _meminfo("MemAvailable")
    return (
        f"the machine has no more memory to give ({show_size(left)} of {show_size(total)} "
        "available); free records and call trim(), or end other programs"
    )


def _meminfo(field: str) -> int:
    for line in _text("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    return 0


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _control_group() -> tuple[int, int, str] | None:
    """Return limit, use and file of the control group that has least left; None if none has any."""
    tightest = None
    for line in _text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit_file, used_file = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = f"{_CGROUPS}/memory"
            limit_file, used_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            folder = "/".join([root, *parts[:depth]])
            limit, used = _text(f"{folder}/{limit_file}"), _text(f"{folder}/{used_file}")
            if limit.strip().isdigit() and used and int(limit) < 1 << 60:
                found = int(limit), int(used), f"{folder}/{limit_file}"
                if tightest is None or found[0] - found[1] < tightest[0] - tightest[1]:
                    tightest = found
    return tightest


def of_addresses() -> str:
    """Return why memory could not be mapped, or not be had for this process itself."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        fields = _text("/proc/self/statm").split()
        used = f" and uses {show_size(int(fields[0]) * resource.getpagesize())}" if fields else ""
        return (
            f"this process may use {show_size(limit)} of addresses (ulimit -v, RLIMIT_AS){used}; "
            "raise that limit, or choose a smaller capacity"
        )
    most = _text("/proc/sys/vm/max_map_count").strip()
    maps = _text("/proc/self/maps").count("\n")
    if most.isdigit() and maps >= int(most) - 16:
        return f"this process has {maps} mappings, and may have {most} (vm.max_map_count)"
    return "this process is out of memory: " + _of_main_memory()


def of_system_v(what: str, nbytes: int) -> str:
    """Return why the kernel makes no System V "segment" of so many bytes, or no "semaphore"."""
    if what == "semaphore":
        limits = _text("/proc/sys/kernel/sem").split()
        return (
            f"this IPC namespace has {_lines('/proc/sysvipc/sem')} System V semaphore sets, and "
            f"may have {limits[3] if len(limits) > 3 else '?'} (the fourth number of kernel.sem); "
            "remove unused ones (ipcs -s), or raise that limit"
        )
    largest, most, pages = (
        _number(f"/proc/sys/kernel/{n}") for n in ("shmmax", "shmmni", "shmall")
    )
    have = _lines("/proc/sysvipc/shm")
    if nbytes > largest:
        return (
            f"a System V segment may have {show_size(largest)} (kernel.shmmax), and this one needs "
            f"{show_size(nbytes)}; raise that limit, or choose a smaller capacity"
        )
    if have >= most:
        return (
            f"this IPC namespace has {have} System V segments, and may have {most} "
            "(kernel.shmmni); remove unused ones (ipcs -m), or raise that limit"
        )
    used = sum(
        -(-int(line.split()[3]) // _PAGE) for line in _text("/proc/sysvipc/shm").splitlines()[1:]
    )
    if used + -(-nbytes // _PAGE) > pages:
        return (
            f"the System V segments of this IPC namespace have {show_size(used * _PAGE)}, may have "
            f"{show_size(pages * _PAGE)} together (kernel.shmall), and this one needs "
            f"{show_size(nbytes)}; remove unused ones (ipcs -m), or raise that limit"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and nbytes > limit // 2:
        return of_addresses()
    return (
        f"System V reserves the whole segment, {show_size(nbytes)}, when it is made, and this "
        f"machine does not grant so much memory ({show_size(_meminfo('MemAvailable'))} of "
        f"{show_size(_meminfo('MemTotal'))} available; vm.overcommit_memory); choose a smaller "
        "capacity, or shm='posix'"
    )


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 1 << 63


def _lines(path: str) -> int:
    return max(_text(path).count("\n") - 1, 0)


def of_call(code: int, path: str | None) -> str | None:
    """Return the sentence for an errno that means a limit; None for any other errno."""
    where = f"the file system of {path}" if path else "the file system"
    if code == errno.ENFILE:
        most = _text("/proc/sys/fs/file-max").strip()
        return f"the machine may have {most} files open (fs.file-max), and has them all in use"
    sentences = {
        errno.EROFS: f"{where} is mounted read-only; choose another folder, or remount it",
        errno.EOPNOTSUPP: f"{where} cannot reserve memory (fallocate) or give it back, so a heap "
        "there could end with a bus error; use tmpfs, hugetlbfs, ext4, XFS or Btrfs",
        errno.ENODEV: f"{where} cannot map files; use a tmpfs like /dev/shm",
        errno.ENOLCK: f"{where} has no more file locks, which participants need",
    }
    return sentences.get(code)


def of_locked_memory() -> str:
    """Return the sentence for pages that cannot be locked."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return (
        f"this process may lock no more than {limit:,} bytes (RLIMIT_MEMLOCK, ulimit -l), and a "
        "ring that is mapped twice counts twice; raise that limit, or claim without mlock"
    )


def of_name(path: str) -> str:
    """Return how long the name of a heap's file may be, for a file system that allows little."""
    folder = os.path.dirname(path) or "."
    try:
        most = os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        most = 255
    return (
        f"heap path {path!r} is too long: a file name in {folder} may have {most} bytes, of which "
        "a heap needs 17 for the names of what lies beside its file"
    )
