"""Rules that are newer, rarer or more demanding than those of :mod:`optimkit.rules`, under the same contract."""

from optimkit.config.registry import register_public
from optimkit.contrib.rules.adam_mini import AdamMini as AdamMini
from optimkit.contrib.rules.ademamix import AdEMAMix as AdEMAMix
from optimkit.contrib.rules.ademamix import SimplifiedAdEMAMix as SimplifiedAdEMAMix
from optimkit.contrib.rules.anchored import COCOB as COCOB
from optimkit.contrib.rules.anchored import MADGRAD as MADGRAD
from optimkit.contrib.rules.asynchronous import ADOPT as ADOPT
from optimkit.contrib.rules.asynchronous import ACProp as ACProp
from optimkit.contrib.rules.complex_parts import SplitComplex as SplitComplex
from optimkit.contrib.rules.d_adaptation import DAdaptAdamW as DAdaptAdamW
from optimkit.contrib.rules.d_adaptation import Prodigy as Prodigy
from optimkit.contrib.rules.distance import DoG as DoG
from optimkit.contrib.rules.distance import DoWG as DoWG
from optimkit.contrib.rules.distance import LDoG as LDoG
from optimkit.contrib.rules.galore import GaLore as GaLore
from optimkit.contrib.rules.kron import PSGDKron as PSGDKron
from optimkit.contrib.rules.mars import MARS as MARS
from optimkit.contrib.rules.mars import MARSLion as MARSLion
from optimkit.contrib.rules.mars import MARSShampoo as MARSShampoo
from optimkit.contrib.rules.mechanic import Mechanic as Mechanic
from optimkit.contrib.rules.momo import MoMo as MoMo
from optimkit.contrib.rules.momo import MoMoAdam as MoMoAdam
from optimkit.contrib.rules.muon import Muon as Muon
from optimkit.contrib.rules.plateau import ReduceOnPlateau as ReduceOnPlateau
from optimkit.contrib.rules.private import DPSGD as DPSGD
from optimkit.contrib.rules.private import DPAggregate as DPAggregate
from optimkit.contrib.rules.sam import ASAM as ASAM
from optimkit.contrib.rules.sam import SAM as SAM
from optimkit.contrib.rules.sam import AdaptiveNormalize as AdaptiveNormalize
from optimkit.contrib.rules.sam import LookSAM as LookSAM
from optimkit.contrib.rules.sam import Normalize as Normalize
from optimkit.contrib.rules.schedule_free import ScheduleFree as ScheduleFree
from optimkit.contrib.rules.schedule_free import ScheduleFreeAdamW as ScheduleFreeAdamW
from optimkit.contrib.rules.schedule_free import ScheduleFreeRAdam as ScheduleFreeRAdam
from optimkit.contrib.rules.schedule_free import ScheduleFreeSGD as ScheduleFreeSGD
from optimkit.contrib.rules.shampoo import SOAP as SOAP
from optimkit.contrib.rules.shampoo import Shampoo as Shampoo
from optimkit.contrib.rules.sophia import Sophia as Sophia

register_public(globals())
