"""Real processes, forked from one that has imported everything and done nothing: autograd does not survive a fork."""

import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import after_calling, read_log, resolve

from steadydepth.config_files import dump_config
from steadydepth.models.load import load_model
from steadydepth.training import loop
from steadydepth.training.loop import train
from steadydepth.types import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its processes come from a fork server")


def make_config(world, folder, steps=4, **sections):
    # Every pixel has a label and batch norm keeps its statistics: the mean over processes is then that over clips.
    content = {
        "data": {"root": str(world), "motion": "none", "height": 32, "width": 40, "exposure": 0.1},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 8},
        "optim": {"steps": steps, "batch": 4, "freeze_batch_norm_after": 0.0, "learning_rate": 3e-4},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 2},
    }
    return resolve(content, sections)


def _train_as(rank, world_size, port, config, log, number=None, step=0):
    sys.stderr = log.open("a", buffering=1, encoding="utf-8")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
        # Accelerate warns where nothing is said of threads, and takes one.
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip
    torch.set_num_threads(1)  # this process has read how many before that was said
    AcceleratorState._reset_state(reset_partial_state=True)

    def be_hit(taken):
        if number is not None and taken == step:
            os.kill(os.getpid(), number)

    loop.take_step = after_calling(be_hit)
    train(config)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(config, log, hit=()):
    """Two processes; `hit` is one of them, the signal that it gets, and after which step."""
    port = free_port()
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["steadydepth.training.loop", "accelerate"])
    processes = [
        server.Process(target=_train_as, args=(rank, 2, port, config, log, *(hit[1:] if rank in hit[:1] else ())))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes, log):
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes), log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def uncut(world, tmp_path_factory):
    """A run of two processes that nothing has cut."""
    folder = tmp_path_factory.mktemp("uncut")
    finish(start(make_config(world, folder / "run", steps=6), folder / "log"), folder / "log")
    return folder / "run", (folder / "log").read_text(encoding="utf-8")


def close(one):
    return [pytest.approx(line, rel=2e-3) for line in read_log(one)]


def test_two_processes_learn_what_one_does_from_the_same_clips(world, tmp_path, uncut):
    alone = train(make_config(world, tmp_path / "alone", steps=6))
    folder, log = uncut
    assert read_log(folder) == close(alone)
    assert log.splitlines()[0] == f"{folder}: 2 process(es) on cpu, precision no"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in alone.iterdir())


def test_a_step_in_parts_is_the_step_in_one(world, tmp_path, uncut):
    parts = train(make_config(world, tmp_path / "parts", steps=6, optim={"accumulate": 2}))
    assert read_log(parts) == close(uncut[0])


def lose(config, log, victim, step):
    """Kill a process after a step; the other is not left waiting, and says what to do."""
    processes = start(config, log, hit=(victim, signal.SIGKILL, step))
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL if rank == victim else 1 for rank in (0, 1)]
    assert "another process of this run was lost" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(("victim", "step"), [(0, 3), (1, 4)])
def test_a_run_whose_process_was_killed_goes_on_as_if_it_had_not_been(world, tmp_path, uncut, victim, step):
    config, log = make_config(world, tmp_path / "run", steps=6), tmp_path / "log"
    lose(config, log, victim, step)
    finish(start(config, log), log)
    assert "resuming after step" in log.read_text(encoding="utf-8")
    assert read_log(tmp_path / "run") == read_log(uncut[0])
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (uncut[0] / "model.safetensors").read_bytes()


def test_another_number_of_processes_goes_on_with_the_same_clips(world, tmp_path, uncut):
    config, log = make_config(world, tmp_path / "run", steps=6), tmp_path / "log"
    # Asked in one process, both stop after the same step.
    finish(start(config, log, hit=(1, signal.SIGTERM, 2)), log)
    assert "stopped after step 3 as asked" in log.read_text(encoding="utf-8")
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert not (tmp_path / "run" / "model.safetensors").exists()
    train(config)
    assert read_log(tmp_path / "run") == close(uncut[0])


def test_sharded_weights_learn_the_same_and_one_process_goes_on_with_their_checkpoint(world, tmp_path, uncut):
    config, log = make_config(world, tmp_path / "run", steps=6, run={"shard": True}), tmp_path / "log"
    finish(start(config, log, hit=(0, signal.SIGTERM, 2)), log)
    with pytest.raises(InputError, match=r"run\.shard: there is one process"):
        train(config)
    train(make_config(world, tmp_path / "run", steps=6))
    assert read_log(tmp_path / "run") == close(uncut[0])


def test_sharded_weights_are_saved_complete(world, tmp_path, uncut):
    config, log = make_config(world, tmp_path / "run", steps=6, run={"shard": True}), tmp_path / "log"
    finish(start(config, log), log)
    one, other = (load_model(folder).state_dict() for folder in (tmp_path / "run", uncut[0]))
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=1e-2, atol=1e-3)


def test_torchrun_asked_to_stop_leaves_a_checkpoint_of_all_processes(world, tmp_path):
    config, log = make_config(world, tmp_path / "run", steps=500), tmp_path / "log"
    (tmp_path / "run.yaml").write_text(dump_config(config), encoding="utf-8")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    words += [f"--master-port={free_port()}", "-m", "steadydepth", "train", "-c", str(tmp_path / "run.yaml")]
    with log.open("w", encoding="utf-8") as file:
        launcher = subprocess.Popen(words, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
    path = tmp_path / "run" / "metrics.jsonl"
    try:
        while not path.is_file() and launcher.poll() is None:
            time.sleep(0.05)
        launcher.terminate()
        launcher.wait(120)
    finally:
        launcher.kill()
        launcher.wait()
    stopped_after = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert f"stopped after step {stopped_after} as asked; the same command resumes from there" in log.read_text(
        encoding="utf-8"
    )
    assert len(read_log(tmp_path / "run")) == stopped_after < 500
    assert "2 process(es) on cpu" in log.read_text(encoding="utf-8")
    assert not (tmp_path / "run" / "model.safetensors").exists()
