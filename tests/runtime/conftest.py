"""A bucket that lies on this machine.

The stand-in is gcp-storage-emulator: every object goes over HTTP by the three clients that a run
uses (gcsfs under etils.epath, TensorStore and google-cloud-storage under orbax). It heeds no
preconditions on generations; a single writer needs none.
"""

import os
import socket
from unittest import mock

import pytest
from etils import epath
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import objects as handlers


def download_with_generation(request, response, storage, *_, download=handlers.download):
    """The emulator leaves out the header by which TensorStore knows what it writes over."""
    download(request, response, storage)
    if response.status in (200, 206):
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]


@pytest.fixture(scope="package")  # gcsfs reads the address once, when it is imported
def bucket():
    """A bucket of a server on this machine, which all clients find by the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    variables = {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs and google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": address,
        # No one is asked for credentials, and no metadata server of a cloud is looked for.
        "FSSPEC_GCS_TOKEN": "anon",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore
        "NO_GCE_CHECK": "true",
        # gcsfs would ask storage.googleapis.com, by gRPC, of what type the bucket is.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    download = mock.patch.object(handlers, "download", download_with_generation)
    with server, download, mock.patch.dict(os.environ, variables):
        import gcsfs

        # fsspec has read the environment already.
        with mock.patch.dict("fsspec.config.conf", {"gcs": {"token": "anon"}}):
            gcsfs.GCSFileSystem.clear_instance_cache()
            yield epath.Path("gs://bucket")
            gcsfs.GCSFileSystem.clear_instance_cache()
