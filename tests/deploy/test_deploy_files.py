"""What lies in deploy/ for systemd, containers and Kubernetes fits the gateway."""

import re
import shlex
from pathlib import Path

import yaml

from penstock.cli import COMMANDS
from penstock.config.load import parse
from penstock.config.model import Config

DEPLOY = Path(__file__).parents[2] / "deploy"
SECRETS = {"CONTROL_KEY": "c", "OPENAI_API_KEY": "k", "REDIS_URL": "redis://redis:6379/0"}


def kubernetes():
    return {
        each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes/penstock.yaml").read_text())
    }


def test_the_configuration_in_kubernetes_is_one():
    config = parse(kubernetes()["ConfigMap"]["data"]["penstock.yaml"], "penstock.yaml", SECRETS)
    assert config.control_key is not None
    assert config.keys
    (container,) = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config.listen == f"0.0.0.0:{ports['http']}"
    assert config.control == f"0.0.0.0:{ports['control']}"


def test_a_pod_is_given_time_to_drain():
    inside = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    config = parse(kubernetes()["ConfigMap"]["data"]["penstock.yaml"], "penstock.yaml", SECRETS)
    assert config.drain_delay >= 5
    assert inside["terminationGracePeriodSeconds"] >= config.drain_delay + config.drain_timeout + 5


def test_the_unit_runs_commands_that_there_are_and_is_patient():
    unit = (DEPLOY / "systemd/penstock.service").read_text()
    for line in re.findall(r"^ExecStart(?:Pre)?=(.*)$", unit, re.MULTILINE):
        program, command, file = shlex.split(line)
        assert (Path(program).name, file) == ("penstock", "/etc/penstock/penstock.yaml")
        assert command in COMMANDS
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert float(patience) >= Config().drain_timeout + 5


def test_the_unit_outlives_a_worker_that_took_too_much_memory_and_a_row_of_failed_starts():
    """As systemd has it by default, one such worker ends the service, and five starts within 10 s are the last."""
    settings = dict(
        re.findall(r"^(\w+)=(.*)$", (DEPLOY / "systemd/penstock.service").read_text(), re.MULTILINE)
    )
    assert settings["OOMPolicy"] == "continue"
    assert settings["Restart"] == "on-failure"
    assert float(settings["RestartSec"]) * 5 > 10


def test_the_container_starts_the_gateway_without_a_shell():
    text = (DEPLOY / "container/Containerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert yaml.safe_load(entry) == ["/opt/penstock/bin/penstock"]
    assert yaml.safe_load(command) == ["serve", "/etc/penstock/penstock.yaml"]
