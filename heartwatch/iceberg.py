"""The Iceberg catalog of the sink's tables: in Postgres, its files in S3, shared with Connect's Iceberg sink."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from psycopg2 import sql
from pyarrow.fs import FileSystem, S3FileSystem
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO

from heartwatch.postgres import execute, tls_options
from heartwatch.settings import PostgresSettings, S3Settings

CATALOG = "iceberg"
"""Name of the catalog: rows of its tables carry it, so that it must equal ``iceberg.catalog`` of the sink's connectors."""

_CA_FILE = "s3.tls-ca-file"
_FILE_IO = "heartwatch.iceberg.S3FileIO"


def open_catalog(postgres: PostgresSettings, s3: S3Settings) -> SqlCatalog:
    """Open the catalog; its schema and tables in Postgres are made when they aren't there.

    Raises:
        heartwatch.postgres.PostgresError: Postgres could not be asked.
    """
    execute(postgres, sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(s3.catalog_schema)))
    password = quote(postgres.password.get_secret_value(), safe="")
    address = f"{postgres.host}:{postgres.port}/{postgres.database}"
    uri = f"postgresql+psycopg2://{postgres.user}:{password}@{address}?options=-csearch_path%3D{s3.catalog_schema}"
    uri += f"&{urlencode(tls_options(postgres))}"
    return SqlCatalog(CATALOG, uri=uri, warehouse=f"s3://{s3.bucket}/{s3.warehouse}", **file_properties(s3))


class S3FileIO(PyArrowFileIO):
    """pyiceberg's file system, with an authority of the server's own: pyiceberg (0.12) doesn't hand Arrow that option on."""

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        if _CA_FILE not in self.properties:
            return super()._initialize_s3_fs(netloc)
        names = {
            "region": "s3.region",
            "endpoint_override": "s3.endpoint",
            "access_key": "s3.access-key-id",
            "secret_key": "s3.secret-access-key",
            "tls_ca_file_path": _CA_FILE,
        }
        options = {name: self.properties[given] for name, given in names.items() if given in self.properties}
        virtual = self.properties["s3.force-virtual-addressing"] == "True"
        return S3FileSystem(force_virtual_addressing=virtual, **options)


def open_files(s3: S3Settings) -> FileSystem:
    """Return the S3 server's objects as Arrow reads and writes them; paths begin with a bucket."""
    return S3FileIO(file_properties(s3)).fs_by_scheme("s3", s3.bucket)


def file_properties(s3: S3Settings) -> dict[str, str]:
    """Return where the S3 server is and with which keys, as pyiceberg's file systems take it."""
    properties = {"s3.region": s3.region, "s3.force-virtual-addressing": str(not s3.path_style), "py-io-impl": _FILE_IO}
    if s3.ca_file:
        properties[_CA_FILE] = str(s3.ca_file)
    if s3.endpoint:
        properties["s3.endpoint"] = s3.endpoint
    if s3.access_key_id.get_secret_value():
        properties["s3.access-key-id"] = s3.access_key_id.get_secret_value()
        properties["s3.secret-access-key"] = s3.secret_access_key.get_secret_value()
    return properties
