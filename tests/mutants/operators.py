"""All mutation operators: small mistakes that authors of optimizers make, as changes of the syntax tree.

``arithmetic`` has those of formulas, ``bookkeeping`` those of state, dtypes, keys and declarations. Importing them
enters them into ``OPERATORS``.
"""

from __future__ import annotations

from tests.mutants import arithmetic as arithmetic
from tests.mutants import bookkeeping as bookkeeping
from tests.mutants.mutation import OPERATORS as OPERATORS
from tests.mutants.mutation import Context as Context
from tests.mutants.mutation import called as called
