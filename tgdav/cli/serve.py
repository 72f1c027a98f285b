"""``tgdav serve``: the WebDAV server in the foreground, from the first run to the last flush."""

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from tgdav.cli.dispatch import commands
from tgdav.cli.exit_codes import ExitCode
from tgdav.cli.hosting import MountHost
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.memory import settle_memory
from tgdav.cli.metrics import metrics
from tgdav.cli.reports import for_control
from tgdav.cli.secrets import find_passphrase, make_key_file, passphrase, webdav_hashes, webdav_users
from tgdav.cli.service import notify
from tgdav.cli.session import open_volume
from tgdav.config import notices, opening, require_built
from tgdav.crypto.passphrase import Passphrase
from tgdav.errors import UsageError
from tgdav.volume.control import ControlServer
from tgdav.volume.local_state import vault_exists
from tgdav.volume.report import counters
from tgdav.volume.vault import create_vault
from tgdav.volume.volume import Volume
from tgdav.web import Credentials, Probes, WebOptions, WebServer
from tgdav_fuse.mount_table import prepare
from tgdav_fuse.options import MountOptions

_LOOK_SECONDS = 1.0


@click.command
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option("--mount", metavar="PATH", help="Mount the drive at PATH, an existing folder, too.")
@click.option("--no-auth", is_flag=True, help="Ask for no password; only on a loopback address.")
@global_options
@click.pass_obj
def serve(invocation: Invocation, *, host: str, port: int, mount: str | None, no_auth: bool) -> int:
    """Serve the drive over WebDAV until SIGTERM or SIGINT.

    Without a vault and without a store of your own in the configuration, a vault is made in the embedded store.
    """
    stop = threading.Event()
    with stopping_by_signals(stop):
        if mount is not None:
            prepare(mount)
        require_built(invocation.config, invocation.namespace)
        for line in notices(invocation.config):
            invocation.output.notice(line)
        _serve(invocation, _options(invocation, host, port), stop, mount, no_auth=no_auth)
    return ExitCode.DONE


def _options(invocation: Invocation, host: str, port: int) -> WebOptions:
    tls = invocation.config.webdav.tls
    if tls is None:
        return WebOptions(host=host, port=port)
    for file in (tls.certificate, tls.key):
        if not file.is_file():
            raise UsageError(f"webdav.tls names {file}, which is no file", hint="correct the configuration")
    return WebOptions(host=host, port=port, certificate=str(tls.certificate), key=str(tls.key))


def _serve(
    invocation: Invocation, options: WebOptions, stop: threading.Event, mount: str | None, *, no_auth: bool
) -> None:
    """Open, serve until ``stop``, and close in the reverse order, so that all that was answered is on disk."""
    seams = invocation.seams
    with ExitStack() as closing:
        volume = open_volume(invocation, _secret_for_serving(invocation))
        closing.callback(volume.close)
        credentials = None if no_auth else _credentials(invocation, volume)
        probes = Probes(
            metrics=lambda: metrics(volume.status(), counters(volume), web.traffic.counts()), status=volume.status
        )
        web = WebServer(volume.fs, options, credentials, seams.clock, seams.entropy, probes)
        mounts = MountHost(volume, stays=True)
        control = control_server(invocation, volume, mounts)
        control.start()
        closing.callback(control.stop)
        closing.callback(_unmount, mounts)
        if mount is not None:
            mounts.mount(mount, MountOptions())
        volume.start()
        port = _listen(web, options)
        closing.callback(web.stop)
        closing.callback(volume.hang_up_soon)
        closing.callback(_unmount, mounts)  # what is mounted reads from the store until nobody uses it any more
        _say_listening(invocation, options, port)
        settle_memory()
        notify(invocation.environment, "READY=1", f"STATUS=listening at port {port}")
        await_signal(stop)
        notify(invocation.environment, "STOPPING=1")


def _unmount(mounts: MountHost) -> None:
    mounts.finish(lambda line: click.echo(f"tgdav: {line}", err=True))


def _listen(web: WebServer, options: WebOptions) -> int:
    try:
        return web.start()
    except OSError as error:
        raise UsageError(
            f"{options.host} port {options.port} cannot be served: {error.strerror or error}",
            hint="choose another with --host and --port, or look at webdav.tls",
        ) from error


def _say_listening(invocation: Invocation, options: WebOptions, port: int) -> None:
    host = f"[{options.host.strip('[]')}]" if ":" in options.host else options.host
    url = f"http{'s' if options.certificate else ''}://{host}:{port}/"
    invocation.output.result({"listening": url}, [f"listening on {url}"])


def control_server(invocation: Invocation, volume: Volume, mounts: MountHost) -> ControlServer:
    """Return the server of the control socket, for the commands of ``volume`` and of its mount."""
    runtime = invocation.environment.get("XDG_RUNTIME_DIR")
    folders = [Path(runtime)] if runtime else []
    return ControlServer(
        invocation.places.control_note,
        [*folders, Path(tempfile.gettempdir()), Path("/tmp")],  # noqa: S108 - a fresh folder of 0700 is made there
        commands(volume, invocation.config, invocation.namespace) | mounts.commands(),
        for_control,
        invocation.seams.clock,
    )


def _secret_for_serving(invocation: Invocation) -> Passphrase:
    """Return what opens the vault; one is made first where there is neither a vault nor a store of the user's own."""
    if vault_exists(invocation.places.state):
        return passphrase(invocation)
    config = invocation.config
    if config.backend() != "directory" or config.storage.directory.path is not None:
        raise UsageError("there is no vault here", hint="run 'tgdav init', or 'tgdav init --join'")
    return _first_run(invocation)


def _first_run(invocation: Invocation) -> Passphrase:
    given = find_passphrase(invocation)
    key_file = invocation.bare_places.key_file
    secret = given or make_key_file(invocation)
    config = opening(invocation.config, invocation.namespace)
    create_vault(invocation.places, config, secret.text, seams=invocation.seams)
    notice = invocation.output.notice
    notice(f"a new vault is made in {invocation.places.store}")
    if key_file.exists():
        notice(f"the key file {key_file} opens it: keep a copy, or set a passphrase with 'tgdav passwd'")
    notice("'tgdav recovery-key' prints a recovery key, for the day when neither is at hand")
    return secret


def _credentials(invocation: Invocation, volume: Volume) -> Credentials:
    users = webdav_users(invocation, lambda: _own_password(invocation, volume))
    return Credentials(users, invocation.seams.entropy, webdav_hashes(invocation))


def _own_password(invocation: Invocation, volume: Volume) -> str:
    password, made = volume.webdav_password()
    if made:
        invocation.output.notice(f"WebDAV asks for user tgdav and password {password}")
        invocation.output.notice("'tgdav config show --secrets' shows it again; TGDAV_WEBDAV_PASSWORD sets another")
    return password


def await_signal(stop: threading.Event) -> None:
    """Return when ``stop`` is set; called in the main thread.

    Python handles signals in that thread alone, but the kernel may give one to another (so it does while a debugger holds
    the main thread), which does not wake this one: so it looks.
    """
    while not stop.wait(_LOOK_SECONDS):
        pass


@contextmanager
def stopping_by_signals(stop: threading.Event) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into ``stop``; a second SIGINT interrupts at once."""

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
