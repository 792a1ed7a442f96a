"""A museum of defects: small reproductions of what went wrong in other libraries, each of which the kit must reject.

Each exhibit is a rule in our own words with the defect transplanted into it; see :mod:`tests.museum.exhibit`. The rooms
are the modules of this package. ``EXHIBITS`` holds all that a check of the kit rejects, and ``NOT_REJECTED`` those that
none does yet, with the check that is missing.
"""

from . import composition, formulas, hyperparameters, precision, state, zero_gradients
from .exhibit import EXHIBITS, NOT_REJECTED, Exhibit

__all__ = [
    "EXHIBITS",
    "NOT_REJECTED",
    "Exhibit",
    "composition",
    "formulas",
    "hyperparameters",
    "precision",
    "state",
    "zero_gradients",
]
