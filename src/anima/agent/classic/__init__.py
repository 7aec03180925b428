"""Classic algorithms, each a small composition of circuits, an estimator and a cost: any assigner.

- `values.py`: DQN. - `policy.py`: REINFORCE with baseline, PPO. - `steering.py`: DDPG, SVG(0), SAC.
- `synapse.py`: the REINFORCE synapse. - `faculty.py`: what all of them are made of.
"""

from anima.agent.classic.policy import PPO as PPO
from anima.agent.classic.policy import REINFORCE as REINFORCE
from anima.agent.classic.policy import ppo as ppo
from anima.agent.classic.policy import reinforce as reinforce
from anima.agent.classic.steering import DDPG as DDPG
from anima.agent.classic.steering import SAC as SAC
from anima.agent.classic.steering import SVG0 as SVG0
from anima.agent.classic.steering import ddpg as ddpg
from anima.agent.classic.steering import sac as sac
from anima.agent.classic.steering import svg0 as svg0
from anima.agent.classic.synapse import Synapse as Synapse
from anima.agent.classic.synapse import synapse as synapse
from anima.agent.classic.values import DQN as DQN
from anima.agent.classic.values import Fading as Fading
from anima.agent.classic.values import QLearning as QLearning
from anima.agent.classic.values import QState as QState
from anima.agent.classic.values import Straight as Straight
from anima.agent.classic.values import Values as Values
from anima.agent.classic.values import dqn as dqn
