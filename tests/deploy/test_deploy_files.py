"""What lies in deploy/ for systemd, containers and Kubernetes fits the gateway."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from penstock.cli import COMMANDS
from penstock.config.load import parse
from penstock.config.model import Config
from penstock.config.references import variables

DEPLOY = Path(__file__).parents[2] / "deploy"
SECRETS = {"CONTROL_KEY": "c", "OPENAI_API_KEY": "k", "REDIS_URL": "redis://redis:6379/0"}


@pytest.fixture
def config(tmp_path):
    """The configuration in Kubernetes, with the Secret where it is mounted and in the environment."""
    for name, value in SECRETS.items():
        (tmp_path / name).write_text(value)
    pod = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    (volume,) = [one["name"] for one in pod["volumes"] if "secret" in one]
    (place,) = [one["mountPath"] for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume]
    text = kubernetes()["ConfigMap"]["data"]["penstock.yaml"]
    return parse(text.replace(place, str(tmp_path)), "penstock.yaml", SECRETS)


def kubernetes():
    return {
        each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes/penstock.yaml").read_text())
    }


def test_the_configuration_in_kubernetes_is_one(config):
    assert config.control_key is not None
    assert config.keys
    (container,) = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config.listen == f"0.0.0.0:{ports['http']}"
    assert config.control == f"0.0.0.0:{ports['control']}"


def test_a_key_of_a_provider_is_renewed_under_way(config):
    """Of the environment a process has what was there at its start."""
    assert config.upstreams["openai"].api_key.reveal() == SECRETS["OPENAI_API_KEY"]
    text = kubernetes()["ConfigMap"]["data"]["penstock.yaml"]
    assert "OPENAI_API_KEY" not in variables(text)


def test_a_pod_may_take_its_time_to_start():
    """Else who looks whether it lives ends it before it does, on a node that is busy."""
    (container,) = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 120


def test_a_pod_may_do_nothing_that_it_need_not():
    pod = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    } | {claim["metadata"]["name"] for claim in kubernetes()["StatefulSet"]["spec"]["volumeClaimTemplates"]}


def test_a_pod_is_given_time_to_drain(config):
    inside = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
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


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine"
)
def test_systemd_understands_the_unit_and_finds_it_well_confined(tmp_path):
    """Whoever runs this has no /opt/penstock: that is all that is replaced."""
    unit = tmp_path / "penstock.service"
    text = (DEPLOY / "systemd/penstock.service").read_text()
    unit.write_text(text.replace("/opt/penstock/bin/penstock", sys.executable))
    verified = analyzed("verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    found = re.search(
        r"exposure level for penstock.service: ([\d.]+)", analyzed("security", "--offline=true", unit).stdout
    )
    assert float(found[1]) < 2


def analyzed(*words):
    return subprocess.run(
        ["systemd-analyze", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
