"""Stateful optimizers for the rules of :mod:`optimkit.contrib.rules`, by the same names."""

from optimkit.config.registry import register_public
from optimkit.contrib.adam_variants import ADOPT as ADOPT
from optimkit.contrib.adam_variants import ACProp as ACProp
from optimkit.contrib.adam_variants import AdEMAMix as AdEMAMix
from optimkit.contrib.adam_variants import SimplifiedAdEMAMix as SimplifiedAdEMAMix
from optimkit.contrib.complex_parts import SplitComplex as SplitComplex
from optimkit.contrib.kron import PSGDKron as PSGDKron
from optimkit.contrib.learning_rate_free import COCOB as COCOB
from optimkit.contrib.learning_rate_free import MADGRAD as MADGRAD
from optimkit.contrib.learning_rate_free import DAdaptAdamW as DAdaptAdamW
from optimkit.contrib.learning_rate_free import DoG as DoG
from optimkit.contrib.learning_rate_free import DoWG as DoWG
from optimkit.contrib.learning_rate_free import LDoG as LDoG
from optimkit.contrib.learning_rate_free import Mechanic as Mechanic
from optimkit.contrib.learning_rate_free import MoMo as MoMo
from optimkit.contrib.learning_rate_free import MoMoAdam as MoMoAdam
from optimkit.contrib.learning_rate_free import Prodigy as Prodigy
from optimkit.contrib.low_memory import AdamMini as AdamMini
from optimkit.contrib.low_memory import GaLore as GaLore
from optimkit.contrib.mars import MARS as MARS
from optimkit.contrib.mars import MARSLion as MARSLion
from optimkit.contrib.mars import MARSShampoo as MARSShampoo
from optimkit.contrib.muon import Muon as Muon
from optimkit.contrib.plateau import ReduceOnPlateau as ReduceOnPlateau
from optimkit.contrib.private import DPSGD as DPSGD
from optimkit.contrib.private import DPAggregate as DPAggregate
from optimkit.contrib.sam import ASAM as ASAM
from optimkit.contrib.sam import SAM as SAM
from optimkit.contrib.sam import LookSAM as LookSAM
from optimkit.contrib.sam import Normalize as Normalize
from optimkit.contrib.schedule_free import ScheduleFree as ScheduleFree
from optimkit.contrib.schedule_free import ScheduleFreeAdamW as ScheduleFreeAdamW
from optimkit.contrib.schedule_free import ScheduleFreeRAdam as ScheduleFreeRAdam
from optimkit.contrib.schedule_free import ScheduleFreeSGD as ScheduleFreeSGD
from optimkit.contrib.shampoo import SOAP as SOAP
from optimkit.contrib.shampoo import Shampoo as Shampoo
from optimkit.contrib.sophia import Sophia as Sophia

register_public(globals())
