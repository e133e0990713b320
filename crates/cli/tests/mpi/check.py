"""Trainings by two ranks of MPI beside that of one: losses, states, what is written, errors, stops and kills. Usage: check.py FARTHING"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

DATA = """
name = "data"
seed = 1
held_out = 0.05
[[sources]]
name = "sums"
generate = "sums"
documents = 2000
[tokenizer]
vocabulary_size = 500
[shards]
shard_tokens = 8192
"""

TRAIN = """
name = "m"
data = "data"
seed = 2
[model]
active = "400K"
context = 128
predict = true
[train]
tokens = 65536
batch = 4096
micro_batch = 1024
precision = "f32"
rate = {rate}
save_minutes = {minutes}
[evaluate]
every = 16384
tokens = 4096
"""

# Any launcher starts ranks; Open MPI asks for more where its user is root, or cores are fewer than ranks.
ENVIRONMENT = dict(
    os.environ,
    OMPI_ALLOW_RUN_AS_ROOT="1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    OMPI_MCA_rmaps_base_oversubscribe="1",
    OMPI_MCA_hwloc_base_binding_policy="none",
    # Seconds between SIGTERM and SIGKILL, which Open MPI waits for whenever it ends ranks.
    OMPI_MCA_odls_base_sigkill_timeout="5",
)
SECONDS = 300


def log(folder):
    """Lines of a training's log by step, and those of held-out text."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1)), "every step once, by rank 0 alone"
    return steps, [line for line in lines if "held_out_loss" in line]


def off(a, b):
    return abs(a - b) / max(abs(a), abs(b))


def alive(pid):
    """Whether a process runs, and not only waits for somebody to ask how it ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Runs:
    def __init__(self, farthing, folder):
        self.farthing, self.folder = os.path.realpath(farthing), folder

    def command(self, ranks, recipe="train.toml", out="out", *more):
        return [self.farthing, "train", recipe, "--out", out, "--threads", "1", *more], ["mpirun", "-n", str(ranks)]

    def run(self, command):
        return subprocess.run(command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS)

    def ranks(self, ranks, *arguments):
        train, mpirun = self.command(ranks, *arguments)
        return self.run(mpirun + train)

    def start(self, out):
        """A training by two ranks that has taken some steps; the launcher, and the processes of its ranks."""
        train, mpirun = self.command(2, "often.toml", out)
        launcher = subprocess.Popen(mpirun + train, cwd=self.folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        path, until = self.folder / out / "log.jsonl", time.monotonic() + SECONDS
        while not path.exists() or path.read_text().count('"loss"') < 3:
            assert launcher.poll() is None and time.monotonic() < until, launcher.stderr.read()
            time.sleep(0.02)
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(children) == 2, children
        return launcher, [int(child) for child in children]


def same_losses(runs):
    train, _ = runs.command(1, "train.toml", "one")
    alone = runs.run(train)
    assert alone.returncode == 0, alone.stderr
    both = runs.ranks(2, "train.toml", "two")
    assert both.returncode == 0, both.stderr
    assert both.stderr.count("to talk to it") == 1, "rank 0 alone speaks: " + both.stderr
    (one, held_out), (two, held_out_two) = (log(runs.folder / out) for out in ("one", "two"))
    assert len(one) == len(two) >= 16 and len(held_out) == len(held_out_two) >= 3
    # A token that chooses another expert for the last bit of its sums moves a norm or a balance more than a mean over tokens.
    most = {"loss": 1e-4, "bits_per_byte": 1e-4, "prediction": 1e-4, "held_out_loss": 1e-4, "norm": 1e-2, "balance": 1e-2}
    keys = [key for key in most if key in one[0]]
    worst = {key: max(off(a[key], b[key]) for a, b in zip(one, two)) for key in keys}
    worst["held_out_loss"] = max(off(a["held_out_loss"], b["held_out_loss"]) for a, b in zip(held_out, held_out_two))
    assert all(worst[key] < most[key] for key in most), worst
    assert off(one[0]["loss"], two[0]["loss"]) < 1e-6 and off(one[0]["norm"], two[0]["norm"]) < 1e-5, (one[0], two[0])
    assert all((a["tokens"], a["rate"]) == (b["tokens"], b["rate"]) for a, b in zip(one, two))
    print("losses of 1 rank: ", " ".join(f"{line['loss']:.6f}" for line in one))
    print("losses of 2 ranks:", " ".join(f"{line['loss']:.6f}" for line in two))
    print("held out:", [line["held_out_loss"] for line in held_out], [line["held_out_loss"] for line in held_out_two])
    print("largest differences, as shares:", {key: f"{value:.1e}" for key, value in worst.items()})
    seconds = [sum(line["seconds"] for line in lines) for lines in (one, two)]
    print(f"{seconds[0]:.2f} s of steps by one rank, {seconds[1]:.2f} s by two")
    assert sorted(os.listdir(runs.folder / "two/states")) == sorted(os.listdir(runs.folder / "one/states"))
    assert (runs.folder / "two/model/model.safetensors").exists()
    return two


def plan(runs):
    found = runs.ranks(2, "train.toml", "planned", "--plan", "--json")
    plan = json.loads(found.stdout)
    of = plan["ranks"]
    assert (of["ranks"], of["machines"]) == (2, 1) and of["exchange_seconds"] > 0, plan
    # Every active or idle parameter has a gradient; the module of multi-token prediction is beside them.
    assert of["exchange_bytes"] > 4 * plan["parameters"], plan
    said = runs.ranks(2, "train.toml", "planned", "--plan").stdout
    assert said.count("2 ranks on 1 machine; each step they exchange ") == 1, said
    assert not (runs.folder / "planned").exists()


def errors(runs):
    text = (runs.folder / "train.toml").read_text()
    (runs.folder / "other.toml").write_text(text.replace("seed = 2", "seed = 3"))
    (runs.folder / "nowhere.toml").write_text(text.replace('data = "data"', 'data = "nowhere"'))
    for other, said in [
        ("other.toml", "rank 1: this rank is at another place: training "),
        ("nowhere.toml", "nowhere: no dataset with shards is there"),
        ("missing.toml", "missing.toml: "),
    ]:
        train, mpirun = runs.command(1, "train.toml", "refused")
        second, _ = runs.command(1, other, "refused")
        found = runs.run(mpirun + train + [":", "-n", "1"] + second)
        assert found.returncode == 1 and found.stderr.count(said) == 1, (other, found)
        assert found.stderr.count("farthing: rank 1: ") == 1, (other, found)
    found = runs.ranks(5, "train.toml", "refused")
    assert found.returncode == 1 and found.stderr.count("has 4 micro-batches of 1024, fewer than 5 ranks") == 1, found


def ends(runs, whole):
    """A signal to one rank, one that the launcher hands on to all, ctrl-c at the launcher and a kill: the training goes on with the same losses to the bit."""
    def to_rank(launcher, ranks):
        os.kill(ranks[1], signal.SIGINT)

    def to_launcher(launcher, ranks):
        launcher.send_signal(signal.SIGINT)

    def forwarded(launcher, ranks):
        launcher.send_signal(signal.SIGUSR1)

    def kill(launcher, ranks):
        os.kill(ranks[1], signal.SIGKILL)

    for name, end, stopped in [("rank", to_rank, True), ("forwarded", forwarded, True), ("launcher", to_launcher, True), ("killed", kill, False)]:
        launcher, processes = runs.start(name)
        end(launcher, processes)
        stderr = launcher.communicate(timeout=SECONDS)[1]
        assert launcher.returncode != 0, (name, stderr)
        assert not any(alive(pid) for pid in processes), (name, stderr)
        assert stderr.count("farthing: stopped; the same command goes on from here") == (1 if stopped else 0), (name, stderr)
        before = len(log(runs.folder / name)[0])
        assert 3 <= before < len(whole), (name, before)
        rest = runs.ranks(2, "often.toml", name)
        assert rest.returncode == 0, (name, rest.stderr)
        steps = log(runs.folder / name)[0]
        assert [step["loss"] for step in steps] == [step["loss"] for step in whole], name
        print(f"{name}: ended with {launcher.returncode} at step {before}, went on with the same losses")


def main():
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(sys.argv[1], pathlib.Path(folder))
        (runs.folder / "data.toml").write_text(DATA)
        (runs.folder / "train.toml").write_text(TRAIN.format(rate=0.003, minutes=1000))
        (runs.folder / "often.toml").write_text(TRAIN.format(rate=0.003, minutes=0.001))
        made = runs.run([runs.farthing, "data", "data.toml", "--out", "data"])
        assert made.returncode == 0, made.stderr
        whole = same_losses(runs)
        plan(runs)
        errors(runs)
        ends(runs, whole)
    print("ok: two ranks of MPI")


main()
