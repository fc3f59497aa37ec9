"""What every kind of image file is held to, and how color becomes gray."""

from __future__ import annotations

import numpy as np

# Twice the largest flat-panel detector (43 x 43 cm at 0.1 mm); bounds memory.
MAX_PIXELS = 32_000_000
# A JPEG has one scan, a progressive one about ten; thousands would take minutes.
MOST_SCANS = 100
# PS3.3 C.7.6.3.1.2: luminance of RGB, ITU-R BT.601.
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
