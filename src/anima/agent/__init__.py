"""WHO acts: agents made of circuits, an assigner and an objective, each with the same habits."""

from anima.agent.angc import ANGC as ANGC
from anima.agent.classic import DQN as DQN
from anima.agent.living import Living as Living
