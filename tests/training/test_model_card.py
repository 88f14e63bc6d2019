"""The model card says what is true of a run, and what goes to the hub is the model and not the state of training."""

import json
import re

import pytest
import yaml
from huggingface_hub import HfApi

from steadydepth.config_files import load_config
from steadydepth.errors import InputError
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.models.load import load_model
from steadydepth.training.log import LOG
from steadydepth.training.loop import train
from steadydepth.training.model_card import push, write_card

CONFIG = """
data: {root: %s, height: 32, width: 48}
model: {encoder: test_efficientnet, weights: none, decoder_width: 8}
loss: {relative_weight: 0.7}
optim: {steps: 1, batch: 1}
run: {folder: %s, device: cpu}
"""


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "mine"
    path = folder.with_suffix(".yaml")
    path.write_text(CONFIG % (world, folder), encoding="utf-8")
    return train(load_config(path))


def test_the_card_of_a_run_says_its_data_claims_and_command(run, world):
    _, head, body = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "steadydepth"
    assert "license" not in yaml.safe_load(head)
    assert "It claims `metric`: metres" in body
    assert "weight 0.7" in body
    assert f"- `{world}`, its depth: steadydepth synthetic world (licence: CC0-1.0)" in body
    assert "Accuracy and temporal consistency" not in body


def test_the_card_has_the_scores_of_this_model_and_of_no_other(run, world):
    report = evaluate(load_model(str(run)), world, out=run, controls=False, model_name=str(run))
    body = write_card(run, licence="mit").read_text(encoding="utf-8")
    found = re.search(r"\| abs_rel \|.*\| lower \| ([\d.]+) \|", body)
    assert found is not None
    assert float(found[1]) == pytest.approx(report["mean"]["abs_rel"], rel=1e-2)
    assert "license: mit" in body
    assert "Accuracy and temporal consistency" in body
    assert "| edge_gain |" in body
    other = report | {"header": report["header"] | {"model": "runs/other"}}
    (run / "metrics.json").write_text(json.dumps(other), encoding="utf-8")
    assert "| abs_rel |" not in write_card(run).read_text(encoding="utf-8")
    filtered = report | {"header": report["header"] | {"filter": "ema"}}
    (run / "metrics.json").write_text(json.dumps(filtered), encoding="utf-8")
    assert "| abs_rel |" not in write_card(run).read_text(encoding="utf-8")
    nothing = report | {"mean": dict.fromkeys(report["mean"])}  # of single frames without a label
    (run / "metrics.json").write_text(json.dumps(nothing), encoding="utf-8")
    assert "Accuracy and temporal consistency" not in write_card(run).read_text(encoding="utf-8")
    (run / "metrics.json").unlink()


def test_a_finished_run_that_is_started_again_keeps_its_card_and_a_new_card_its_licence(run):
    card = write_card(run, licence="mit")
    card.write_text(f"{card.read_text(encoding='utf-8')}\nOf my own.\n", encoding="utf-8")
    before = card.read_text(encoding="utf-8")
    train(load_config(run / "config.yaml"))
    assert card.read_text(encoding="utf-8") == before
    anew = write_card(run).read_text(encoding="utf-8")
    assert "license: mit" in anew
    assert "Licence of these weights: mit." in anew
    card.unlink()
    train(load_config(run / "config.yaml"))
    assert "license" not in yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_the_hub_gets_the_model_and_its_card_but_not_the_state(run, monkeypatch):
    calls = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **more: calls.update(more) or f"https://hub/{name}")
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **more: calls.update(more))
    for shown in (
        "videos/holiday/rgb/0000.png",
        "before/metrics.json",
        "report.html",
        "flicker.webp",
        "notes.txt",
        "secret.json",
    ):
        (run / shown).parent.mkdir(parents=True, exist_ok=True)
        (run / shown).write_bytes(b"mine")
    (run / LOG).touch()
    assert push(run, "me/mine", private=True) == "https://hub/me/mine"
    assert (calls["repo_id"], calls["folder_path"], calls["private"]) == ("me/mine", run, True)
    assert calls["allow_patterns"] == ["README.md", "config.json", "config.yaml", "metrics.jsonl", "model.safetensors"]
    assert (run / "checkpoint.pt").is_file()
    # Of a model of transformers, its weights in parts.
    its_own = {
        "steadydepth.json", "preprocessor_config.json", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    for name in its_own:
        (run / name).write_text('{"claims": "metric"}', encoding="utf-8")
    push(run, "me/mine")
    assert its_own < set(calls["allow_patterns"])
    for name in its_own:
        (run / name).unlink()


def test_a_hub_that_cannot_be_reached_is_named_with_the_way_out(run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("HF_TOKEN", "none")
    with pytest.raises(InputError, match=r"me/mine: the hub does not take it: .*hf auth login"):
        push(run, "me/mine")


def test_what_is_no_finished_run_has_no_card(tmp_path):
    with pytest.raises(InputError, match="finished run"):
        write_card(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "dpt"}', encoding="utf-8")  # a folder of transformers
    with pytest.raises(InputError, match="does not say what the model claims; give the folder of a finished run"):
        write_card(tmp_path)
