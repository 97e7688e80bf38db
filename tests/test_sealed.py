"""Sealed bytes: nobody can change them, and they outlive everything."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os

import numpy as np
import peers
import pytest
import stream_workers

import ipcheap


def test_sealed_bytes_are_what_was_sealed() -> None:
    items = np.arange(12, dtype="f8").reshape(3, 4)
    with ipcheap.sealed(items) as box:
        assert box.nbytes == len(box) == 96
        assert bytes(box.view) == items.tobytes()
        assert (box.array("f8", (3, 4)) == items).all()
        assert box.view.readonly
        with pytest.raises(OSError, match="not permitted"):
            os.write(box.fileno(), b"x")
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(box.fileno(), 10)


def test_sealed_bytes_travel() -> None:
    with ipcheap.sealed(b"many readers") as box:
        assert peers.call(stream_workers.unseal, box) == "many readers"
        with ipcheap.Sealed(box.fileno()) as again:
            assert bytes(again.view) == b"many readers"


def test_views_outlive_the_box() -> None:
    box = ipcheap.sealed(b"abc" * 5000)
    view, array = box.view, box.array()
    box.close()
    box.close()
    with pytest.raises(ValueError, match="closed"):
        box.fileno()
    del box
    gc.collect()
    assert bytes(view) == array.tobytes() == b"abc" * 5000


def test_no_process_can_change_them() -> None:
    with ipcheap.sealed(b"abc") as box:
        for nbytes in (2, 4):
            with pytest.raises(PermissionError):
                os.ftruncate(box.fileno(), nbytes)
        with pytest.raises(PermissionError):
            fcntl.fcntl(box.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with pytest.raises(PermissionError):
            mmap.mmap(box.fileno(), 3)
        with pytest.raises(TypeError, match="read-only"):
            box.view[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            box.array()[0] = 1
        assert bytes(box.view) == b"abc"


def test_the_source_is_copied() -> None:
    source = bytearray(b"abcdef")
    with ipcheap.sealed(source) as box, ipcheap.sealed(memoryview(source)[::2]) as other:
        source[:] = bytes(6)
        assert bytes(box.view) == b"abcdef"
        assert bytes(other.view) == b"ace"
    for data in ("text", 7, None):
        with pytest.raises(TypeError):
            ipcheap.sealed(data)
    with ipcheap.sealed(bytes(9)) as odd:
        for dtype, shape in (("f4", None), ("u1", (2, 5))):
            with pytest.raises(ValueError, match="9"):
                odd.array(dtype, shape)


def test_a_duplicate_of_the_descriptor_is_kept() -> None:
    first = ipcheap.sealed(b"abc")
    fd = os.dup(first.fileno())
    first.close()
    with ipcheap.Sealed(fd) as box:
        assert box.fileno() != fd
        assert not os.get_inheritable(box.fileno())
        os.close(fd)
        with ipcheap.Sealed(box.fileno()) as again:
            assert bytes(again.view) == b"abc"


SEALS = fcntl.F_SEAL_WRITE, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SEAL


@pytest.mark.parametrize("missing", SEALS)
def test_each_seal_is_needed(missing: int) -> None:
    fd = os.memfd_create("three seals", os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sum(SEALS) - missing)
        with pytest.raises(ipcheap.FormatMismatch, match=f"descriptor {fd}"):
            ipcheap.Sealed(fd)
        os.fstat(fd)  # it is still the caller's
    finally:
        os.close(fd)


def test_nothing_can_be_sealed() -> None:
    with ipcheap.sealed(b"") as box:
        assert bytes(box.view) == b""


def test_what_is_not_sealed_is_refused() -> None:
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    try:
        with pytest.raises(ipcheap.FormatMismatch, match="not sealed"):
            ipcheap.Sealed(fd)
    finally:
        os.close(fd)
    read, write = os.pipe()
    with pytest.raises(ipcheap.FormatMismatch, match="cannot be sealed"):
        ipcheap.Sealed(read)
    os.close(read)
    os.close(write)
