"""Sealed bytes: nobody can change them, and they outlive everything."""

from __future__ import annotations

import gc
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
