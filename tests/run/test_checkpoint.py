"""A checkpoint comes back bit for bit, or is passed over aloud; saving one never costs another."""

import errno
import json
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anima.core.errors import InputError
from anima.core.files import write_atomically
from anima.run import checkpoint

NOTES = {"sums": {"cost": 0.1 + 0.2}, "rows": [{"epoch": 1}]}


def state(value):
    return {"weight": jnp.full((3, 2), value), "step": jnp.asarray(7), "key": jax.random.key(3)}


def save(folder, *steps, keep=9):
    for step in steps:
        checkpoint.save(folder, step, state(step / 3), NOTES, keep=keep)


def read(folder):
    told = []
    return checkpoint.restore(folder, state(0.0), warn=told.append), told


def arrays(folder):
    """The files of a checkpoint that hold its bytes, largest first."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def flip(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0x40
    path.write_bytes(content)


def test_comes_back_bit_for_bit_keys_included(tmp_path):
    save(tmp_path, 5)
    found, told = read(tmp_path)
    assert (found.step, found.notes, told) == (5, NOTES, [])
    np.testing.assert_array_equal(found.state["weight"], state(5 / 3)["weight"])
    assert found.state["step"].dtype == jnp.int32
    draw = lambda state: jax.random.normal(state["key"], (4,))
    np.testing.assert_array_equal(draw(found.state), draw(state(0)))


def test_keeps_the_last_ones_and_no_litter(tmp_path):
    (tmp_path / "1.orbax-checkpoint-tmp").mkdir()  # a killed run left it
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, 10, 20, 30, keep=2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"20", "20.json", "30", "30.json", "notes.txt"}
    assert checkpoint.newest(tmp_path) == 30


def _truncate(folder):
    for path in arrays(folder / "20"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_everywhere(folder):
    for path in arrays(folder / "20"):
        flip(path)


def _swap(folder):
    shutil.rmtree(folder / "20")
    shutil.copytree(folder / "10", folder / "20")


def _edit_notes(folder):
    text = (folder / "20.json").read_text()
    (folder / "20.json").write_text(text.replace('"epoch": 1', '"epoch": 2'))


DAMAGE = {
    "truncated": _truncate,
    "flipped": _flip_everywhere,
    "of another step": _swap,
    "no arrays": lambda folder: shutil.rmtree(folder / "20"),
    "an empty folder": lambda folder: [shutil.rmtree(folder / "20"), (folder / "20").mkdir()],
    "no record": lambda folder: (folder / "20.json").write_text(""),
    "half a record": lambda folder: (folder / "20.json").write_text('{"step": 20'),
    "another record": lambda folder: (folder / "20.json").write_text("[1]"),
    "edited notes": _edit_notes,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_one_is_passed_over_aloud(tmp_path, damage):
    save(tmp_path, 10, 20)
    damage(tmp_path)
    found, told = read(tmp_path)
    assert found.step == 10 and len(told) == 1
    assert told[0].startswith("checkpoint 20 is damaged") and "\n" not in told[0]
    np.testing.assert_array_equal(found.state["weight"], state(10 / 3)["weight"])


def test_any_flipped_byte_is_noticed(tmp_path):
    save(tmp_path, 20)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for path in files:
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 4)):
            flip(path, at)
            with pytest.raises(InputError, match="no good checkpoint"):
                read(tmp_path)
        path.write_bytes(whole)
    assert read(tmp_path)[0].step == 20


def test_nothing_good_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"no good checkpoint .*0 tried"):
        read(tmp_path / "none")
    save(tmp_path, 10)
    _ = [path.unlink() for path in arrays(tmp_path / "10")]
    with pytest.raises(InputError, match=r"no good checkpoint .*1 tried"):
        read(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"weight": jnp.zeros((3, 2)), "step": jnp.asarray(0)},
        state(0.0) | {"trace": jnp.zeros(2)},
        state(0.0) | {"weight": jnp.zeros((2, 2))},
    ],
    ids=["fewer", "more", "of another shape"],
)
def test_one_of_other_arrays_is_not_called_damaged(tmp_path, other):
    save(tmp_path, 10)
    told = []
    with pytest.raises(InputError, match=r"checkpoint 10 .* saved by another version"):
        checkpoint.restore(tmp_path, other, warn=told.append)
    assert not told


def test_a_check_of_the_notes_may_refuse(tmp_path):
    save(tmp_path, 10, 20)

    def check(notes):
        raise InputError("another run")

    with pytest.raises(InputError, match="another run"):
        checkpoint.restore(tmp_path, {"other": jnp.zeros(9)}, warn=print, check=check)


def test_a_damaged_future_does_not_outlive_the_good_past(tmp_path):
    save(tmp_path, 10, 20, keep=1)
    save(tmp_path, 10)  # as after falling back from 20
    save(tmp_path, 15, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"15", "15.json"}


@pytest.mark.parametrize("how", ["orbax", "record"])
def test_a_full_disk_costs_only_the_new_one(tmp_path, monkeypatch, how):
    import orbax.checkpoint as ocp

    save(tmp_path, 10)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if how == "orbax":
        monkeypatch.setattr(ocp.StandardCheckpointer, "save", full)
    else:
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot save checkpoint 20.*checkpoint 10 is intact"):
        save(tmp_path, 20, keep=1)
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"10", "10.json"}
    assert read(tmp_path)[0].step == 10


@pytest.mark.parametrize("spare", [1 << 16, -(1 << 30)], ids=["foreseen", "met by Orbax"])
def test_a_really_full_disk_costs_only_the_new_one(full_disk, caplog, monkeypatch, spare):
    monkeypatch.setattr(checkpoint, "_SPARE", spare)
    folder = full_disk / "checkpoints"
    big = {"weight": jnp.asarray(np.random.default_rng(0).normal(size=30_000), jnp.float32)}
    checkpoint.save(folder, 1, big, NOTES, keep=9)
    with pytest.raises(InputError, match=r"the disk is full; checkpoint \d+ is intact") as caught:
        for step in range(2, 99):
            checkpoint.save(folder, step, big, NOTES, keep=99)
    assert "\n" not in str(caught.value)
    assert [record for record in caplog.records if record.name == "absl"] == []
    good = checkpoint.newest(folder)
    assert {path.name.split(".")[0] for path in folder.iterdir()} == set(
        map(str, range(1, good + 1))
    )
    assert checkpoint.restore(folder, big, warn=pytest.fail).step == good


@pytest.fixture
def full_disk(tmp_path):
    """A file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here (needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.json", json.dumps([1]))

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=r"cannot write .*Read-only"):
        write_atomically(tmp_path / "a.json", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
