"""URIs whose secrets are not kept: completed from the environment when a run goes on."""

from __future__ import annotations

import os

from configs.errors import UserError
from configs.secrets import HIDDEN, hide, remember

TRACKING, STORAGE = "tracking.uri", "search.storage"
VARIABLES = {TRACKING: "MLFLOW_TRACKING_URI", STORAGE: "OPTUNA_STORAGE"}  # of MLflow and Optuna
ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")  # MLflow's; it sends them itself


def complete(uri: str, key: str = TRACKING) -> str:
    """Return a URI, with the secrets that are left out in it (``***``) from the environment.

    Args:
        key: Of the configuration; decides which variable may hold the whole URI.

    Raises:
        UserError: They are not there; the message says how to give them.
    """
    if HIDDEN not in uri:
        return uri
    variable = VARIABLES[key]
    whole = os.environ.get(variable, "")
    if HIDDEN not in whole and hide(whole) == uri:
        remember(whole)
        return whole
    bare = uri.replace(f"{HIDDEN}@", "")
    if key == TRACKING and HIDDEN not in bare and any(map(os.environ.get, ACCOUNT)):
        return bare
    account = f", or {' or '.join(ACCOUNT)}" if key == TRACKING else ""
    raise UserError(
        f"{key}: {uri}: user, password or token is not kept; give the URI again: --set {key}=URI, "
        f"or the environment variable {variable}{account}"
    )
