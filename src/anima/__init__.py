"""anima: agents that perceive, dream, learn and act by settling energy, with no backward pass.

A circuit settles under clamps; what is clamped is the question, where it settles is the answer,
and what remains unsettled is the surprise that drives learning and action.
"""

from anima.circuit.hopfield import Hopfield as Hopfield
from anima.circuit.ngc import NGC as NGC
from anima.circuit.predictive import Predictive as Predictive
from anima.circuit.prior import Prior as Prior
from anima.core.errors import InputError as InputError
from anima.core.types import Equilibrium as Equilibrium
from anima.core.types import Result as Result
from anima.learn.assigners import ZIL as ZIL
from anima.learn.assigners import Backprop as Backprop
from anima.learn.assigners import EquilibriumPropagation as EquilibriumPropagation
from anima.learn.assigners import FixedPrediction as FixedPrediction
from anima.learn.assigners import IncrementalPC as IncrementalPC
from anima.learn.assigners import NGCRule as NGCRule
from anima.learn.assigners import PredictiveCoding as PredictiveCoding
from anima.learn.costs import CrossEntropy as CrossEntropy
from anima.learn.costs import Huber as Huber
from anima.learn.costs import SquaredError as SquaredError
from anima.learn.gate import Quantile as Quantile
from anima.learn.gate import Random as Random
from anima.learn.gate import Threshold as Threshold
from anima.learn.learner import Learner as Learner
from anima.learn.memory import Memory as Memory
from anima.learn.memory import remember as remember
from anima.learn.optimisers import optimiser as optimiser
from anima.run.load import load as load
from anima.run.load import preset as preset
from anima.settle.settle import settle as settle
from anima.settle.settle import trace as trace
from anima.settle.solvers import Anderson as Anderson
from anima.settle.solvers import Euler as Euler
from anima.settle.solvers import EvenOdd as EvenOdd
from anima.settle.solvers import Langevin as Langevin
from anima.settle.solvers import Momentum as Momentum
from anima.world.data import load_data as load_data
