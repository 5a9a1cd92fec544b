"""Settings of Kafka and the Schema Registry, as sections that an application's own settings hold."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SettingsSection(BaseModel):
    """A group of settings; a name that it doesn't have is a mistake, not one to be passed over."""

    model_config = ConfigDict(extra="forbid")


class KafkaSettings(SettingsSection):
    """Brokers and the topics' sizes."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="host:port list of the brokers")
    partitions: int = Field(8, ge=1, le=10_000, description="partitions of each input topic (the original's: 30)")
    replication_factor: int = Field(1, ge=1, le=9, description="copies of each partition")
    min_insync_replicas: int = Field(1, ge=1, le=9, description="copies that must acknowledge a write")
    retention_ms: int = Field(86_400_000, ge=-1, description="retention of the events, ms; -1: indefinitely")
    retention_bytes: int = Field(-1, ge=-1, description="how much of a partition stays, bytes; -1 without limit")


class RegistrySettings(SettingsSection):
    """Schema Registry (Confluent's API)."""

    url: str = Field("http://127.0.0.1:8081", description="base address of the Confluent-compatible API")
    converter_url: str | None = Field(None, description="address that Connect's Avro converter uses, where it differs")
    compatibility: Literal["BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FULL", "FULL_TRANSITIVE", "NONE"] = Field(
        "BACKWARD", description="compatibility that a new version must keep"
    )
