"""One seed of a peer's agent with its zoo's settings, judged by greedy episodes.

    python benchmarks/agents/peers/returns_worker.py WHO WORLD SEED [--every STEPS --threshold R]

WHO is sb3 (Stable-Baselines3, PyTorch) or sbx (the same in JAX). Discrete worlds are learnt by deep
Q-learning, the others by SAC. The settings, steps among them, are those that Stable-Baselines3's
zoo (DLR-RM/rl-baselines3-zoo, hyperparams/dqn.yml and sac.yml) calls tuned (CartPole's almost, of
Pendulum's it does not say); sbx borrows them. Every `--every` steps 10 greedy episodes are lived in
a world apart, whose time is not counted, to see when the peer comes to a mean return of
`--threshold`. The last line printed is a JSON object.
"""

import argparse
import json
import time
from typing import Any

EPISODES, ON_THE_WAY = 100, 10

ZOO: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(
        agent="dqn",
        steps=50_000,
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
    ),
    "MountainCar-v0": dict(
        agent="dqn",
        steps=120_000,
        learning_rate=4e-3,
        batch_size=128,
        buffer_size=10_000,
        learning_starts=1000,
        gamma=0.98,
        target_update_interval=600,
        train_freq=16,
        gradient_steps=8,
        exploration_fraction=0.2,
        exploration_final_eps=0.07,
        policy_kwargs={"net_arch": [256, 256]},
    ),
    "Acrobot-v1": dict(
        agent="dqn",
        steps=100_000,
        learning_rate=6.3e-4,
        batch_size=128,
        buffer_size=50_000,
        learning_starts=0,
        gamma=0.99,
        target_update_interval=250,
        train_freq=4,
        gradient_steps=-1,
        exploration_fraction=0.12,
        exploration_final_eps=0.1,
        policy_kwargs={"net_arch": [256, 256]},
    ),
    "Pendulum-v1": dict(agent="sac", steps=20_000, learning_rate=1e-3),
    "MountainCarContinuous-v0": dict(
        agent="sac",
        steps=50_000,
        learning_rate=3e-4,
        buffer_size=50_000,
        batch_size=512,
        ent_coef=0.1,
        train_freq=32,
        gradient_steps=32,
        gamma=0.9999,
        tau=0.01,
        learning_starts=0,
        use_sde=True,
        policy_kwargs={"log_std_init": -3.67, "net_arch": [64, 64]},
    ),
}
ZOO["LunarLander-v3"] = ZOO["Acrobot-v1"]  # as the zoo has them


def main() -> None:
    """Learns, is judged, and says so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("who", choices=("sb3", "sbx"))
    parser.add_argument("world", choices=sorted(ZOO))
    parser.add_argument("seed", type=int)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--threshold", type=float, default=float("inf"))
    options = parser.parse_args()

    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    torch.set_num_threads(1)
    library: Any = stable_baselines3
    if options.who == "sbx":
        import sbx

        library = sbx
    settings = dict(ZOO[options.world])
    agent, steps = settings.pop("agent"), settings.pop("steps")

    def world(seed: int) -> Any:
        made = Monitor(gymnasium.make(options.world, disable_env_checker=True))
        made.reset(seed=seed)
        return made

    def judged(model: Any, world: Any, episodes: int) -> list[float]:
        found: Any = evaluate_policy(
            model, world, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True
        )
        return found[0]

    class Judge(BaseCallback):
        """When the threshold was first reached, and the seconds that judging took."""

        def __init__(self) -> None:
            super().__init__()
            self.world, self.first, self.away = world(20_000 + options.seed), None, 0.0

        def _on_step(self) -> bool:
            if self.first is None and self.num_timesteps % options.every == 0:
                left = time.perf_counter()
                returns = judged(self.model, self.world, ON_THE_WAY)
                if sum(returns) / len(returns) >= options.threshold:
                    self.first = self.num_timesteps, left - begun - self.away
                self.away += time.perf_counter() - left
            return True

    begun = time.perf_counter()
    build = library.SAC if agent == "sac" else library.DQN
    model = build(
        "MlpPolicy", world(options.seed), **settings, device="cpu", seed=options.seed, verbose=0
    )
    judge = Judge()
    model.learn(steps, log_interval=10**9, callback=judge)
    seconds = time.perf_counter() - begun - judge.away
    returns = judged(model, world(10_000 + options.seed), EPISODES)
    found = {
        "agent": agent,
        "seed": options.seed,
        "return": sum(returns) / len(returns),
        "seconds": seconds,
        "steps": steps,
        "steps_to_threshold": judge.first and judge.first[0],
        "seconds_to_threshold": judge.first and judge.first[1],
        "version": library.__version__,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
