"""The habits: learn, predict, save, load, and what Stable-Baselines3 asks of an agent."""

import gymnasium
import numpy as np
import pytest

from anima.agent import DQN
from anima.core.errors import DivergedError, InputError
from anima.world.host import Hosted, hosted

SMALL = dict(assigner="backprop", hidden=[4], every=2, batch=4, capacity=40, warmup=4, steps=99)


@pytest.fixture(scope="module")
def agent():
    return DQN("CartPole-v1", seed=3, **SMALL).learn(20)


def test_a_saved_agent_is_loaded_whole_and_learns_on_alike(agent, tmp_path):
    agent.save(tmp_path / "agent.npz")
    other = DQN.load(tmp_path / "agent.npz")
    assert other.steps == agent.steps == 20 and other.seed == 3
    agent.learn(10)
    other.learn(10)
    seen = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_array_equal(agent.predict(seen)[0], other.predict(seen)[0])
    for a, b in zip(_circuit(agent), _circuit(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("world", "other"), [("Wandering-v0", None), ("CartPole-v1", "elsewhere")])
def test_where_an_episode_cannot_be_found_again_a_new_one_begins(tmp_path, wandering, world, other):
    """In a world that ignores its seed; in another world of the same spaces."""
    agent = DQN(f"gymnasium:{world}", seed=3, **SMALL).learn(6)
    agent.save(tmp_path / "agent.npz")
    elsewhere = other and Hosted(hosted("Wandering-v0").spec, np.asarray, 0)
    with pytest.warns(UserWarning, match="no longer lead to the same place: new episodes begin"):
        again = DQN.load(tmp_path / "agent.npz", elsewhere)
    assert again.steps == 6 and again.lives.one(0).worlds.age == 0
    assert again.lives.one(0).tally.length == 0
    seen = again.lives.one(0).worlds.observation
    np.testing.assert_array_equal(again.learn(2).lives.one(0).mind.replay.rows.observation[6], seen)
    assert again.steps == 8
    agent.close(), again.close()


class _Wandering(gymnasium.Env):
    """Shows what its own chance says, whatever the seed."""

    observation_space = gymnasium.spaces.Box(-9, 9, (4,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.random.default_rng().normal(size=4).astype(np.float32), {}

    def step(self, action):
        return np.random.default_rng().normal(size=4).astype(np.float32), 0.0, False, False, {}


@pytest.fixture
def wandering():
    gymnasium.register("Wandering-v0", _Wandering, max_episode_steps=500)
    yield
    del gymnasium.registry["Wandering-v0"]


def _circuit(agent):
    import jax

    return jax.tree.leaves(agent.state.learner.circuit)


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: whole[:99], lambda _: b"no"])
def test_a_damaged_file_is_refused_in_one_line(agent, tmp_path, spoil):
    path = tmp_path / "agent.npz"
    agent.save(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match="cannot read the agent") as caught:
        DQN.load(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_saved_leaves_what_was_there(agent, tmp_path, monkeypatch):
    path = tmp_path / "agent.npz"
    agent.save(path)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(InputError, match="No space"):
        agent.save(path)
    assert DQN.load(path).steps == agent.steps and len(list(tmp_path.iterdir())) == 1


def test_predict_takes_one_or_many_and_explores_if_asked(agent):
    one, nothing = agent.predict(np.zeros(4))
    assert nothing is None and one.shape == () and int(one) in (0, 1)
    many, _ = agent.predict(np.zeros((100, 4)))
    assert many.shape == (100,) and len(set(many)) == 1
    tried, _ = agent.predict(np.zeros((100, 4)), deterministic=False)
    assert set(tried) == {0, 1}


class Stairs(gymnasium.Env):
    """Up from 3 to 6, where it ends: one of n things is seen, and actions are called 5 and 6."""

    observation_space = gymnasium.spaces.Discrete(4, start=3)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        self.place = 3
        return self.place, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place = min(self.place + int(action == 6), 6)
        return self.place, -1.0, self.place == 6, False, {}


@pytest.fixture
def stairs():
    gymnasium.register("Stairs-v0", entry_point=Stairs, max_episode_steps=9)
    yield "Stairs-v0"
    gymnasium.registry.pop("Stairs-v0")


def test_what_is_one_of_n_is_seen_and_done_as_gymnasium_calls_it(stairs):
    agent = DQN(stairs, **SMALL).learn(20)
    environment = gymnasium.make(stairs)
    seen, _ = environment.reset()
    for _ in range(3):
        action, _ = agent.predict(seen)
        seen, *_ = environment.step(action)
    many, _ = agent.predict(np.array([3, 4, 6]))
    hot, _ = agent.predict(np.eye(4)[[0, 1, 3]])
    np.testing.assert_array_equal(many, hot)
    assert set(many) <= {5, 6}
    for never in (2, 7, "no", {"place": 3}):
        with pytest.raises(InputError, match="no observation of Stairs-v0"):
            agent.predict(never)


def test_the_protocol_of_evaluate_policy(agent):
    """What Stable-Baselines3's function does with a model, in its own words where installed."""
    environment = gymnasium.make("CartPole-v1", max_episode_steps=20)
    try:
        from stable_baselines3.common.evaluation import evaluate_policy
    except ImportError:
        environments = gymnasium.vector.SyncVectorEnv([lambda: environment])
        seen, _ = environments.reset(seed=0)
        starts = np.ones(1, bool)
        for _ in range(5):
            action, state = agent.predict(
                seen, state=None, episode_start=starts, deterministic=True
            )
            seen, reward, *_ = environments.step(action)
            assert state is None and reward.shape == (1,)
    else:
        mean, spread = evaluate_policy(agent, environment, n_eval_episodes=2)
        assert 1 <= mean <= 20 and spread >= 0


@pytest.mark.parametrize("seen", [np.zeros(3), np.zeros((2, 2, 4)), np.full(4, np.nan)])
def test_an_observation_that_cannot_be_is_refused(agent, seen):
    with pytest.raises(InputError, match="predict"):
        agent.predict(seen)


def test_an_agent_of_other_spaces_is_refused(agent, tmp_path):
    agent.save(tmp_path / "agent.npz")
    with pytest.raises(InputError, match="spaces"):
        DQN.load(tmp_path / "agent.npz", "Acrobot-v1")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: DQN("CartPole-v1", rat=1), "did you mean 'rate'"),
        (lambda: DQN("CartPole-v1", seed=-1), "seed is -1"),
        (lambda: DQN("CartPol-v1"), "CartPole-v1"),
        (lambda: DQN("Pendulum-v1"), "continuous"),
        (lambda: DQN.load("/nowhere/agent.npz"), "cannot read the agent"),
    ],
)
def test_bad_input_is_one_line(call, said):
    with pytest.raises(InputError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_steps_out_of_range_and_divergence_are_reported(agent):
    with pytest.raises(InputError, match="total_steps is 0"):
        agent.learn(0)
    wild = DQN("CartPole-v1", **SMALL | dict(rate=1e38, rule="sgd", schedule="constant"))
    with pytest.raises(DivergedError, match="seed 0 diverged"):
        wild.learn(100)
