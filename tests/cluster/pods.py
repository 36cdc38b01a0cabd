"""A release of the chart on this machine: each container is a process with exactly its command, environment and files.

What is as in a cluster: the rendered objects, Secrets made as the README says, certificates as cert-manager would issue them,
hooks before pods, probes, names, network policies, the way a pod ends. What is not: a pod has an address of 127.0.0.0/8 instead
of all of its own network, and no kernel keeps it from writing where its root filesystem would be read-only.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
import httpx

from chassis import rpc
from chassis.migrations import migrate
from chassis.tls import PREFIX
from local import keys, plan
from local.authority import Authority
from local.embedded import Command, Nats, Postgres
from local.processes import MARK, Child
from tests.cluster import chart
from tests.cluster.chart import ROOT, Object
from tests.cluster.network import Address, Network, port_of, tls_front

START_S: Final = 120.0
TOKEN_PORT: Final = 7443


@dataclass
class Pod:
    """One pod of a Deployment, its only container as a process."""

    address: Address
    child: Child
    spec: Object

    @property
    def container(self) -> Object:
        """What the manifest says of it."""
        [container] = self.spec["containers"]
        return dict(container)

    async def probe(self, client: httpx.AsyncClient, name: str) -> bool:
        """One question, as the manifest has it asked."""
        probe = self.container[name]
        asked = probe["httpGet"]
        try:
            url = f"http://{self.address.ip}:{self.address.ports[asked['port']]}{asked['path']}"
            # A kubelet keeps no connection.
            headers = {"connection": "close"}
            return (await client.get(url, timeout=probe.get("timeoutSeconds", 1), headers=headers)).is_success
        except httpx.HTTPError:
            return False


@dataclass
class Cluster:
    """A release under way: `objects` as rendered, `pods` by name."""

    folder: Path
    objects: Sequence[Object]
    secrets: dict[str, dict[str, str]]
    authority: Authority
    network: Network
    postgres: Postgres
    door: str
    # How much of what a preStop hook sleeps is slept: the network here forgets a pod at once.
    patience: float = 0.0
    pods: dict[str, Pod] = field(default_factory=dict)
    root: Path = ROOT
    killed: list[str] = field(default_factory=list)
    _guests: list[Child] = field(default_factory=list)
    _client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(trust_env=False))
    _number: Any = field(default_factory=count)
    # Two runs at once must not meet.
    _net: str = field(default_factory=lambda: f"127.{random.randint(16, 250)}.{random.randint(0, 250)}")

    # What the demo asks of its stage

    @property
    def postgres_dsn(self) -> str:
        """For the judge."""
        return self.postgres.dsn

    @property
    def logs(self) -> Path:
        """Folder of all logs."""
        return self.folder / "logs"

    @property
    def mark(self) -> Mapping[str, str]:
        """What the environment of every process of this run holds."""
        return {MARK: str(self.folder)}

    def url(self, service: str) -> str:
        """Base address of the public doors, which touchpoints alone has."""
        assert service == "touchpoints"
        return self.door

    def operator_channel(self, service: str, person: str = keys.OPERATOR) -> grpc.aio.Channel:
        """From outside: TLS and a token, at the port for tokens."""
        target, token = f"dns:///troika-{service}:{TOKEN_PORT}", self.secrets["troika-callers"][person]
        way = [("grpc.http_proxy", self.network.proxy("outside"))]
        return rpc.connect(target, person, token, authorities=self.authority.certificate, options=way)

    def outside(self, person: str = keys.OPERATOR) -> dict[str, str]:
        """What a program outside needs to ask in the name of a person: names, who signs, a token."""
        authorities = self.folder / "ca.crt"
        authorities.write_bytes(self.authority.certificate)
        doors = {f"TROIKA_{service.upper()}_TARGET": f"dns:///troika-{service}:{TOKEN_PORT}" for service in plan.SERVICES}
        token = f"{person}.{self.secrets['troika-callers'][person]}"
        return doors | {
            "TROIKA_AUTHORITIES": str(authorities),
            "TROIKA_TOKEN": token,
            "grpc_proxy": self.network.proxy("outside"),
            "no_grpc_proxy": "127.0.0.1",
        }

    def adopt(self, child: Child) -> None:
        """Starts a program beside the pods."""
        child.start()
        self._guests.append(child)

    # What Helm and Kubernetes do

    def of(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    async def install(self) -> None:
        """Hooks first, with nothing there but what was made by hand; then certificates, then all pods at once."""
        hooks = [each for each in self.of("Job") if "pre-install" in each["metadata"]["annotations"]["helm.sh/hook"]]
        assert len(hooks) == len(plan.SERVICES)
        await asyncio.gather(*(self.run_job(each, after_release=False) for each in hooks))
        self.issue_certificates()
        await asyncio.gather(*(self.start_pod(deployment) for deployment in self.of("Deployment")))

    def issue_certificates(self) -> None:
        """What cert-manager makes of the Certificates."""
        for each in self.of("Certificate"):
            spec = each["spec"]
            [uri] = spec["uris"]
            caller = str(uri).removeprefix(PREFIX.decode())
            folder = self.authority.issue(self.folder / "issued" / caller, caller, spec.get("dnsNames", ()))
            self.secrets[spec["secretName"]] = {path.name: path.read_text() for path in folder.iterdir()}

    async def run_job(self, job: Object, *, after_release: bool, root: Path | None = None) -> str:
        """Runs a Job or a bare Pod to its end, which must be good; returns what it said."""
        template = job["spec"]["template"] if job["kind"] == "Job" else job
        name = job["metadata"]["name"]
        self.network.addresses[name] = Address(name, "127.0.0.1", template["metadata"]["labels"], {})
        child = self._child(name, template["spec"], "127.0.0.1", root, after_release)
        child.start()
        assert await child.gone(START_S), child.name
        del self.network.addresses[name]
        assert child.process is not None
        assert 0 == child.process.returncode, child.last_words()
        return child.last_words()

    async def start_pod(self, deployment: Object, root: Path | None = None) -> Pod:
        """One more pod of a Deployment; returns when it is started and ready as its probes say."""
        template, number = deployment["spec"]["template"], next(self._number)
        name, ip = f"{deployment['metadata']['name']}-{number}", f"{self._net}.{number + 1}"
        child = self._child(name, template["spec"], ip, root)
        [container] = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        pod = Pod(Address(name, ip, template["metadata"]["labels"], ports), child, template["spec"])
        self.pods[name], self.network.addresses[name] = pod, pod.address
        child.start()
        async with asyncio.timeout(START_S):
            for probe in ("startupProbe", "readinessProbe"):
                while not await pod.probe(self._client, probe):
                    assert child.alive, child.last_words()
                    await asyncio.sleep(0.1)
        pod.address.ready = True
        return pod

    async def execute(self, name: str, *words: str) -> tuple[int, str]:
        """A verb of the service in a pod, as kubectl exec would run it; returns its code and what it said."""
        serving = self.pods[name].child
        argv = [*serving.argv[:-1], *words]
        process = await asyncio.create_subprocess_exec(
            *argv, env=serving.environment, cwd=serving.folder, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    async def end_pod(self, name: str) -> None:
        """As Kubernetes does: out of the endpoints, preStop, SIGTERM, and SIGKILL for whom the grace period was too short."""
        pod = self.pods.pop(name)
        pod.address.ready = False
        slept = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"] * self.patience
        await asyncio.sleep(slept)
        pod.child.send(signal.SIGTERM)
        if not await pod.child.gone(pod.spec["terminationGracePeriodSeconds"] - slept):
            self.killed.append(name)
            pod.child.send(signal.SIGKILL)
            await pod.child.gone(START_S)
        assert pod.child.process is not None
        assert name in self.killed or 0 == pod.child.process.returncode, pod.child.last_words()
        del self.network.addresses[name]

    async def migrate(self, root: Path) -> None:
        """What the Jobs of a tree's release do, in this process: five more would start to say some dozen statements each."""
        for service in plan.SERVICES:
            await migrate(self.postgres.dsn, service, root / "services" / service / "migrations", post=False)

    async def roll(self, service: str, root: Path) -> None:
        """Brings the service to the release of another tree: a new pod, and only when it is ready the old ones go."""
        [deployment] = [each for each in self.of("Deployment") if each["metadata"]["name"] == f"troika-{service}"]
        old = [name for name in self.pods if name.startswith(f"troika-{service}-")]
        await self.start_pod(deployment, root)
        for name in old:
            await self.end_pod(name)

    async def close(self) -> None:
        """Guests, then pods, then the network."""
        await asyncio.gather(*(guest.stop() for guest in self._guests))
        await asyncio.gather(*(pod.child.stop() for pod in self.pods.values()))
        await self.network.close()
        await self._client.aclose()

    # A container as a process

    def _child(self, name: str, spec: Object, ip: str, root: Path | None = None, after_release: bool = True) -> Child:
        [container] = spec["containers"]
        folder = self.folder / "pods" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        service = container["image"].rpartition("/")[2].partition(":")[0].partition("@")[0].removeprefix("troika-")
        image = chart.copied(root or self.root, service, folder / "srv")
        mounts = self._mounts(spec, container, folder)
        environment = self._environment(container, after_release) | {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": f"{image}:{image / 'gen'}",
            "HOME": "/nonexistent",
            "TMPDIR": str(mounts.pop("/tmp")),
            "grpc_proxy": self.network.proxy(name),
            # The collector of traces is outside; nobody's policy is in its way.
            "no_grpc_proxy": "127.0.0.1",
            **self.mark,
        }
        # A pod has a network of its own; all that it may listen on is its address here.
        if environment.get("TROIKA_BIND_HOST") == "0.0.0.0":  # as the chart says it
            environment["TROIKA_BIND_HOST"] = ip
        argv = [*container["command"], *container.get("args", ())]
        # gRPC has a proxy to ask; HTTP has not.
        argv = [word.replace("http://troika-touchpoints-web", self.door) for word in argv]
        for path, there in mounts.items():
            environment = {variable: value.replace(path, str(there)) for variable, value in environment.items()}
            argv = [word.replace(path, str(there)) for word in argv]
        return Child(name, argv, self.logs / f"{name}.log", environment, image, inherits=False)

    def _environment(self, container: Object, after_release: bool) -> dict[str, str]:
        configured = {each["metadata"]["name"]: each["data"] for each in self.of("ConfigMap")} if after_release else {}
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found |= configured[source["configMapRef"]["name"]]
        for each in container["env"]:
            if "value" in each:
                found[each["name"]] = each["value"]
            else:
                reference = each["valueFrom"]["secretKeyRef"]
                found[each["name"]] = self.secrets[reference["name"]][reference["key"]]
        return found

    def _mounts(self, spec: Object, container: Object, folder: Path) -> dict[str, Path]:
        volumes = {each["name"]: each for each in spec["volumes"]}
        found = {}
        for mount in container["volumeMounts"]:
            there, volume = folder / "volumes" / mount["name"], volumes[mount["name"]]
            there.mkdir(parents=True)
            if secret := volume.get("secret"):
                content = self.secrets[secret["secretName"]]
                for item in secret.get("items", [{"key": key, "path": key} for key in content]):
                    (there / item["path"]).write_text(content[item["key"]])
            else:
                assert "emptyDir" in volume, volume
            found[mount["mountPath"]] = there
        return found


def values(door: str, otlp: str) -> Object:
    """What differs from the chart's defaults: servers under an authority of their own, few pods, doors for the operator."""
    alone = {"autoscaling": {"enabled": False}, "replicas": 1}
    traced = {
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        # Only what arrives with a sampled trace is recorded: the test's own request.
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    # Receivers live on this machine, and a campaign of a minute waits for no morning.
    receivers = {"TROIKA_ALLOW_PRIVATE_ENDPOINTS": "true", "TROIKA_MESSAGE_PAGE_URL": "https://m.example.com/offer"}
    return {
        **dict.fromkeys(plan.SERVICES, alone),
        "postgres": {"caSecret": "troika-postgres-ca"},
        "nats": {"existingSecret": "troika-nats", "replicas": 1},
        "tls": {"tokenPort": {"port": TOKEN_PORT, "services": list(plan.SERVICES)}},
        "env": traced if otlp else {},
        "otlpEndpoint": otlp,
        "orchestrator": {**alone, "env": {"TROIKA_QUIET_HOURS": "", "TROIKA_DEALER_CALLS_PER_DAY": "1000000"}},
        "touchpoints": {**alone, "env": receivers, "publicUrl": door},
    }


@asynccontextmanager
async def installed(folder: Path, otlp: str = "") -> AsyncIterator[Cluster]:
    """The least of the chart's own examples, on a PostgreSQL and a NATS that speak TLS."""
    authority, secrets = Authority(), chart.secrets_of_the_readme(_made(folder / "readme"))
    certificates = {name: authority.issue(folder / "servers" / name, name) for name in ("postgres", "nats")}
    postgres = Postgres(folder / "postgres", fast_and_loose=True)
    nats = Nats(folder / "nats", certificates=certificates["nats"])
    network = Network()
    await network.start()
    door = f"http://127.0.0.1:{await network.front('troika-touchpoints-web', 80)}"
    written = chart.write_values(folder / "values.yaml", values(door, otlp))
    network.objects = objects = chart.rendered([chart.CHART / "ci" / "minimal-values.yaml", written])
    # The embedded server knows no TLS; it has somebody before it who does.
    fronted = await tls_front(certificates["postgres"], postgres.port)
    secrets["troika-postgres"] = {"dsn": postgres.dsn.replace(f":{postgres.port}/", f":{port_of(fronted)}/")}
    secrets["troika-postgres-ca"] = {"ca.crt": authority.certificate.decode()}
    secrets["troika-nats"] = {"url": nats.url}
    servers = [
        _server("postgres", postgres.command(), folder, signal.SIGINT),
        _server("nats", nats.command(), folder, signal.SIGTERM),
    ]
    cluster = Cluster(folder, objects, secrets, authority, network, postgres, door)
    for child in servers:
        child.start()
    try:
        await postgres.ready()
        await nats.ready()
        await cluster.install()
        yield cluster
    finally:
        await cluster.close()
        fronted.close()
        for child in servers:
            await child.stop()


def _server(name: str, command: Command, folder: Path, stop_signal: signal.Signals) -> Child:
    return Child(name, command.argv, folder / "logs" / f"{name}.log", {}, Path("/"), stop_signal, command.uid)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
