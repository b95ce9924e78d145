"""Open tables of Delta Lake and Iceberg, through the libraries deltalake and pyiceberg, which are optional.

An address is `iceberg://CATALOG/NAMESPACE.TABLE`, with a catalog that pyiceberg's configuration names, or the
folder of a Delta table, which holds `_delta_log`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import PipelineError, UsageError, one_line
from pipeline.file_systems import is_local, locate, resolved
from pipeline.retry import is_transient

_DELTA_LOG = "_delta_log"
_ICEBERG = "iceberg://"


def is_iceberg(address: str) -> bool:
    """Whether an address is that of an Iceberg table."""
    return address.startswith(_ICEBERG)


def is_delta(address: str) -> bool:
    """Whether a path or address is the folder of a Delta table.

    Raises:
        OSError: the folder cannot be listed.
    """
    fs, name = locate(address)
    return bool(fs.isdir(f"{name}/{_DELTA_LOG}"))


def open_delta(address: str, version: int | None = None) -> Any:
    """The Delta table in a folder."""
    from deltalake import DeltaTable

    return DeltaTable(delta_uri(address), version=version, storage_options=storage_options(address))


def delta_uri(address: str) -> str:
    """The address of a folder as deltalake takes it."""
    return resolved(address) if is_local(address) else address.replace("s3a://", "s3://").rstrip("/")


def storage_options(address: str) -> dict[str, str] | None:
    """The endpoint and credentials of a store, from the environment and the files of the AWS libraries."""
    if is_local(address):
        return None
    import botocore.session

    session = botocore.session.get_session()
    options: dict[str, str] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options |= {"AWS_ENDPOINT_URL": endpoint}
        options |= {"AWS_ALLOW_HTTP": "true"} if endpoint.startswith("http://") else {}
    if region := session.get_config_variable("region"):
        options["AWS_REGION"] = region
    if (credentials := session.get_credentials()) is not None:
        frozen = credentials.get_frozen_credentials()
        options |= {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
        options |= {"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {}
    return options


def open_iceberg(address: str) -> tuple[Any, str]:
    """The catalog of an Iceberg table, and the table's name in it.

    Raises:
        UsageError: the address has another form.
    """
    from pyiceberg.catalog import load_catalog

    catalog, separator, name = address.removeprefix(_ICEBERG).partition("/")
    if not (catalog and separator and "." in name):
        raise UsageError(f"{address} is no table; write iceberg://CATALOG/NAMESPACE.TABLE.")
    return load_catalog(catalog), name


@contextmanager
def table_errors(address: str) -> Iterator[None]:
    """Raise the errors of the libraries as those of this package.

    Raises:
        UsageError: the library is not installed, or the table cannot be used.
        PipelineError: the table cannot be reached now.
    """
    extra, package = ("iceberg", "pyiceberg") if is_iceberg(address) else ("delta", "deltalake")
    try:
        yield
    except PipelineError:
        raise
    except ImportError as error:
        raise UsageError(
            f"the table {address} needs {package} ({one_line(error)}): pip install 'led-corpus[{extra}]'."
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        if is_transient(error):
            raise PipelineError(
                f"the table {address} cannot be reached now ({reason}); rerun the same command to resume."
            ) from error
        raise UsageError(f"the table {address} cannot be used ({reason}).") from error
