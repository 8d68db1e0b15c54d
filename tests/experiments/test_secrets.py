"""Users, passwords and tokens of URIs: nowhere in what is written, shown or raised."""

from __future__ import annotations

import http.server
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from anything import quick
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spaces import space_values

from configs import UserError
from configs.secrets import hide, redact, remember
from experiments import cli
from experiments.settings import load_config
from experiments.tracking.credentials import complete
from experiments.tracking.tracker import Tracker
from experiments.tracking.uploader import upload
from experiments.workspace import Workspace, open_tracker
from search.study import stored_studies

USER, PASSWORD = "us3rx", "s3cr3tx"
NASTY = [
    "",
    "@",
    "/",
    " ",
    "?",
    "#",
    ":",
    "%",
    "//",
    "'",
    '"',
    "\\",
    "=",
    "&",
    "é",
    "[",
    "{",
    "://",
]
ENDS = st.sampled_from(NASTY)


@st.composite
def uris(draw: st.DrawFn) -> str:
    """URIs with a user, a password or a token in any position."""
    scheme = draw(st.sampled_from(["http", "https", "postgresql", "mysql+pymysql"]))
    user, password = (f"{draw(ENDS)}{name}{draw(ENDS)}" for name in (USER, PASSWORD))
    if draw(st.booleans()):
        password = quote(password, safe="")
    key = draw(st.sampled_from(["token", "password", "api_key", "sslpassword", "whatever"]))
    return draw(
        st.sampled_from(
            [
                f"{scheme}://{user}:{password}@127.0.0.1:9/db",
                f"{scheme}://{password}@127.0.0.1:9/db",
                f"{scheme}://:{password}@127.0.0.1:9/db",
                f"{scheme}://127.0.0.1:9/db?{key}={password}",
                f"{scheme}://{user}:x@127.0.0.1:9/db?timeout=1&{key}={password}",
                f"{scheme}://127.0.0.1:9/db?{password}",
            ]
        )
    )


def config_file(folder: Path, uri: str, key: str = "tracking.uri") -> Path:
    section, name = key.split(".")
    values = {"name": "tiny", "device": "cpu", "space": space_values(candidates=("conv3", "skip")),
              section: {name: uri}}  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True))
    file.chmod(0o600)
    return file


def holds_secret(text: str | bytes) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return PASSWORD.encode() in data or USER.encode() in data


@settings(quick, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(uri=uris(), key=st.sampled_from(["tracking.uri", "search.storage"]))
def test_no_secret_is_kept_tracked_logged_or_raised(
    tmp_path_factory, caplog, capsys, uri: str, key: str
) -> None:
    folder = tmp_path_factory.mktemp("secret")
    workspace = Workspace(folder / "run")
    caplog.set_level(logging.DEBUG)
    config = load_config(config_file(folder, uri, key))
    assert (config.tracking.uri if key == "tracking.uri" else config.search.storage) == uri
    workspace.keep(config)
    assert stat.S_IMODE(workspace.config.stat().st_mode) == 0o600
    told = []
    if key == "tracking.uri":
        open_tracker(config, workspace).finish(timeout=0.05)
        for attempt in (
            lambda: upload(workspace.directory, uri),
            lambda: load_config(workspace.config),
        ):
            with pytest.raises(UserError) as refused:
                attempt()
            told.append(str(refused.value))
    else:
        for opened in (uri, uri.replace("127", "\t127")):
            with pytest.raises(UserError) as refused:
                stored_studies(opened)
            told.append(str(refused.value))
    with pytest.raises(UserError) as refused:
        load_config(config_file(folder, uri, key), [f"{key}=[{uri}, '"])
    told.append(str(refused.value))
    (folder / "tiny.yaml").unlink()
    for file in filter(Path.is_file, folder.rglob("*")):
        assert not holds_secret(file.read_bytes()), file
    for text in [*told, caplog.text, *capsys.readouterr()]:
        assert not holds_secret(text), text
    caplog.clear()


@quick
@given(uri=uris())
def test_hiding_is_done_once_and_leaves_the_host(uri: str) -> None:
    hidden = hide(uri)
    assert hide(hidden) == hidden and not holds_secret(hidden)
    assert "127.0.0.1:9/db" in hidden or hidden.endswith("://***")
    remember(uri)
    assert not holds_secret(redact(f"Could not connect to {uri}"))


@pytest.mark.parametrize(
    "uri",
    ["", "http://host:5000", "sqlite:////home/a@b/x.db", "postgresql://db/x?sslmode=require"],
)
def test_what_holds_no_secret_stays(uri: str) -> None:
    assert hide(uri) == uri


def test_libraries_do_not_log_or_raise_it(caplog) -> None:
    remember(f"postgresql://{USER}:{PASSWORD}@db/x")
    try:
        raise RuntimeError(f"login {PASSWORD} refused")
    except RuntimeError:
        logging.getLogger("somebody.elses").exception("as %s", PASSWORD)
    assert "as ***" in caplog.text and not holds_secret(caplog.text)
    assert not holds_secret(str(UserError(f'password authentication failed for user "{USER}"')))


def test_a_run_resumes_with_the_secret_given_again(tmp_path, monkeypatch) -> None:
    uri = f"http://{USER}:{PASSWORD}@127.0.0.1:9"
    workspace = Workspace(tmp_path)
    (folder := tmp_path / "own").mkdir()
    workspace.keep(load_config(config_file(folder, uri)))
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with pytest.raises(UserError, match=r"--set tracking\.uri=URI.+MLFLOW_TRACKING_URI"):
        load_config(workspace.config)
    assert load_config(workspace.config, [f"tracking.uri={uri}"]).tracking.uri == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other@127.0.0.1:10")
    with pytest.raises(UserError):
        load_config(workspace.config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert load_config(workspace.config).tracking.uri == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    assert load_config(workspace.config).tracking.uri == "http://127.0.0.1:9"
    storage = f"postgresql://{USER}:{PASSWORD}@db/x"
    monkeypatch.setenv("OPTUNA_STORAGE", storage)
    assert complete("postgresql://***@db/x", "search.storage") == storage


class Server(http.server.BaseHTTPRequestHandler):
    """Answers nothing, and notes who asks."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_error(403)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_mlflow_sends_the_account_of_the_environment(tmp_path, monkeypatch) -> None:
    import base64

    Server.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        uri = f"http://127.0.0.1:{server.server_port}"
        Tracker(
            tmp_path, uri=uri, experiment="e", run_name="r", tags={}, params={}
        ).finish(timeout=20)  # fmt: skip
        server.shutdown()
    account = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert f"Basic {account}" in Server.seen
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert not holds_secret(file.read_bytes())


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_the_command_shows_none_of_it(tmp_path, debug: list[str]) -> None:
    config_file(tmp_path, "")
    uri = f"postgresql://{USER}:a/@ {PASSWORD}@127.0.0.1:9/db"
    done = subprocess.run(
        [sys.executable, "-m", "evolute", *debug, "train", "tiny.yaml",
         "--set", f"search.storage={uri}", "--set", "train.epochs=1", "--set", "data.limit=200",
         "--set", f"tracking.uri=http://{USER}:{PASSWORD}@127.0.0.1:9"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cannot be reached" in done.stderr and not holds_secret(done.stdout + done.stderr)
    searched = subprocess.run(
        [sys.executable, "-m", "evolute", *debug, "search", "tiny.yaml", "--set",
         f"search.storage={uri}", "--set", "train.epochs=1", "--set", "data.limit=200"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )  # fmt: skip
    assert searched.returncode == 2 and "storage" in searched.stderr
    assert not holds_secret(searched.stdout + searched.stderr)
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert not holds_secret(file.read_bytes()), file


def test_a_readable_file_with_a_password_is_warned_of(tmp_path, caplog) -> None:
    file = config_file(tmp_path, f"http://{USER}:{PASSWORD}@127.0.0.1:9")
    load_config(file)
    assert "chmod" not in caplog.text
    file.chmod(0o644)
    load_config(file)
    assert f"chmod 600 {file}" in caplog.text and not holds_secret(caplog.text)
