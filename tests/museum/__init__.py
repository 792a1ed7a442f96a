"""A museum of defects: small reproductions of what went wrong in other libraries, each of which the kit must reject.

Each exhibit is a rule in our own words with the defect transplanted into it; see :mod:`tests.museum.exhibit`. The rooms
are the modules of this package. ``EXHIBITS`` holds all of them.
"""

from . import composition, formulas, hyperparameters, precision, state, zero_gradients
from .exhibit import EXHIBITS, Exhibit

__all__ = [
    "EXHIBITS",
    "Exhibit",
    "composition",
    "formulas",
    "hyperparameters",
    "precision",
    "state",
    "zero_gradients",
]
