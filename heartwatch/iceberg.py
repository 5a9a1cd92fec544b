"""The Iceberg catalog of the sink's tables: in Postgres, its files in S3, shared with Connect's Iceberg sink."""

from __future__ import annotations

from urllib.parse import quote

from psycopg2 import sql
from pyiceberg.catalog.sql import SqlCatalog

from heartwatch.postgres import execute
from heartwatch.settings import PostgresSettings, S3Settings

CATALOG = "iceberg"
"""Name of the catalog: rows of its tables carry it, so that it must equal ``iceberg.catalog`` of the sink's connectors."""


def open_catalog(postgres: PostgresSettings, s3: S3Settings) -> SqlCatalog:
    """Open the catalog; its schema and tables in Postgres are made when they aren't there.

    Raises:
        heartwatch.postgres.PostgresError: Postgres could not be asked.
    """
    execute(postgres, sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(s3.catalog_schema)))
    password = quote(postgres.password.get_secret_value(), safe="")
    address = f"{postgres.host}:{postgres.port}/{postgres.database}"
    uri = f"postgresql+psycopg2://{postgres.user}:{password}@{address}?options=-csearch_path%3D{s3.catalog_schema}"
    return SqlCatalog(CATALOG, uri=uri, warehouse=f"s3://{s3.bucket}/{s3.warehouse}", **file_properties(s3))


def file_properties(s3: S3Settings) -> dict[str, str]:
    """Return where the S3 server is and with which keys, as pyiceberg's file systems take it."""
    properties = {"s3.region": s3.region, "s3.force-virtual-addressing": str(not s3.path_style)}
    if s3.endpoint:
        properties["s3.endpoint"] = s3.endpoint
    if s3.access_key_id.get_secret_value():
        properties["s3.access-key-id"] = s3.access_key_id.get_secret_value()
        properties["s3.secret-access-key"] = s3.secret_access_key.get_secret_value()
    return properties
