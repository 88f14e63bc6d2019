"""CI does what `make test` does, on the versions that the package promises; hooks and forms are files that load."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, BUILD, HATCH = DECLARED["project"], DECLARED["build-system"]["requires"], DECLARED["tool"]["hatch"]
JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))["jobs"]


def commands(job: str) -> str:
    return "\n".join(step.get("run", "") for step in JOBS[job]["steps"])


def test_ci_runs_every_check_of_make_test():
    recipe = re.search(r"^test: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert len(checks) >= 4
    everything = "\n".join(map(commands, JOBS)).splitlines()
    assert [check for check in checks if check not in everything] == []


def test_ci_installs_what_make_test_does():
    extras = re.search(
        r"\.dev: .*\n\t\$\(BIN\)/pip install --quiet --editable '\.(\[.*\])'",
        (ROOT / "Makefile").read_text(encoding="utf-8"),
    )
    assert extras is not None
    for job in ("style", "tests"):
        assert set(re.findall(r"-e '\.(\[.*?\])'", commands(job))) == {extras[1]}


def test_ci_tries_the_versions_and_systems_that_the_package_promises():
    matrix, promised = JOBS["tests"]["strategy"]["matrix"], PROJECT["classifiers"]
    versions = [one.rpartition(" ")[2] for one in promised if re.search(r":: 3\.\d+$", one)]
    assert matrix["python"] == versions
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert {"oldest", *matrix["packages"]} == {one["packages"] for one in matrix["include"]} | {"newest"}
    assert len(matrix["os"]) == len([one for one in promised if one.startswith("Operating System")])
    oldest_torch = next(one for one in PROJECT["dependencies"] if one.startswith("torch>="))
    assert f"'torch=={oldest_torch.removeprefix('torch>=')}.*'" in commands("tests")


def test_every_place_says_the_same_version():
    version = PROJECT["version"]
    recipe = yaml.safe_load((ROOT / "integrations" / "conda-forge" / "recipe.yaml").read_text(encoding="utf-8"))
    ros = ROOT / "integrations" / "ros2"
    said = {
        "conda-forge": recipe["context"]["version"],
        "citation": yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"],
        "package.xml": re.findall(r"<version>(.*)</version>", (ros / "package.xml").read_text(encoding="utf-8"))[0],
        "setup.py": re.findall(r'version="(.*?)"', (ros / "setup.py").read_text(encoding="utf-8"))[0],
    }
    assert said == dict.fromkeys(said, version)


def test_the_recipe_of_conda_asks_for_what_the_package_does():
    recipe = yaml.safe_load((ROOT / "integrations" / "conda-forge" / "recipe.yaml").read_text(encoding="utf-8"))
    named = {"py-opencv": "opencv-python-headless", "pytorch": "torch"}
    asked = dict(one.split(" ", 1) for one in recipe["requirements"]["run"])
    expected = dict(re.fullmatch(r"([\w-]+)(>=.*)", one).groups() for one in PROJECT["dependencies"])
    assert asked.pop("python") == PROJECT["requires-python"]
    assert {named.get(name, name): rule for name, rule in asked.items()} == expected
    assert f"hatchling {BUILD[0].removeprefix('hatchling')}" in recipe["requirements"]["host"]
    assert recipe["build"]["python"]["entry_points"] == [f"{name} = {at}" for name, at in PROJECT["scripts"].items()]
    assert (recipe["about"]["summary"], recipe["about"]["license"]) == (PROJECT["description"], PROJECT["license"])


def test_the_image_is_built_from_all_that_the_wheel_is_made_of():
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    wheel = HATCH["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], *wheel["force-include"], "src"}
    assert set(" ".join(copied).split()) == needed
    assert {f"!{path}" for path in needed} <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())


def test_hooks_and_forms_load():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert {"ruff-format", "ruff-check", "mypy"} <= {hook["id"] for hook in hooks}
    for form in ("bug.yml", "wish.yml"):
        body = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / form).read_text(encoding="utf-8"))["body"]
        assert all(field["attributes"]["label"] for field in body)
