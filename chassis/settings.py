"""What every service needs from the world, read from the environment and validated at start."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ChassisSettings(BaseSettings):
    """Base of each service's settings. Variables are `TROIKA_<NAME>`; the local runner sets them per process."""

    # Full name of the RPC service that `callers` may call.
    rpc_service: ClassVar[str]

    model_config = SettingsConfigDict(env_prefix="TROIKA_", extra="ignore", frozen=True)

    postgres_dsn: str = Field(
        description="postgresql:// address as libpq reads it, sslmode and sslrootcert too; its user must be allowed to"
        " SET ROLE troika_<service>."
    )
    nats_url: str = Field(
        description="nats:// or tls:// address of a server with JetStream, with user:password@ where it asks for them."
    )
    nats_ca_file: str = Field(
        "", description="PEM of who signed the certificate of a tls:// NATS, beside the authorities in TROIKA_TLS_FOLDER."
    )
    # Loopback by default: a door opens to the network only when somebody says so (the Helm chart does).
    bind_host: str = Field("127.0.0.1", description="Address the doors listen on.")
    grpc_port: int = Field(ge=0, le=65535, description="Port of the gRPC door; 0 takes a free one.")
    http_port: int = Field(ge=0, le=65535, description="Port of the HTTP door; 0 takes a free one.")
    caller_token: str = Field(min_length=16, description="The secret this service shows when it calls others.")
    caller_token_sha256: dict[str, str] = Field(
        description='Who may call in: caller name to the SHA-256 of its token, hexadecimal, as JSON {"tags": "ab12…"}.'
    )
    tls_folder: str = Field(
        "",
        description="Folder with tls.crt, tls.key and ca.crt, as cert-manager writes them: gRPC is mutual TLS then, and a"
        " caller is who its certificate names (spiffe://troika/<caller>). Empty: plain, and callers show tokens.",
    )
    token_grpc_port: int = Field(
        0, ge=0, le=65535, description="With certificates: a further gRPC port, TLS, for callers who show a token; 0 for none."
    )
    # Each service's settings say who needs it; nobody else comes in.
    callers: frozenset[str] = Field(frozenset({"operator"}), description="Who may call this service's RPCs, as JSON list.")
    # 4 connections feed 2 cores: doors, consumers and relay each hold one only during a transaction.
    # Mobile networks stall for seconds; who needs longer for a few hundred KB holds a place for nothing.
    body_timeout_s: float = Field(
        30.0, gt=0, description="Seconds that the head, and then the body, of an HTTP request may take."
    )
    http_connections: int = Field(
        4096, ge=16, description="HTTP connections that this process holds; beyond them new ones are closed."
    )
    postgres_pool_size: int = Field(8, ge=1, le=100, description="Connections this process may hold.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    grpc_reflection: bool = Field(True, description="Serve gRPC reflection; switch it off at production edges.")
    # A call to a receiver may take 15 s; one that is broken off is made again.
    shutdown_grace_s: float = Field(
        18.0, ge=0, description="Seconds that running requests, batches and calls get after SIGTERM."
    )
    nats_replicas: int = Field(1, ge=1, le=5, description="Copies of each stream; 3 in production survives a lost machine.")

    def allowed_callers(self) -> dict[str, frozenset[str]]:
        """RPC service → callers."""
        return {self.rpc_service: self.callers}
