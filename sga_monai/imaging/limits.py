"""What every kind of image file is held to, and how color becomes gray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from sga_monai.core.errors import ReadError

# Twice the largest flat-panel detector (43 x 43 cm at 0.1 mm); bounds memory.
MAX_PIXELS = 32_000_000
# What OpenJPEG needs for a sample, and no decoder for more than the largest radiograph.
BYTES_A_SAMPLE = 8
# A JPEG has one scan, a progressive one about ten; thousands would take minutes.
MOST_SCANS = 100
# PS3.3 C.7.6.3.1.2: luminance of RGB, ITU-R BT.601.
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@contextlib.contextmanager
def refused_as(code: str, samples: int = 0) -> Iterator[None]:
    """Let whatever a library raises inside become a ``ReadError`` with this code; what it says may quote a tag's value.

    A ``ReadError`` stays as it is, and so does a shortage of memory, which is no fault of the file.

    Args:
        code: a key of ``REASONS``.
        samples: see ``check_memory``; 0 where a shortage of memory is not taken for damage.
    """
    try:
        yield
    except (ReadError, MemoryError):
        raise
    except Exception:
        if samples:
            check_memory(samples)
        raise ReadError(code) from None


def check_memory(samples: int) -> None:
    """Whether a decoder that failed had memory for ``samples``: OpenJPEG and libjpeg say of a shortage what they say of damage.

    Raises:
        MemoryError: when it is not there.
    """
    np.empty(BYTES_A_SAMPLE * min(samples, MAX_PIXELS), dtype=np.uint8)
