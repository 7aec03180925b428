"""The benchmarks count what they time, and a learner of each kind really runs."""

import json
from functools import partial

import pytest

from anima.app import bench, cli

TINY = {
    "tiny-predictive": bench.Task("predictive", (6, 5, 4, 3), 2, 3),
    "tiny-eqprop": bench.Task("eqprop", (6, 5, 3), 2, 3, 2),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench, "TASKS", TINY)
    monkeypatch.setattr(bench, "gemm_peak", lambda: 2e9)
    monkeypatch.setattr(bench, "measure", partial(bench.measure, seconds=0.01))


def test_operations_are_those_of_the_matrix_products():
    # 4 per weight for the sweep and the gradients; 4 per weight above the first layer and step
    assert TINY["tiny-predictive"].flops == 4 * (30 + 20 + 12) + 4 * 3 * (20 + 12)
    assert TINY["tiny-eqprop"].flops == 4 * (30 + 15) + 4 * (3 + 2 * 2) * 15


@pytest.mark.parametrize("name", TINY)
def test_json_is_one_object(capsys, tmp_path, name):
    out = tmp_path / "bench"
    assert cli.main(["bench", name, "--json", "--seed", "4", "--out", str(out)]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert said.err == "" and json.loads((out / "bench.json").read_text()) == result
    (row,) = result["benchmarks"]
    assert result["seed"] == 4 and row["name"] == name
    assert row["samples_per_second"] > 0 and row["first_call_seconds"] > 0
    assert row["peak_memory_mb"] > 10 and row["gemm_gflops"] == 2
    share = row["samples_per_second"] / row["floor_samples_per_second"]
    assert row["share_of_peak"] == pytest.approx(share)
    assert cli.main(["bench", name, "--out", str(out)]) == cli.BAD_INPUT
    assert "holds files already" in capsys.readouterr().err


def test_without_names_all_are_measured_and_quiet_is_quiet(capsys, monkeypatch):
    keys = "samples_per_second", "first_call_seconds", "share_of_peak", "gemm_gflops"
    monkeypatch.setattr(bench, "measure", lambda name, seed: dict.fromkeys(keys, 1.0))
    assert cli.main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TINY)
    assert cli.main(["bench", "tiny-predictive", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_peak_is_a_rate(monkeypatch):
    monkeypatch.undo()
    assert bench.gemm_peak(size=32, seconds=0.01) > 1e6
