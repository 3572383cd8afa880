"""The files of deploy/ agree with the settings, the commands, dagster.yaml and each other. No network, no containers."""

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from usage_pipeline.cli import app
from usage_pipeline.settings import Settings
from usage_pipeline_tests.rigs.deployment_files import (
    CELERY_COMPOSE,
    COMPOSE,
    DAGSTER_VARIABLES,
    DEPLOY,
    PROJECT,
    documents,
    mappings,
    services,
    variables,
)

SECRETS = DEPLOY / "kubernetes" / "secret.example.yaml"
HELM = DEPLOY / "helm" / "values.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
YAML = sorted(DEPLOY.rglob("*.yaml"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
INSTANCE = yaml.safe_load((PROJECT / "dagster.yaml").read_text(encoding="utf-8"))
SETTINGS = {name.upper() for name in Settings.model_fields}


def named(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def all_services() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in (COMPOSE, CELERY_COMPOSE):
        yield from services(path).items()


def of_our_image() -> dict[str, dict[str, Any]]:
    """By name, with Celery's variables."""
    found = services(COMPOSE)
    for name, service in services(CELERY_COMPOSE).items():
        base = found.get(name, {})
        found[name] = base | service | {"environment": base.get("environment", {}) | service.get("environment", {})}
    return {name: service for name, service in found.items() if "usage-pipeline" in service["image"]}


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of the Kubernetes manifests."""
    for path in MANIFESTS:
        for document in documents(path):
            for mapping in mappings(document):
                for container in mapping.get("containers", []):
                    yield f"{named(path)}: {container['name']}", container


def written(path: Path) -> dict[str, str]:
    """NAME=value lines of an env file, the commented ones (`#NAME=`) included."""
    pairs = re.findall(r"^#?([A-Z_]+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(pairs)


@pytest.mark.parametrize("path", YAML, ids=named)
def test_yaml_parses_and_has_something_to_say(path: Path) -> None:
    assert documents(path)


def test_containers_of_ours_get_settings_and_variables_of_dagster_only() -> None:
    for name, service in of_our_image().items():
        unknown = set(service["environment"]) - SETTINGS - DAGSTER_VARIABLES - {"PYTHONPATH"}
        assert not unknown, f"{name}: {unknown}"
    for name, container in containers():
        assert {one["name"] for one in container.get("env", [])} <= SETTINGS | DAGSTER_VARIABLES, name
    [values] = documents(HELM)
    for deployment in values["dagster-user-deployments"]["deployments"]:
        assert {one["name"] for one in deployment["env"]} <= SETTINGS
    for secret in documents(SECRETS):
        assert set(secret["stringData"]) - {"postgresql-password"} <= SETTINGS
    for line in re.findall(r"^(?:ENV|    )([A-Z_]+)=", DOCKERFILE, re.MULTILINE):
        assert line in DAGSTER_VARIABLES or line.startswith(("UV_", "PYTHON", "PATH", "SSL_CERT_FILE"))
    assert set(written(DEPLOY / "settings.env.example")) <= SETTINGS


def test_each_variable_of_compose_is_in_the_example_and_none_else() -> None:
    example = written(DEPLOY / ".env.example")
    assert set(example) == variables(COMPOSE) | variables(CELERY_COMPOSE)
    needed = COMPOSE.read_text(encoding="utf-8") + CELERY_COMPOSE.read_text(encoding="utf-8")
    required = {name for name in example if f"${{{name}:?}}" in needed}
    # The service makes itself a session key.
    assert required == {name for name in example if name.endswith(("PASSWORD", "_KEY"))} - {"SESSION_KEY"}
    assert all(not example[name] for name in required), "no password is anybody's"
    for name in set(example) - required:
        if name in SETTINGS:
            continue
        default = re.search(rf"\$\{{{name}:-([^}}]*)\}}", COMPOSE.read_text(encoding="utf-8"))
        assert default, name
        assert name in ("IMAGE", "PULL_POLICY") or default[1] == example[name], f"{name}: the example shows the default"


def user_of(url: str) -> str:
    [user] = re.findall(r"^\w+(?:\+\w+)?://(\w+):", url)
    return str(user)


def test_each_process_has_a_role_of_its_own_and_dagsters_password_reaches_dagster_only() -> None:
    roles = {
        name: user_of(service["environment"]["DATABASE_URL"])
        for name, service in of_our_image().items()
        if "DATABASE_URL" in service["environment"]
    }
    owner = "usage_pipeline"
    assert roles == {
        "migrate": owner,
        "code": owner,
        "celery-worker": owner,
        "api": "usage_api",
        "drain": "usage_drain",
    }
    of_dagster = {name for name, service in of_our_image().items() if "DAGSTER_POSTGRES_URL" in service["environment"]}
    ui = {"dagster-migrate", "daemon", "webserver", "webserver-read-only"}
    assert of_dagster == ui | {"code", "celery-worker"}
    assert not ui & set(roles)


def test_each_part_in_kubernetes_has_a_secret_of_its_own() -> None:
    held = {secret["metadata"]["name"]: secret["stringData"] for secret in documents(SECRETS)}
    users = {name: user_of(data["DATABASE_URL"]) for name, data in held.items() if "DATABASE_URL" in data}
    asked: dict[str, set[str]] = {}
    for where, container in containers():
        for source in container.get("envFrom", []):
            asked.setdefault(source["secretRef"]["name"], set()).add(where.rpartition(": ")[2])
    assert {name: (users[name], parts) for name, parts in asked.items()} == {
        "usage-pipeline-api": ("usage_api", {"api"}),
        "usage-pipeline-drain": ("usage_drain", {"aggregate", "drain"}),
        "usage-pipeline-migrate": ("usage_pipeline", {"migrate"}),
    }
    [values] = documents(HELM)
    of_chart = {one["name"] for mapping in mappings(values) for one in mapping.get("envSecrets", [])}
    assert of_chart == {"usage-pipeline-code"}
    of_dagster = values["global"]["postgresqlSecretName"]
    assert [name for name, data in held.items() if "postgresql-password" in data] == [of_dagster]
    assert set(held[of_dagster]) == {"postgresql-password"}
    [of_ui] = {
        one["valueFrom"]["secretKeyRef"]["name"]
        for mapping in mappings(values)
        for one in mapping.get("env", [])
        if isinstance(one, dict) and one.get("name") == "DAGSTER_UI_PASSWORD_HASH"
    }
    assert set(held) == {*asked, *of_chart, of_dagster, of_ui}


def test_secrets_are_named_and_never_written() -> None:
    for path in YAML:
        text = re.sub(r"\$\{\w+:\?\}", "CHANGE-ME", path.read_text(encoding="utf-8"))
        passwords = re.findall(r"\w+://[^/@\s]*:([^/@\s]+)@", text)
        assert set(passwords) <= {"CHANGE-ME"}, path.name
    ignored = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"deploy/.env", "deploy/settings.env"} <= set(ignored)
    allowed = set((DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines())
    assert "*" in allowed
    assert not [line for line in allowed if "env" in line and line.startswith("!")]


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in of_our_image().items():
        if "command" in service:
            yield name, service["command"]
        kind, *test = service.get("healthcheck", {}).get("test", ["NONE"])
        if kind != "NONE":
            yield f"{name}'s health check", shlex.split(test[0]) if kind == "CMD-SHELL" else test
    for name, container in containers():
        command = [*container["command"], *container.get("args", [])]
        if command[:2] == ["sh", "-c"]:
            command = shlex.split(command[2].removeprefix("exec "))
        yield name, command
    [values] = documents(HELM)
    yield "Helm", values["dagsterDaemon"]["livenessProbe"]["exec"]["command"]
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            for line in re.findall(
                r"run --rm \w+ (usage-pipeline .*)$", path.read_text(encoding="utf-8"), re.MULTILINE
            ):
                yield named(path), shlex.split(line)


def test_every_command_exists_with_its_options() -> None:
    ours = typer.main.get_command(app)
    installed = {point.name for point in entry_points(group="console_scripts")} | {Path(sys.executable).name, "python"}
    # Of the shell, for a health check.
    installed.add("test")
    seen = set()
    for where, (program, *arguments) in commands():
        assert program in installed, f"{where}: {program}"
        if program != "usage-pipeline":
            continue
        found = ours.commands[arguments[0]]
        seen.add(arguments[0])
        options = {option for parameter in found.params for option in parameter.opts}
        assert {one for one in arguments if one.startswith("--")} <= options, f"{where}: {arguments}"
    assert {"migrate", "api", "drain", "aggregate"} <= seen


def test_images_are_pinned() -> None:
    images = [service["image"] for _, service in all_services() if "image" in service]
    images += [container["image"] for _, container in containers()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    for mapping in mappings(documents(HELM)):
        if "repository" in mapping:
            images.append(f"{mapping['repository']}:{mapping['tag']}")
    assert len(images) > 15
    for image in images:
        tag = re.sub(r"\$\{\w+:-(.*)\}", r"\1", image).rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), image
    version = re.search(r'^version = "(.*)"$', (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    mine = {image.rpartition(":")[2].rstrip("}") for image in images if "usage-pipeline" in image}
    assert mine == {version[1]}


def test_the_chart_is_that_of_our_dagster() -> None:
    import dagster

    assert f"--version {dagster.__version__} " in HELM.read_text(encoding="utf-8")


def test_services_are_contained() -> None:
    for name, service in of_our_image().items():
        if "command" not in service:
            continue
        assert service["read_only"], name
        assert service["init"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"], name
    for name, service in all_services():
        if "image" in service:
            # Compose refuses `pids_limit` beside these.
            assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
            for port in service.get("ports", []):
                assert port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:"), name
    for name, user in (("postgres", "postgres"), ("redis", "redis"), ("celery-broker", "redis")):
        server = (services(CELERY_COMPOSE) | services(COMPOSE))[name]
        assert server["user"] == user, "an entry point that begins as root needs capabilities"
        assert server["read_only"], name
        assert server["cap_drop"] == ["ALL"], name
        assert server["security_opt"] == ["no-new-privileges:true"], name
        assert "ports" not in server
    for name in ("postgres", "redis"):
        assert services(COMPOSE)[name]["networks"] == ["internal"]
        assert "ports" not in services(COMPOSE)[name]
    users = re.findall(r"^(FROM|USER) (\S+)", DOCKERFILE, re.MULTILINE)
    assert users[-1] == ("USER", "10001:10001")
    for _, container in containers():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["resources"]["limits"]["memory"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    for path in MANIFESTS:
        for mapping in mappings(documents(path)):
            assert "emptyDir" not in mapping or mapping["emptyDir"]["sizeLimit"], named(path)


def test_each_service_of_compose_that_stays_has_a_health_check() -> None:
    stay = {name for name, service in all_services() if service.get("restart") == "unless-stopped"}
    assert {"postgres", "redis", "code", "daemon", "webserver", "api", "drain", "celery-worker"} <= stay
    found = dict(all_services()) | services(COMPOSE)
    assert {name for name in stay if "healthcheck" not in found[name]} == set()


def test_each_pod_that_stays_has_probes() -> None:
    [values] = documents(HELM)
    [code] = values["dagster-user-deployments"]["deployments"]
    found = {"code": code, "webserver": values["dagsterWebserver"], "daemon": values["dagsterDaemon"]}
    for path in MANIFESTS:
        for one in documents(path):
            if one["kind"] == "Deployment":
                [found[named(path)]] = one["spec"]["template"]["spec"]["containers"]
    assert {"kubernetes/api.yaml", "kubernetes/drain.yaml"} < set(found)
    for name, one in found.items():
        # Nobody waits for the daemon.
        wanted = {"livenessProbe"} if name == "daemon" else {"livenessProbe", "readinessProbe", "startupProbe"}
        assert wanted <= set(one), name
        stuck = one["livenessProbe"]
        assert stuck["periodSeconds"] * stuck["failureThreshold"] >= 120, f"{name}: a restart cuts what is in hand"


def test_the_worker_drains_unless_it_is_left_out() -> None:
    """The sensor is its watcher: both are there, and nothing waits for the worker."""
    found = services(COMPOSE)
    assert "profiles" not in found["drain"]
    assert not [name for name, one in found.items() if "drain" in one.get("depends_on", {})]
    [deployment] = documents(DEPLOY / "kubernetes" / "drain.yaml")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == found["drain"]["command"]
    # A new one would not be ready while the old one has the locks.
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_each_exception_of_checkov_has_a_reason_and_make_runs_both_tools() -> None:
    lines = (DEPLOY / "checkov.yaml").read_text(encoding="utf-8").splitlines()
    exceptions = lines[lines.index("skip-check:") + 1 :]
    for before, line in pairwise(exceptions):
        assert not line.startswith("  - ") or before.startswith("  # "), line
    assert {line[4:] for line in exceptions if line.startswith("  - ")} == set(
        documents(DEPLOY / "checkov.yaml")[0]["skip-check"]
    )
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for tool in ("kubernetes-validate@", "checkov@"):
        assert re.search(rf"^\t.*{tool}\d", makefile, re.MULTILINE), "in a version that was seen to pass"


def test_each_manifest_has_the_name_that_the_validator_asks_for() -> None:
    for path in MANIFESTS:
        for document in documents(path):
            assert document["metadata"]["name"], named(path)


def networks() -> dict[str, set[str]]:
    """The services of each network, with Celery's laid over the first file."""
    found: dict[str, set[str]] = {}
    for path in (COMPOSE, CELERY_COMPOSE):
        for name, service in services(path).items():
            for network in service.get("networks", []):
                found.setdefault(network, set()).add(name)
    return found


def test_a_celery_worker_reaches_its_servers_and_nothing_else() -> None:
    within, [document] = networks(), documents(CELERY_COMPOSE)
    mine = {name for name, members in within.items() if "celery-worker" in members}
    assert set().union(*(within[name] for name in mine)) == {"celery-worker", "postgres", "redis", "celery-broker"}
    assert all(document["networks"][name]["internal"] for name in mine), "no way out"
    # And the broker is reached by those who launch runs, or carry them out; not by those who count.
    beside = set().union(*(members for members in within.values() if "celery-broker" in members)) - {"celery-broker"}
    assert beside == {"daemon", "webserver", "celery-worker", "postgres", "redis"}


def test_the_broker_shares_no_secret_with_the_counters_redis() -> None:
    broker, counters = services(CELERY_COMPOSE)["celery-broker"], services(COMPOSE)["redis"]
    assert not set(broker["environment"].values()) & set(counters["environment"].values())
    for name, service in of_our_image().items():
        given = " ".join(value or "" for value in service.get("environment", {}).values())
        may_launch = name in ("daemon", "webserver", "celery-worker")
        assert ("CELERY" in given) == may_launch, name
        for variable in ("DAGSTER_CELERY_BROKER_URL", "DAGSTER_CELERY_BACKEND_URL"):
            url = service["environment"].get(variable, "redis://:${CELERY_BROKER_PASSWORD:?}@celery-broker:6379/0")
            assert url == "redis://:${CELERY_BROKER_PASSWORD:?}@celery-broker:6379/0"


def test_the_code_server_is_reached_by_dagsters_own_containers_only_and_on_no_network() -> None:
    """Whoever reaches it can stop it."""
    found = {**services(COMPOSE), "celery-worker": services(CELERY_COMPOSE)["celery-worker"]}
    [workspace] = documents(DEPLOY / "workspace.yaml")
    [server] = [one["grpc_server"] for one in workspace["load_from"]]
    assert set(server) == {"socket", "location_name"}
    command = services(COMPOSE)["code"]["command"]
    assert f"--socket={server['socket']}" in command
    assert not [one for one in command if one.startswith(("--port", "--host"))]
    folder = server["socket"].rpartition("/")[0]
    having = {name for name, one in found.items() for volume in one.get("volumes", []) if f":{folder}" in volume}
    assert having == {"code", "daemon", "webserver", "webserver-read-only", "dagster-migrate"}
    assert f"chmod 700 {folder}" in DOCKERFILE


def test_dagsters_web_server_is_behind_the_guard_wherever_it_starts() -> None:
    started = [one["command"][0] for name, one in services(COMPOSE).items() if name.startswith("webserver")]
    assert started == ["usage-pipeline-webserver"] * 2
    # The chart's own command is `dagster-webserver`.
    link = re.search(r"ln -s /opt/venv/bin/usage-pipeline-webserver (\S+)/dagster-webserver", DOCKERFILE)
    assert link
    assert f"ENV PATH={link[1]}:/opt/venv/bin:$PATH" in DOCKERFILE
    [values] = documents(HELM)
    web = values["dagsterWebserver"]
    assert {"DAGSTER_UI_ALLOWED_HOSTS", "DAGSTER_UI_PASSWORD_HASH"} == {one["name"] for one in web["env"]} <= SETTINGS
    # To an address, which is no name of the server.
    assert web["readinessProbe"]["httpGet"]["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_each_service_waits_for_what_it_needs() -> None:
    found = services(CELERY_COMPOSE) | services(COMPOSE)
    for name, service in (services(COMPOSE) | {"celery-worker": found["celery-worker"]}).items():
        for needed, how in service.get("depends_on", {}).items():
            is_one_shot = needed.endswith("migrate")
            assert how["condition"] == ("service_completed_successfully" if is_one_shot else "service_healthy"), name
            assert is_one_shot or found[needed]["healthcheck"]["test"]
    assert "migrate" in services(COMPOSE)["api"]["depends_on"]
    assert {"migrate", "dagster-migrate"} <= set(services(COMPOSE)["code"]["depends_on"])


def snake_case(value: Any) -> Any:
    """Keys of the chart as keys of dagster.yaml, which has one of the chart's kind itself."""
    if isinstance(value, dict):
        return {re.sub("([A-Z])", r"_\1", key).lower(): snake_case(one) for key, one in value.items()}
    return [snake_case(one) for one in value] if isinstance(value, list) else value


def test_the_chart_has_the_limits_and_intervals_of_dagster_yaml() -> None:
    [values] = documents(HELM)
    assert snake_case(values["concurrency"]) == {"enabled": True} | snake_case(INSTANCE["concurrency"])
    assert snake_case(values["retention"]) == {"enabled": True} | INSTANCE["retention"]
    daemon = snake_case(values["dagsterDaemon"])
    for name in ("sensors", "schedules", "backfills", "run_retries"):
        assert daemon[name] == INSTANCE[name], name
    queue = daemon["run_coordinator"]["config"]["queued_run_coordinator"]
    assert queue.items() <= INSTANCE["run_queue"].items()
    # A pod may need a node first; the rest is the same.
    assert daemon["run_monitoring"] == INSTANCE["run_monitoring"] | {"start_timeout_seconds": 600}
    assert snake_case(values["telemetry"]) == INSTANCE["telemetry"]
    for name, value in values["additionalInstanceConfig"].items():
        assert value == INSTANCE[name], name
    elsewhere = {"concurrency", "retention", "sensors", "schedules", "backfills", "run_retries", "run_monitoring"}
    assert set(INSTANCE) == elsewhere | {"run_queue", "telemetry", "storage", *values["additionalInstanceConfig"]}


def test_the_chart_runs_our_image_as_its_user_with_a_read_only_web_server() -> None:
    [values] = documents(HELM)
    [deployment] = values["dagster-user-deployments"]["deployments"]
    assert values["dagsterWebserver"]["enableReadOnly"] is True
    for part in (deployment, values["dagsterWebserver"], values["dagsterDaemon"]):
        assert part["image"] == deployment["image"]
        assert part["podSecurityContext"]["runAsUser"] == 10001
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    assert f"DAGSTER_HOME={values['global']['dagsterHome']} " in DOCKERFILE
    assert values["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    arguments = services(COMPOSE)["code"]["command"]
    pairs = [f"{name}={value}" for name, value in pairwise(deployment["codeServerArgs"]) if name.startswith("--")]
    assert set(pairs) <= set(arguments), "the definitions are those of compose"


def test_what_the_image_is_made_of_is_there_and_not_ignored() -> None:
    allowed = set((DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines())
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert list(PROJECT.glob(source)), source
            # By itself, or with the folder that it is in.
            assert {f"!{place}" for place in (Path(source), *Path(source).parents)} & allowed, source
    assert "HEALTHCHECK" not in DOCKERFILE, "what is healthy depends on the service"
