"""A configuration is either right and whole, or refused in a line that says what to write."""

import dataclasses

import equinox as eqx
import jax
import pytest

import anima.run.config as configs
from anima.core.errors import InputError
from anima.run.config import as_table, override, read_preset, resolve

EQPROP, NGC, PREDICTIVE = "digits-eqprop", "digits-ngc", "digits-predictive"


def refusal(assignment, preset=EQPROP):
    with pytest.raises(InputError) as caught:
        resolve(override(read_preset(preset), [assignment]))
    return str(caught.value)


def numbers(table, path=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{path}{key}.")
        elif isinstance(value, int | float | list) and not isinstance(value, bool):
            yield path + key


def built(config, shape=(5, 7), classes=3):
    """The learner and its twin, with shapes for arrays: nothing is compiled."""

    def build(key):
        circuit = configs.build_circuit(config, shape, classes, key)
        each = config, configs.as_twin(config)
        return tuple(configs.build_learner(one, circuit, 5) for one in each)

    return eqx.filter_eval_shape(build, jax.random.key(0))


@pytest.mark.parametrize("preset", configs.preset_names())
def test_every_preset_resolves_builds_and_round_trips(preset):
    config = resolve(read_preset(preset))
    assert resolve(as_table(config)) == config
    conv = any(isinstance(layer, dict) for layer in config.circuit["hidden"])
    learner, twin = built(config, (28, 28), 10)
    shapes = [node.shape for node in learner.circuit.nodes]
    assert shapes[0] == ((28, 28, 1) if conv else (784,)) and shapes[-1] == (10,)
    assert len(shapes) == len(config.circuit["hidden"]) + 2
    assert type(twin.assigner).__name__ == "Backprop"


def test_what_is_written_to_the_run_is_what_is_read_back():
    import tomllib

    config = resolve(override(read_preset(NGC), ["circuit.group=4", "circuit.bound=2"]))
    table = tomllib.loads(configs.dump(config, {"seed": 3}))
    assert table.pop("run") == {"seed": 3}
    assert resolve(table) == config


def test_hidden_layers_may_convolve_and_say_so_in_full():
    import tomllib

    hidden = "circuit.hidden=[{channels=4, kernel=3, pool='max'}, 9]"
    config = resolve(override(read_preset(EQPROP), [hidden]))
    layer = dict(channels=4, kernel=3, stride=1, padding=0, pool="max", pool_size=2)
    assert config.circuit["hidden"] == [layer, 9]
    table = tomllib.loads(configs.dump(config, {}))
    table.pop("run")
    assert resolve(table) == config
    learner, _ = built(config, (8, 7))
    shapes = [node.shape for node in learner.circuit.nodes]
    assert shapes == [(8, 7, 1), (3, 2, 4), (9,), (3,)]


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ("[{channels=4, kernel=3, stide=2}]", "unknown key circuit.hidden.stide: did you mean"),
        ("[{channels=4}]", "circuit.hidden needs kernel"),
        ("[{channels=4, kernel='three'}]", "circuit.hidden.kernel is 'three'"),
        ("[{channels=4, kernel=3, stride=0}]", "stride is 0"),
        ("[{channels=4, kernel=3, pool='mean'}]", "unknown pool 'mean'"),
        ("[{channels=4, kernel=3}, 0]", "sizes must be positive"),
        ("[{channels=4, kernel=3}, 'nine']", "circuit.hidden is 'nine'"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(hidden, message):
    assert message in refusal(f"circuit.hidden={hidden}")


def test_a_family_without_convolutions_is_refused():
    message = refusal("circuit.hidden=[{channels=4, kernel=3}]", NGC)
    assert "'ngc' does not: use one of hopfield, predictive" in message


def test_an_empty_table_gives_the_defaults_of_the_classes():
    config = resolve({})
    assert config.assigner["beta"] == 0.2 and config.assigner["solver"]["name"] == "even_odd"
    assert config.train == configs.Train() and config.twin == configs.Twin()


@pytest.mark.parametrize(
    "assignment, named",
    [
        ("train.epoch=3", "epochs"),
        ("assigner.betta=.3", "beta"),
        ("circuit.hiden=[3]", "hidden"),
        ("twin.ratee=1", "rate"),
        ("optimiser.shedule='cosine'", "schedule"),
        ("assigner.solver={name='euler', dd=1}", "dt"),
        ("circuit.family=hopfeld", "hopfield"),
        ("assigner={name='eqprp'}", "eqprop"),
        ("cost.name=cros_entropy", "cross_entropy"),
        ("assigner.solver=euller", "euler"),
        ("trian.epochs=3", "train"),
        ("epochz=3", "train.epochs"),
    ],
)
def test_an_unknown_word_names_the_nearest_known_one(assignment, named):
    message = refusal(assignment)
    assert "did you mean" in message and named in message.split("did you mean")[1].split("?")[0]


@pytest.mark.parametrize("preset", [EQPROP, NGC, PREDICTIVE])
def test_no_number_may_be_negative_infinite_or_of_another_type(preset):
    table = as_table(resolve(read_preset(preset)))
    keys = list(numbers(table))
    assert len(keys) > 12
    for key in [*keys, "noise.h1"]:
        for value in ["-1", "nan", "inf", "-inf", "1e400", "word", "true", "[-1]", "''", "{}"]:
            message = refusal(f"{key}={value}", preset)
            assert message.startswith(key), (key, value, message)
            assert "\n" not in message


@pytest.mark.parametrize(
    "key",
    ["train.epochs", "train.batch", "train.keep", "twin.rate", "twin.kappa", "circuit.hidden"],
)
def test_sizes_and_rates_may_not_be_zero(key):
    assert refusal(f"{key}={'[0]' if key == 'circuit.hidden' else 0}").startswith(key)


@pytest.mark.parametrize("key", ["train.epochs", "train.batch", "assigner.free_steps"])
@pytest.mark.parametrize("value", ["1.5", "2147483648", "99999999999999999999999"])
def test_counts_are_whole_and_fit_a_step_counter(key, value):
    assert key in refusal(f"{key}={value}")


@pytest.mark.parametrize(
    "assignment",
    [
        "train.epochs",
        "=3",
        "train.epochs.x=3",
        "circuit=3",
        "assigner.solver=3",
        "circuit.family=[1]",
        "assigner.name=[1]",
        "assigner={beta=1}",
        "circuit.activation=3",
        "circuit.activation=[1]",
        "circuit.hidden=3",
        "circuit.hidden=[true]",
        "noise.input={a=1}",
    ],
)
def test_nonsense_is_refused_as_bad_input(assignment):
    assert "\n" not in refusal(assignment)


def test_assignments_build_on_each_other():
    dt = "assigner.solver.dt=0.3"
    for first in (["assigner.solver=euler"], ["assigner.solver={name='euler'}"]):
        table = override(read_preset(EQPROP), [*first, dt])
        assert resolve(table).assigner["solver"] == {"name": "euler", "dt": 0.3}
    for table in (read_preset(EQPROP), {}):
        assigner = resolve(override(table, [dt])).assigner
        assert assigner["solver"] == {"name": "even_odd", "dt": 0.3}


def test_a_key_needs_its_section_only_where_two_have_it():
    table = override(read_preset(EQPROP), ["epochs=7", "beta=.5"])
    assert resolve(table).train.epochs == 7 and resolve(table).assigner["beta"] == 0.5
    assert "optimiser.rate or twin.rate" in refusal("rate=1")


def test_override_leaves_its_argument_alone():
    table = read_preset(PREDICTIVE)
    override(table, ["assigner.solver.dt=0.7", "train.epochs=1"])
    assert table == read_preset(PREDICTIVE)


def test_unknown_and_unreadable_sources(tmp_path):
    with pytest.raises(InputError, match="did you mean 'digits-eqprop'"):
        read_preset("digits-eqprp")
    with pytest.raises(InputError, match="cannot read"):
        configs.read_file(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff = 3")
    with pytest.raises(InputError, match="cannot read"):
        configs.read_file(tmp_path / "bad.toml")


def test_the_twin_differs_in_rule_and_rate_only(small, monkeypatch):
    asked, real = [], configs.optimiser
    monkeypatch.setattr(configs, "optimiser", lambda c, **k: asked.append(k) or real(c, **k))
    small = dataclasses.replace(small, twin=configs.Twin(rate=0.25))
    learner, twin = built(small)
    assert asked[1] == asked[0] | {"rate": 0.25} and asked[0]["rate"] == 0.01
    assert type(twin.assigner).__name__ == "Backprop" and twin.noise == learner.noise
    assert type(twin.cost) is type(learner.cost) and twin.cost.kappa == 1.0


@pytest.mark.parametrize(
    "noise", [{"hiden": 0.1}, {"input": 1.0}], ids=["unknown node", "rate of 1"]
)
def test_noise_must_fit_the_circuit(noise):
    with pytest.raises(InputError, match=r"hidden|silence rate"):
        built(resolve({"noise": noise}))
