"""Constants that are arguments of layers and functions."""

from __future__ import annotations

import enum


class ConvPadding(enum.Enum):
    """How a convolution or a pooling pads images.

    ``SAME``: with zeros, so that the output has ``ceil(size / stride)`` rows and columns; where the number of rows to
    add is odd, the end gets one more. ``VALID``: not at all.
    """

    SAME = "SAME"
    VALID = "VALID"
