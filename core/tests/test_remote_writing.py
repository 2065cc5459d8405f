"""What errors of a storage system become, without one."""

from __future__ import annotations

import errno

import pytest

from safetensors_core import InvalidInputError, RemoteError
from safetensors_core.remote_writing import connect, naming

URL = "s3://bucket/model.safetensors"


class ForeignError(Exception):
    """An error of the package that talks to a storage system."""


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (FileNotFoundError("no such bucket"), FileNotFoundError, "no such bucket"),
        (FileNotFoundError(errno.ENOENT, "no", "bucket"), FileNotFoundError, "no"),
        (PermissionError("Access Denied"), PermissionError, "Access Denied"),
        (PermissionError(errno.EPERM, "denied"), PermissionError, "denied"),
        (OSError(errno.EIO, "broken"), RemoteError, "writing failed: broken"),
        (ForeignError("SlowDown"), RemoteError, "writing failed: SlowDown"),
        (ForeignError(), RemoteError, "refused with ForeignError"),
        (NotImplementedError("no writing"), InvalidInputError, "no writing"),
    ],
)
def test_an_error_of_a_storage_system_becomes_one_that_names_the_url(
    raised: Exception, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught, naming(f"{URL}?X-Amz-Signature=01234"):
        raise raised
    assert URL in str(caught.value)
    assert "01234" not in str(caught.value)
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize("raised", [RemoteError("broken", URL), InvalidInputError("refused")])
def test_an_error_of_this_package_stays_as_it_is(raised: Exception) -> None:
    with pytest.raises(type(raised)) as caught, naming("s3://another"):
        raise raised
    assert caught.value is raised


def test_an_interruption_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), naming(URL):
        raise KeyboardInterrupt


@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS"])
def test_http_is_refused_before_anything_is_imported_for_it(scheme: str) -> None:
    with pytest.raises(InvalidInputError, match="over HTTP"):
        connect(f"{scheme}://me:secret@example.org/m", {})
