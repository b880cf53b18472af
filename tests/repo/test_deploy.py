"""deploy/: its files name options, ports, paths and metrics that exist, and keep their promises; without Docker."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from command_line import folder_fixture  # noqa: F401  (fixture)
from conjoin.cli import app
from conjoin.serving.edge import PUBLIC
from conjoin.serving.metrics import METRICS
from conjoin.serving.refusal import Kind
from conjoin.serving.settings import DEFAULT_PORT
from servers import Server, start_server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "conjoin.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent)
HISTOGRAM_ENDS = ("_bucket", "_sum", "_count")


def instructions(path: Path = DEPLOY / "Dockerfile") -> list[tuple[str, str]]:
    """Instruction and arguments of every line of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(word: str) -> list[str]:
    """Arguments of every instruction of one kind."""
    return [rest for name, rest in instructions() if name == word]


def unit() -> dict[str, list[str]]:
    """Settings of the systemd unit, each with all of its values."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "conjoin.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def health_check() -> list[str]:
    """The words of the image's HEALTHCHECK."""
    (text,) = of("HEALTHCHECK")
    return json.loads(text.partition("CMD")[2])


COMMANDS: dict[str, list[str]] = {
    "image": json.loads(of("CMD")[0]),
    "compose": COMPOSE["services"]["conjoin"]["command"],
    "systemd": shlex.split(unit()["ExecStart"][0])[2:],
}
"""What each file gives to `conjoin serve`."""


def with_keys(command: list[str], keys: Path) -> list[str]:
    """A command with a file of keys that exists here."""
    return [re.sub(r"(\$\{CREDENTIALS_DIRECTORY\}|/run/secrets)/api_keys", str(keys), word) for word in command]


def expressions() -> Iterator[str]:
    """Every query of the dashboard and of the alerts."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"]["query"] for variable in DASHBOARD["templating"]["list"])
    yield from (rule["expr"] for group in ALERTS["groups"] for rule in group["rules"])


def exposed() -> dict[str, tuple[str, ...]]:
    """Names under which Prometheus sees the metrics, and their labels."""
    names: dict[str, tuple[str, ...]] = {"up": ("job",)}
    for name, metric in METRICS.items():
        match metric.kind:
            case "counter":
                names[f"{name}_total"] = metric.labels
            case "gauge":
                names[name] = metric.labels
            case "histogram":
                names |= {f"{name}{end}": (*metric.labels, "le") for end in HISTOGRAM_ENDS}
    return names


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_is_one_that_the_server_takes(command: list[str], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    told = CliRunner().invoke(app, ["serve", *with_keys(command, keys), "--print-config"])
    assert told.exit_code == 0, told.output
    assert f"port = {DEFAULT_PORT}" in told.output
    assert f'api_key_file = "{keys}"' in told.output


def test_all_files_mean_the_same_port() -> None:
    assert of("EXPOSE") == [str(DEFAULT_PORT)]
    assert f":{DEFAULT_PORT}/" in health_check()[-1]
    assert COMPOSE["services"]["conjoin"]["ports"] == [f"127.0.0.1:{DEFAULT_PORT}:{DEFAULT_PORT}"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"conjoin:{DEFAULT_PORT}"]}]


def test_running_requests_get_their_grace_before_the_process_is_killed() -> None:
    for command, patience in (
        (COMMANDS["compose"], COMPOSE["services"]["conjoin"]["stop_grace_period"].removesuffix("s")),
        (COMMANDS["systemd"], unit()["TimeoutStopSec"][0]),
    ):
        words = " ".join(command).replace("=", " ").split()
        assert int(patience) > float(words[words.index("--grace") + 1]) + 5  # uvicorn's own patience is 5 s more
    assert of("STOPSIGNAL") == unit()["KillSignal"] == ["SIGTERM"]


def test_the_image_has_neither_root_nor_keys_nor_a_compiler() -> None:
    last = [index for index, (word, _) in enumerate(instructions()) if word == "FROM"][-1]
    final = instructions()[last:]
    assert [rest for word, rest in final if word == "USER"] == ["10001"]
    assert [rest for word, rest in final if word == "COPY"] == ["--from=build /opt/conjoin /opt/conjoin"]
    assert not any("apt-get" in rest or "pip" in rest for _, rest in final)
    assert not any(re.search("key|secret|token|password", rest, re.I) for word, rest in instructions() if word != "CMD")
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = {name for rest in of("COPY")[:2] for name in rest.split()[:-1]}
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_pins_what_the_makefile_pins() -> None:
    torch, tools = (re.search(pattern, MAKEFILE) for pattern in (r"TORCH := torch==(\S+)", r"(hatchling==\S+ \S+)"))
    assert torch and tools
    assert f"TORCH={torch[1]}" in of("ARG")
    assert any(f"pip install {tools[1]}" in rest for rest in of("RUN"))
    (built,) = (rest for rest in of("RUN") if "CONJOIN_WHEEL" in rest)
    machines = re.findall(r"machine=(\w+)", built)
    assert {f"manylinux_2_28_{machine}" for machine in machines} == set(re.findall(r"manylinux_\w+", MAKEFILE))


def test_services_of_compose_keep_to_themselves() -> None:
    server = COMPOSE["services"]["conjoin"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["volumes"][0].endswith(":/models:ro")
    assert all(port.startswith("127.0.0.1:") for each in COMPOSE["services"].values() for port in each["ports"])
    secrets = {Path(each["file"]).name for each in COMPOSE["secrets"].values()}
    ignored = {line.removeprefix("/") for line in (DEPLOY / ".gitignore").read_text().splitlines()}
    assert secrets == ignored
    assert {name for each in COMPOSE["services"].values() for name in each.get("secrets", [])} == {*COMPOSE["secrets"]}


def test_files_that_compose_mounts_are_there_and_where_their_readers_look() -> None:
    mounts: dict[str, str] = {}
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            place, inside, *_ = volume.rsplit(":", 2) if volume.endswith(":ro") else volume.split(":")
            if place.startswith("./"):
                assert (DEPLOY / place).exists(), place
                mounts[inside] = place
    assert all(name in mounts for name in yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["rule_files"])
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert mounts[provider["options"]["path"]] == "./grafana/dashboards"
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasources.yaml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    used |= {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    assert used == {source["uid"]}
    assert source["url"].split("//")[1].split(":")[0] in COMPOSE["services"]


def test_queries_name_metrics_and_labels_that_the_server_has() -> None:
    names = exposed()
    for expression in expressions():
        found = re.findall(r"\b(conjoin_\w+|up)\b", expression)
        assert found, expression
        for name in found:
            assert name in names, f"{name} of: {expression}"
        labels = {label for name in found for label in names[name]}
        asked = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
        asked += [name.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(",")]
        asked += re.findall(r"label_values\(\w+, (\w+)\)", expression)
        assert set(asked) <= labels, expression
        for reason in re.findall(r"reason=\"(\w+)\"", expression):
            assert reason in {kind.label for kind in Kind}, expression


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(expressions())
    assert [name for name in METRICS if name not in shown] == []


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for key in ("id", "title"):
        assert len({panel[key] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_health_check_asks_a_path_that_needs_no_key() -> None:
    path = re.search(r"127\.0\.0\.1:\d+(/\w+)", health_check()[-1])
    assert path
    assert path[1] in PUBLIC
    assert "/metrics" in PUBLIC  # Prometheus has no key either


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_the_unit_is_one_that_systemd_takes_and_calls_safe(tmp_path: Path) -> None:
    here = tmp_path / "conjoin.service"
    here.write_text((DEPLOY / "conjoin.service").read_text().replace("/opt/conjoin/bin/conjoin", sys.executable))
    analyze = ["systemd-analyze", "--no-pager"]
    told = subprocess.run([*analyze, "verify", here], check=False, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    exposure = [*analyze, "security", "--offline=yes", "--threshold=20", here]
    told = subprocess.run(exposure, check=False, capture_output=True, text=True)
    if "unrecognized option" in told.stderr:
        pytest.skip("this systemd-analyze judges running units only")
    assert told.returncode == 0, told.stdout  # at most 2.0 of 10


def test_the_unit_gives_the_server_its_keys_and_little_else() -> None:
    settings = unit()
    assert settings["LoadCredential"] == ["api_keys:/etc/conjoin/api_keys"]
    expected = {"DynamicUser": "yes", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "CapabilityBoundingSet": ""}
    assert {name: settings[name] for name in expected} == {name: [value] for name, value in expected.items()}


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint for this platform")
def test_hadolint_has_nothing_to_say() -> None:
    assert HADOLINT is not None
    told = subprocess.run([HADOLINT, DEPLOY / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "")


def test_yamllint_has_nothing_to_say() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "."], check=False, cwd=DEPLOY, capture_output=True, text=True
    )
    assert (told.returncode, told.stdout) == (0, ""), told.stderr


def test_the_page_is_short_and_names_every_file() -> None:
    page = (DEPLOY / "README.md").read_text()
    assert len(page.splitlines()) <= 20
    files = ("Dockerfile", "compose.yaml", "prometheus.yaml", "alerts.yaml", "grafana/", "conjoin.service")
    assert [name for name in files if name not in page] == []


@pytest.mark.slow
def test_the_images_command_serves_is_healthy_and_stops(folder: Path, tmp_path: Path) -> None:
    """But for Docker: its words, with a folder, a port, keys of this machine, and a log that the test can read."""
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    others = ("--host", "0.0.0.0", "--log", "json")
    flags = [word for word in with_keys(COMMANDS["image"], keys)[1:] if word not in others]
    server = start_server(f"{folder}=model", *flags)
    try:
        assert health_result(server) == 0
        wrong = {name for name in re.findall(r"# TYPE (conjoin_\w+)", server.get("/metrics"))} - {*METRICS, *exposed()}
        assert {name for name in wrong if not name.endswith("_created")} == set()
        request = urllib.request.Request(f"{server.url}/v1/models", headers={"authorization": "Bearer a-key"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.load(response)["data"][0]["id"] == "model"
        assert server.stop() == 0
        time.sleep(0.1)
        assert health_result(server) != 0
    finally:
        server.kill()


def health_result(server: Server) -> int:
    """The exit code of the image's HEALTHCHECK, on this server's port."""
    program, *words = health_check()
    assert program == "python"
    port = server.url.rpartition(":")[2]
    words = [word.replace(f":{DEFAULT_PORT}/", f":{port}/") for word in words]
    return subprocess.run([sys.executable, *words], check=False, capture_output=True).returncode
