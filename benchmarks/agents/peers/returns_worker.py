"""One seed of a peer's deep Q-learning with its zoo's settings, judged by greedy episodes.

    python benchmarks/agents/peers/returns_worker.py WHO WORLD SEED

WHO is sb3 (Stable-Baselines3, PyTorch) or sbx (the same in JAX). The settings, steps among them,
are those that Stable-Baselines3's zoo (DLR-RM/rl-baselines3-zoo, hyperparams/dqn.yml) calls tuned
(for CartPole: almost tuned); sbx borrows them. The last line printed is a JSON object.
"""

import argparse
import json
import time
from typing import Any

EPISODES = 100

ZOO: dict[str, dict[str, Any]] = {
    "CartPole-v1": dict(
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
    ),
    "MountainCar-v0": dict(
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
    ),
    "Acrobot-v1": dict(
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
    ),
}


def main() -> None:
    """Learns, is judged, and says so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("who", choices=("sb3", "sbx"))
    parser.add_argument("world", choices=sorted(ZOO))
    parser.add_argument("seed", type=int)
    options = parser.parse_args()

    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    torch.set_num_threads(1)
    library: Any = stable_baselines3
    if options.who == "sbx":
        import sbx

        library = sbx
    settings = dict(ZOO[options.world])
    steps = settings.pop("steps")
    make = lambda: Monitor(gymnasium.make(options.world, disable_env_checker=True))
    begun = time.perf_counter()
    model = library.DQN(
        "MlpPolicy",
        make(),
        **settings,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
        seed=options.seed,
    )
    model.learn(steps, log_interval=10**9)
    seconds = time.perf_counter() - begun
    judged = make()
    judged.reset(seed=10_000 + options.seed)
    returns, _ = evaluate_policy(
        model, judged, n_eval_episodes=EPISODES, deterministic=True, return_episode_rewards=True
    )
    found = {
        "seed": options.seed,
        "return": sum(returns) / len(returns),
        "seconds": seconds,
        "steps": steps,
        "version": library.__version__,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
