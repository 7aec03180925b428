"""WHO acts: agents made of circuits, an assigner and an objective, each with the same habits."""

from anima.agent.angc import ANGC as ANGC
from anima.agent.classic import DDPG as DDPG
from anima.agent.classic import DQN as DQN
from anima.agent.classic import PPO as PPO
from anima.agent.classic import REINFORCE as REINFORCE
from anima.agent.classic import SAC as SAC
from anima.agent.classic import SVG0 as SVG0
from anima.agent.classic import Synapse as Synapse
from anima.agent.living import Living as Living
