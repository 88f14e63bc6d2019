import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from steadydepth.cli import app
from steadydepth.config import Config
from steadydepth.config_files import (
    describe_config,
    dump_config,
    load_compare_config,
    load_config,
    load_filter_config,
    load_search_config,
    presets,
    resolve_config,
)
from steadydepth.errors import InputError

FILES = sorted(Path(__file__).parent.parent.joinpath("configs").glob("*.yaml"))
# Comparisons, searches and the learned filter have keys of their own.
SERIES = [path for path in FILES if "\nbase: " in path.read_text(encoding="utf-8")]
CONFIGS = [path for path in FILES if path not in SERIES and path.stem != "temporal_filter"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_without_mistakes_and_survives_writing(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("name", ["1e3", "2024", "on", "null", "3.0", "a #1", "0x10", "2024-01-02", "-1E+2"])
def test_a_folder_whose_name_looks_like_another_thing_survives_writing(tmp_path, name):
    config = resolve_config({"data": {"root": f"./{name}"}, "optim": {"steps": 1}, "run": {"folder": name}}, "test")
    (tmp_path / "again.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config


def test_the_shipped_config_of_the_filter_is_without_mistakes():
    path = next(path for path in FILES if path.stem == "temporal_filter")
    assert load_filter_config(path, ["minutes=5", "device=cuda"]).minutes == 5


def write(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_all_mistakes_are_listed_at_once_with_path_and_value(tmp_path):
    path = write(
        tmp_path,
        {
            "data": {"root": "x", "clip_length": 1},
            "loss": {"weigth": 2},
            "optim": {"steps": "many"},
            "run": {"folder": "y"},
        },
    )
    with pytest.raises(InputError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "c.yaml: 3 mistakes" in message
    assert "data.clip_length: 1: " in message
    assert "loss.weigth: unknown; loss has absolute, " in message
    assert "optim.steps: 'many': " in message


def test_overrides_win_and_are_read_as_yaml(tmp_path):
    path = write(tmp_path, {"data": {"root": "x"}, "optim": {"steps": 5}, "run": {"folder": "y"}})
    config = load_config(path, ["optim.learning_rate=3e-4", "data.flip=false", "model.encoder=resnet18"])
    assert config.optim.learning_rate == 3e-4
    assert config.data.flip is False
    assert config.model.encoder == "resnet18"


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "data: {root: x}\noptim: {steps: 5, learning_rate: 3e-4, weight_decay: 1E-2}\nrun: {folder: y}\n",
        encoding="utf-8",
    )
    config = load_config(path)
    assert (config.optim.learning_rate, config.optim.weight_decay) == (3e-4, 1e-2)


@pytest.mark.parametrize("override", ["optim.learning_rate", "rate=3", "=3", "optim.=3"])
def test_a_malformed_override_is_refused_with_the_form(tmp_path, override):
    path = write(tmp_path, {"data": {"root": "x"}, "optim": {"steps": 5}, "run": {"folder": "y"}})
    with pytest.raises(InputError, match=r"section\.key=value"):
        load_config(path, [override])


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such config file"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("data: [1, 2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken\.yaml: not YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"list\.yaml: a config is a mapping"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"3 mistakes:\n  data: missing"):
        load_config(tmp_path / "empty.yaml")


def test_the_page_of_keys_is_up_to_date_and_complete():
    page = Path(__file__).parent.parent.joinpath("docs", "config.md").read_text(encoding="utf-8")
    assert page == describe_config() == CliRunner().invoke(app, ["train", "--keys"]).output
    for name, section in Config.model_fields.items():
        assert f"## {name}" in page
        for key, field in section.annotation.model_fields.items():
            assert f"| `{key}` |" in page
            assert field.description, f"{name}.{key} says nothing"


def test_a_loss_that_needs_a_label_is_refused_without_one():
    content = {
        "data": {"root": "videos", "labels": "teacher"},
        "model": {"init": "runs/plain"},
        "loss": {"relative": "disparity"},
        "optim": {"steps": 1},
        "run": {"folder": "runs/x"},
    }
    with pytest.raises(InputError, match=r"1 mistake:\n  loss\.relative: the disparity forms .* data\.labels=teacher"):
        resolve_config(content, "x.yaml")
    content["loss"] = {"relative": "warping"}
    resolve_config(content, "x.yaml")


PLAIN = {"data": {"root": "x"}, "optim": {"steps": 2}, "run": {"folder": "y"}}


@pytest.mark.parametrize("name", ["2024", "1e3", "on", "a #1", "a: b", "007", "[x]", "2024-01-02", "'quoted'", "a=b"])
def test_a_path_on_the_command_line_is_the_text_that_it_is(tmp_path, name):
    config = load_config(write(tmp_path, PLAIN), [f"data.root={name}", f"model.init={name}", "optim.steps=3"])
    assert config.data.root == Path(name.strip("'"))
    assert config.model.init == name.strip("'")
    assert config.optim.steps == 3


def test_null_on_the_command_line_unsets(tmp_path):
    sources = write(tmp_path, PLAIN | {"data": {"root": "x", "sources": [{"root": "z"}]}})
    assert load_config(sources, ["data.root=null"]).data.root is None


def test_paths_are_written_with_slashes_on_every_system(tmp_path):
    config = load_config(
        write(tmp_path, PLAIN), [f"data.root={Path('runs') / 'data'}", f"run.folder={Path('a') / 'b'}"]
    )
    assert "root: runs/data\n" in dump_config(config)
    assert config.model_dump(mode="json")["run"]["folder"] == "a/b"


@pytest.mark.parametrize(("separator", "written"), [("\\", "runs/plain"), ("/", "runs\\plain")])
def test_a_model_s_path_is_written_with_slashes_where_backslashes_separate(tmp_path, monkeypatch, separator, written):
    monkeypatch.setattr("steadydepth.config.run.sep", separator)
    config = load_config(write(tmp_path, PLAIN), ["model.init=runs\\plain", "model.weights=runs\\plain"])
    assert f"init: {written}\n" in dump_config(config)
    assert f"weights: {written}\n" in dump_config(config)


def test_a_tilde_is_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("USERPROFILE" if sys.platform == "win32" else "HOME", str(tmp_path))
    path = write(tmp_path, PLAIN | {"run": {"folder": "~/runs/a"}})
    config = load_config(path, ["data.root=~/videos"])
    assert (config.run.folder, config.data.root) == (tmp_path / "runs/a", tmp_path / "videos")
    with pytest.raises(InputError, match=r"data\.root: .*write the complete path"):
        load_config(path, ["data.root=~nobody_of_that_name/x"])
    more = write(tmp_path, {"out": "a.safetensors", "more_data": ["~/more", "less"]})
    assert load_filter_config(more).more_data == [tmp_path / "more", Path("less")]


def test_the_mark_of_windows_editors_is_no_part_of_a_config_and_utf16_is_refused(tmp_path):
    path = write(tmp_path, PLAIN)
    text = path.read_text(encoding="utf-8")
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_config(path) == resolve_config(PLAIN, "test")
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match=r"c\.yaml: is no UTF-8 text .*save it as UTF-8"):
        load_config(path)


def test_a_config_of_the_package_is_found_by_its_name_and_a_file_comes_first(tmp_path, monkeypatch):
    folder = Path(__file__).parent.parent / "configs"
    assert presets() == {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    monkeypatch.chdir(tmp_path)
    named, written = load_config("demo", ["optim.steps=3"]), load_config(folder / "demo.yaml", ["optim.steps=3"])
    assert named == written
    (tmp_path / "demo").write_text((folder / "stabilise.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert load_config("demo").data.labels == "teacher"
    with pytest.raises(InputError, match=r"demmo: no such config file; demo is one that comes with .* stabilise"):
        load_config("demmo")


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.name)
def test_a_series_of_the_package_finds_its_base_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load = load_search_config if "ranges" in yaml.safe_load(path.read_text(encoding="utf-8")) else load_compare_config
    assert load_config(load(path.stem).base) == load_config("demo")


def test_a_path_that_is_empty_is_no_path(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {root: here}\nrun: {folder: there}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"data.root=: no path; is a variable of the shell not set\?"):
        load_config(tmp_path / "run.yaml", ["data.root="])


def test_adapters_and_chosen_parts_are_not_trained_together(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "data: {root: here}\nmodel: {lora: 4, train: [decoder]}\noptim: {steps: 2}\nrun: {folder: there}\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"model\.lora: trains adapters and the decoder, .*leave one of them out"):
        load_config(tmp_path / "run.yaml")


def test_a_mapping_where_a_list_belongs_is_named_with_a_list(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "base: demo\ntest: clips\nout: o\nmethods: {plain: {loss.relative_weight: 0}, steady: []}\n", encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"methods\.plain: \{'loss.relative_weight': 0\}: .* a list, such as \[a, b\]"):
        load_compare_config(path)
