"""Assigners: how a cost becomes a change of synapses.

Each turns `cost(output)` into a scalar *objective* of the circuit's parameters in which all
activities are held at where the circuit settled; the gradient of that is the plasticity, and each
of its terms is local. One objective per example means that the gradient of a batch is one matrix
product per synapse. Only `Backprop`, the reference, differentiates through the sweep itself.
"""

from anima.learn.assigners.base import AbstractAssigner as AbstractAssigner
from anima.learn.assigners.base import Backprop as Backprop
from anima.learn.assigners.base import Info as Info
from anima.learn.assigners.base import contrast as contrast
from anima.learn.assigners.base import swept as swept
from anima.learn.assigners.coding import ZIL as ZIL
from anima.learn.assigners.coding import FixedPrediction as FixedPrediction
from anima.learn.assigners.coding import IncrementalPC as IncrementalPC
from anima.learn.assigners.coding import NGCRule as NGCRule
from anima.learn.assigners.coding import PredictiveCoding as PredictiveCoding
from anima.learn.assigners.propagation import EquilibriumPropagation as EquilibriumPropagation
from anima.learn.assigners.stability import bend as bend
from anima.learn.assigners.stability import nudge_bound as nudge_bound
from anima.learn.assigners.stability import response as response
