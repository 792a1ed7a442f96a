"""Optimizers from elsewhere: what was written for another library, in optimkit's form. Nothing is imported for it."""

from optimkit.interop.optax import create_optimizer_from_optax as create_optimizer_from_optax
from optimkit.interop.orbax import OrbaxCheckpoint as OrbaxCheckpoint
from optimkit.interop.orbax import restore_orbax as restore_orbax
from optimkit.interop.orbax import save_orbax as save_orbax
