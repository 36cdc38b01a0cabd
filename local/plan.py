"""The five services as the local runner sees them: names, ports and the settings that each gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from local.keys import Encoding, Keys

SERVICES: Final = ("identity", "tags", "scoring", "orchestrator", "touchpoints")
Door = Literal["grpc", "http"]
# Settings that are 32 random bytes, and how each service wants them written.
SECRETS: Final[Mapping[str, Mapping[str, Encoding]]] = {
    "identity": {
        "sealing_private_keys": "named ring",
        "token_keys": "numbered ring",
        "hash_key": "base64",
        "keks": "named ring",
    },
    "tags": {"sharing_keys": "named ring"},
    "scoring": {"model_signing_key": "hex"},
    "orchestrator": {"referral_device_key": "hex"},
    "touchpoints": {"secrets_key": "hex"},
}


@dataclass(frozen=True)
class Ports:
    """Where everything listens, all on 127.0.0.1."""

    postgres: int
    nats: int
    grpc: Mapping[str, int]
    http: Mapping[str, int]

    def address(self, service: str, door: Door) -> str:
        """`host:port` of a service's door."""
        return f"127.0.0.1:{(self.grpc if door == 'grpc' else self.http)[service]}"


# What `up` takes when nobody else has it.
USUAL_PORTS: Final = (7432, 7422, *range(7001, 7006), *range(7101, 7106))


def lay_out(ports: list[int]) -> Ports:
    """Gives twelve ports their places, in the order of USUAL_PORTS."""
    postgres, nats, *doors = ports
    size = len(SERVICES)
    return Ports(postgres, nats, dict(zip(SERVICES, doors[:size], strict=True)), dict(zip(SERVICES, doors[size:], strict=True)))


def settings_of(service: str, ports: Ports, postgres_dsn: str, nats_url: str, keys: Keys) -> dict[str, str]:
    """The environment of one service process."""
    settings = {
        "postgres_dsn": postgres_dsn,
        "nats_url": nats_url,
        "grpc_port": str(ports.grpc[service]),
        "http_port": str(ports.http[service]),
        "caller_token": keys.tokens[service],
        "caller_token_sha256": keys.token_hashes(),
        **{f"{peer}_target": ports.address(peer, "grpc") for peer in SERVICES},
        **keys.settings.get(service, {}),
        **_particular(service, ports),
    }
    return {f"TROIKA_{name.upper()}": value for name, value in settings.items()}


def _particular(service: str, ports: Ports) -> dict[str, str]:
    if service == "orchestrator":
        # A suite that is tried, or a demo that runs, at night would wait for the morning with every push, and a campaign of a
        # minute for tomorrow with the calls that three dealers cannot make today.
        return {"quiet_hours": "", "dealer_calls_per_day": "1000000"}
    if service == "touchpoints":
        # Receivers live on this machine; links that dealers follow lead back to it.
        return {
            "allow_private_endpoints": "true",
            "public_url": f"http://{ports.address('touchpoints', 'http')}",
            "message_page_url": "https://m.example.com/offer",
        }
    return {}
