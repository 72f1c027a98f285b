"""``tgdav serve``: the WebDAV server in the foreground, from the first run to the last flush."""

import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from tgdav.cli import logs
from tgdav.cli.dispatch import commands
from tgdav.cli.exit_codes import ExitCode
from tgdav.cli.help import Number, command
from tgdav.cli.hosting import MountHost, Running
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.listening import address, exposure, options_for, refusal, reserve, short_passwords
from tgdav.cli.memory import settle_memory
from tgdav.cli.metrics import metrics
from tgdav.cli.mount import hides, own_files, require_fuse
from tgdav.cli.reports import for_control
from tgdav.cli.secrets import find_passphrase, judged, make_key_file, passphrase, webdav_hashes, webdav_users
from tgdav.cli.service import notify
from tgdav.cli.session import no_vault, open_volume, refuse_running
from tgdav.config import notices, require_supported, select_namespace
from tgdav.crypto.passphrase import Passphrase
from tgdav.vault.state_dir import vault_exists
from tgdav.volume.control import ControlServer
from tgdav.volume.initialize import create_vault
from tgdav.volume.report import counters, status
from tgdav.volume.volume import Volume
from tgdav.webdav import Credentials, Probes, WebOptions, WebServer
from tgdav.webdav.origin import check_loopback
from tgdav_fuse.mount_table import prepare
from tgdav_fuse.options import MountOptions

_LOOK_SECONDS = 1.0


@command("serve", example="tgdav serve --port 9000 --mount ~/drive")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=Number(0, 65535), help="Port; 0: any free one.")
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
        where = None if mount is None else prepare(mount)
        require_supported(invocation.config, invocation.namespace)
        options = options_for(host, port, invocation.config.webdav)
        if no_auth:
            check_loopback(host)
        _require_vault_or_place(invocation)
        refuse_running(invocation)
        if where is not None:
            require_fuse()
            own_files(invocation.paths, where)
        logs.set_up_server()
        with reserve(options) as reserved:
            hidden = None if where is None else hides(where)
            for line in (*notices(invocation.config), exposure(options), hidden):
                if line is not None:
                    invocation.output.warn(line)
            _serve(invocation, options, reserved, stop, mount, no_auth=no_auth)
    return ExitCode.DONE


def _serve(
    invocation: Invocation,
    options: WebOptions,
    reserved: socket.socket,
    stop: threading.Event,
    mount: str | None,
    *,
    no_auth: bool,
) -> None:
    """Open, serve until ``stop``, and close in the reverse order, so that all that was answered is on disk.

    ``reserved`` keeps the address until the server binds it.
    """
    platform = invocation.platform
    with ExitStack() as closing:
        volume = open_volume(invocation, _secret_for_serving(invocation))
        closing.callback(volume.close)
        credentials = None if no_auth else _credentials(invocation, volume, options)
        probes = Probes(
            metrics=lambda: metrics(status(volume), counters(volume), web.traffic.counts()),
            status=lambda: status(volume),
        )
        web = WebServer(volume.fs, options, credentials, platform.clock, platform.entropy, probes)
        mounts = MountHost(volume, stays=True)
        running = Running(platform.clock, mounts)
        control = control_server(invocation, volume, running)
        control.start()
        closing.callback(control.stop)
        closing.callback(_unmount, mounts)
        if mount is not None:
            mounts.mount(mount, MountOptions())
        volume.start()
        reserved.close()
        port = _listen(web, options)
        closing.callback(web.stop)
        closing.callback(volume.hang_up_soon)
        closing.callback(_unmount, mounts)  # what is mounted reads from the store until nobody uses it any more
        running.address = address(options, port)
        invocation.output.result({"listening": running.address}, [f"listening on {running.address}"])
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
        raise refusal(options, error) from error


def control_server(invocation: Invocation, volume: Volume, running: Running) -> ControlServer:
    """Return the server of the control socket, for the commands of ``volume``, of its mount and of this process."""
    runtime = invocation.environment.get("XDG_RUNTIME_DIR")
    folders = [Path(runtime)] if runtime else []
    return ControlServer(
        invocation.paths.control_file,
        [*folders, Path(tempfile.gettempdir()), Path("/tmp")],  # noqa: S108 - a fresh folder of 0700 is made there
        commands(volume, invocation.config, invocation.namespace) | running.commands(),
        for_control,
        invocation.platform.clock,
    )


def _require_vault_or_place(invocation: Invocation) -> None:
    """Raise UsageError where there is no vault and none is made, because the configuration names a store."""
    config = invocation.config
    if not vault_exists(invocation.paths.state) and (
        config.backend() != "directory" or config.storage.directory.path is not None
    ):
        raise no_vault(invocation)


def _secret_for_serving(invocation: Invocation) -> Passphrase:
    """Return what opens the vault; one is made first where there is none."""
    return passphrase(invocation) if vault_exists(invocation.paths.state) else _first_run(invocation)


def _first_run(invocation: Invocation) -> Passphrase:
    given = find_passphrase(invocation)
    key_file = invocation.initial_paths.key_file
    secret = judged(invocation, given) if given else make_key_file(invocation)
    config = select_namespace(invocation.config, invocation.namespace)
    create_vault(invocation.paths, config, secret.text, platform=invocation.platform)
    notice = invocation.output.notice
    notice(f"a new vault is made in {invocation.paths.store}")
    if given is None:
        notice(f"the key file {key_file} opens it: keep a copy, or set a passphrase with 'tgdav passwd'")
    lost = "the key file is lost" if given is None else "the passphrase is forgotten"
    notice(f"'tgdav recovery-key' prints a recovery key, for the day when {lost}")
    return secret


def _credentials(invocation: Invocation, volume: Volume, options: WebOptions) -> Credentials:
    users = webdav_users(invocation, lambda: _own_password(invocation, volume))
    if line := short_passwords(users, options):
        invocation.output.warn(line)
    return Credentials(users, invocation.platform.entropy, webdav_hashes(invocation))


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
    """Turn SIGTERM and SIGINT into ``stop``; a second signal of a kind interrupts at once (KeyboardInterrupt)."""

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
