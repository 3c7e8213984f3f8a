"""How a request proves who it is: a header, held until the server says no, then fetched anew once."""

from __future__ import annotations

import codecs
import os
import subprocess
from pathlib import Path

from evctl.errors import NotAllowedError
from evctl.profile import AuthSettings

COMMAND_TIMEOUT_S = 20.0
IN_CLUSTER_TOKENS = (
    "/var/run/secrets/kubeflow/pipelines/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
)
"""A token projected for KFP's audience is preferred to the service account's own."""

BY_KUBERNETES = (
    "in the profile, kubeflow: {auth: {kind: token, token_command: "
    "[kubectl, create, token, default-editor, --audience, pipelines.kubeflow.org]}}"
)
"""A login that a Kubeflow which keeps its users apart takes from whoever may ask Kubernetes for one."""


class Auth:
    """A login as the profile describes it. No value is ever in an error.

    Args:
        context: the kubeconfig's context, for `kind: kubeconfig`.
    """

    def __init__(self, settings: AuthSettings, *, context: str | None = None) -> None:
        self.settings, self.context = settings, context
        self._value: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers of a request. NotAllowedError when the login cannot be had."""
        if self.settings.kind == "none":
            return {}
        if self._value is None:
            self._value = self._fetch()
        if self.settings.kind == "cookie":
            return {"Cookie": self._value}
        return {"Authorization": f"Bearer {self._value}"}

    def renew(self) -> bool:
        """Fetch the login anew; whether trying again makes sense."""
        if self.settings.kind == "none":
            return False
        self._value = self._fetch()
        # a variable of this process does not change; a file, a command and a plugin may
        return bool(self.settings.token_command or self.settings.token_file) or self.settings.kind in (
            "kubeconfig",
            "in_cluster",
        )

    def what_to_do(self) -> str:
        """Return the hint for a login that is not accepted."""
        settings = self.settings
        if settings.kind == "none":
            return f"{BY_KUBERNETES}; or another kind (cookie, kubeconfig, in_cluster)"
        if settings.kind in ("kubeconfig", "in_cluster"):
            return "kubectl auth whoami shows who you are to the cluster"
        if settings.token_command:
            return f"run {settings.token_command[0]} by hand: does it still log in?"
        if settings.token_file:
            return f"renew the login in {settings.token_file}"
        return f"export a fresh {settings.token_env or 'login'}"

    def _fetch(self) -> str:
        raw = self._read().strip().removeprefix(codecs.BOM_UTF8).strip()
        if not raw:
            raise NotAllowedError("the login of kubeflow.auth is empty", hint=self.what_to_do())
        if all(32 < byte < 127 or byte in b" \r\n" for byte in raw):
            if b"\n" not in raw and b"\r" not in raw:
                return raw.decode("ascii")
            raise NotAllowedError("the login of kubeflow.auth has more than one line", hint=self.what_to_do())
        raise NotAllowedError(
            "the login of kubeflow.auth has characters other than ASCII's visible ones: kept as UTF-16, or pasted with "
            "a sign of an editor's?",
            hint=self.what_to_do(),
        )

    def _read(self) -> bytes:
        settings = self.settings
        if settings.kind == "kubeconfig":
            return os.fsencode(_kubeconfig_token(self.context))
        if settings.kind == "in_cluster":
            return _first_file([os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or "", *IN_CLUSTER_TOKENS])
        if settings.token_command:
            return _command(settings.token_command)
        if settings.token_file:
            return _first_file([str(Path(settings.token_file).expanduser())])
        if settings.token_env:
            if settings.token_env not in os.environ:
                raise NotAllowedError(f"{settings.token_env} is not set", hint=f"export {settings.token_env}=...")
            return os.fsencode(os.environ[settings.token_env])
        raise NotAllowedError(
            f"kubeflow.auth.kind is {settings.kind} and says nowhere where it is",
            hint="set token_env, token_file or token_command beside it",
        )


def _command(command: tuple[str, ...]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True)
    except FileNotFoundError as error:
        raise NotAllowedError(
            f"the login command {command[0]} is not installed",
            hint="install it, or set another under kubeflow.auth in the profile",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NotAllowedError(
            f"the login command {command[0]} gave nothing in {COMMAND_TIMEOUT_S:g} s",
            hint="run it by hand: does it ask for something?",
        ) from error
    except (subprocess.CalledProcessError, OSError) as error:
        # its own words may hold a secret
        code = getattr(error, "returncode", "?")
        raise NotAllowedError(f"the login command {command[0]} failed (exit {code})", hint="run it by hand") from error
    return done.stdout


def _first_file(paths: list[str]) -> bytes:
    for path in filter(None, paths):
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NotAllowedError(
                f"the login file {path} cannot be read: {error.strerror}",
                hint="is it readable for this user? kubeflow.auth in the profile names another",
            ) from error
    raise NotAllowedError(
        f"there is no login file {' or '.join(filter(None, paths))}",
        hint="log in again with what writes it, or name another under kubeflow.auth in the profile",
    )


def _kubeconfig_token(context: str | None) -> str:
    from evctl.kube_login import connect_kubernetes

    headers: dict[str, str] = {}
    connect_kubernetes(context).client.update_params_for_auth(headers, [], ["BearerToken"])
    value = headers.get("authorization") or headers.get("Authorization") or ""
    if not value:
        raise NotAllowedError(
            "the kubeconfig logs in without a token, which Kubeflow Pipelines cannot take",
            hint=BY_KUBERNETES,
        )
    return value.removeprefix("Bearer ")
