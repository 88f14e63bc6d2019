"""A run on a cluster of this machine alone, in a process of its own: Ray's threads outlive whoever starts them."""

import os
import subprocess
import sys

import pytest
from small_runs import read_log
from test_distributed import finish, make_config, start

from steadydepth.config_files import dump_config
from steadydepth.training.ray import train_on_ray
from steadydepth.types import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a worker is found by what Linux says of processes")

# Trains the config that it is given, and kills the worker that comes second as soon as there is a first checkpoint.
ON_RAY = """
import os, signal, sys, threading, time
from pathlib import Path

import ray
from ray.train import ScalingConfig
from steadydepth.config_files import load_config
from steadydepth.training.ray import train_on_ray

def workers():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes() if path.is_file() else b""
        environ = (path.parent / "environ").read_bytes() if b"RayTrainWorker" in words else b""
        if f"MARK={os.environ['MARK']}\\0".encode() in environ:
            yield int(path.parent.name)

def kill_one():
    while not (config.run.folder / "checkpoint.pt").is_file():
        time.sleep(0.01)
    os.kill(max(workers()), signal.SIGKILL)

config = load_config(Path(sys.argv[1]))
# The name of 127.0.0.1 would be taken for that of the machine.
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.2", object_store_memory=80_000_000)
threading.Thread(target=kill_one, daemon=True).start()
print(train_on_ray(config, ScalingConfig(num_workers=2), max_failures=1))
print("killed", (config.run.folder / "checkpoint.pt").is_file())
"""


def test_a_run_whose_worker_was_killed_is_that_of_torchrun_bit_for_bit(world, tmp_path):
    pytest.importorskip("ray.train")
    plain = make_config(world, tmp_path / "plain", steps=40)
    finish(start(plain, tmp_path / "log"), tmp_path / "log")
    config = make_config(world, tmp_path / "run", steps=40)
    (tmp_path / "run.yaml").write_text(dump_config(config), encoding="utf-8")
    (tmp_path / "on_ray.py").write_text(ON_RAY, encoding="utf-8")
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "GLOO_SOCKET_IFNAME": "lo", "MARK": tmp_path.name}
    words = [sys.executable, str(tmp_path / "on_ray.py"), str(tmp_path / "run.yaml")]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 process(es) on cpu" in ended.stdout + ended.stderr
    assert "resuming after step" in ended.stdout + ended.stderr
    assert read_log(tmp_path / "run") == read_log(tmp_path / "plain")
    one, other = (tmp_path / name / "model.safetensors" for name in ("run", "plain"))
    assert one.read_bytes() == other.read_bytes()


def test_without_ray_it_says_what_to_install(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(InputError, match=r"pip install 'steadydepth\[ray\]'"):
        train_on_ray(make_config(world, tmp_path / "run", steps=2), None)
