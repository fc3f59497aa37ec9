"""What a refusal says: the file, whether it was read or written, the remedy; and that it survives a process border."""

from __future__ import annotations

import errno
import os
import pickle

import pytest

from sga_monai.core.errors import DiskError, ReadError, WorkerError, input_error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DiskError("model.pt", errno.ENOSPC, 44_000_000), "cannot write model.pt (44.0 MB): no space is left on the disk; free some"),
        (DiskError("model.pt", errno.EIO, action="read"), "cannot read model.pt: the disk reports an error; check it"),
        (DiskError("a.csv", errno.EMFILE), f"cannot write a.csv: the system says: {os.strerror(errno.EMFILE)}"),
        (DiskError("the lock", 0), "cannot write the lock: the system refuses it; check the path"),
    ],
)
def test_a_disk_error_says_what_was_done_with_which_file(error: DiskError, message: str) -> None:
    assert str(error) == message
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.exit_code) == (DiskError, message, 4)


def test_an_error_of_the_system_names_no_file() -> None:
    # The name may be that of a patient's file.
    assert str(input_error(PermissionError(errno.EACCES, "denied", "DOE_JOHN.dcm"))) == (
        "cannot read or write a file: permission is denied; give another folder, or ask for access"
    )


def test_a_mount_point_has_its_remedy() -> None:
    assert str(input_error(OSError(errno.EBUSY, "busy", "/DOE"))).endswith("which cannot be moved aside; give a folder inside it")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ENOMEM, "no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes of DOE")],
)
def test_a_shortage_of_memory_is_one_sentence(error: Exception) -> None:
    wrapped = RuntimeError("MONAI's words")
    wrapped.__cause__ = error
    found = input_error(wrapped)
    assert (type(found), str(found)) == (WorkerError, "memory ran out; free some, or use fewer num_workers")


def test_an_input_error_is_found_in_what_wraps_it() -> None:
    wrapped = RuntimeError("MONAI's words")
    wrapped.__cause__ = ReadError("constant")
    assert input_error(wrapped) is wrapped.__cause__
    assert input_error(RuntimeError("another")) is None
