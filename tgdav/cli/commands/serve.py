"""``tgdav serve``: the WebDAV server in the foreground."""

import socket
import threading
from contextlib import ExitStack

import click

from tgdav.cli import process
from tgdav.cli.errors import ExitCode
from tgdav.cli.help import Number, command
from tgdav.cli.invocation import Invocation, global_options
from tgdav.cli.process import await_signal, freeze_objects, notify, stopping_by_signals
from tgdav.cli.secrets import find_passphrase, make_key_file, passphrase, warned_if_weak, webdav_hashes, webdav_users
from tgdav.cli.serving.address import bind_error, exposure_warning, reserve, short_password_warning, url_of, web_options
from tgdav.cli.serving.host import MountHost, ProcessInfo, control_server
from tgdav.cli.serving.metrics import metrics
from tgdav.cli.serving.mount_point import nonempty_warning, refuse_own_files, require_fuse
from tgdav.cli.session import no_vault, open_volume, refuse_running
from tgdav.config import notices, require_supported, select_namespace
from tgdav.crypto.passphrase import Passphrase
from tgdav.vault.state_dir import vault_exists
from tgdav.volume.initialize import create_vault
from tgdav.volume.report import counters, status
from tgdav.volume.volume import Volume
from tgdav.webdav import Credentials, Probes, WebOptions, WebServer
from tgdav.webdav.origin import check_loopback
from tgdav_fuse.mount_table import prepare
from tgdav_fuse.options import MountOptions


@command("serve", example="tgdav serve --port 9000 --mount ~/drive")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=Number(0, 65535), help="Port; 0: any free one.")
@click.option("--mount", metavar="PATH", help="Also mount the drive at PATH, an existing directory.")
@click.option("--no-auth", is_flag=True, help="Require no password; only on a loopback address.")
@global_options
@click.pass_obj
def serve(invocation: Invocation, *, host: str, port: int, mount: str | None, no_auth: bool) -> int:
    """Serve the drive over WebDAV until SIGTERM or SIGINT.

    Without a vault, and without a store in the configuration, a vault is created in the default directory store.
    """
    stop = threading.Event()
    with stopping_by_signals(stop):
        where = None if mount is None else prepare(mount)
        require_supported(invocation.config, invocation.namespace)
        options = web_options(host, port, invocation.config.webdav)
        if no_auth:
            check_loopback(host)
        _require_vault_or_place(invocation)
        refuse_running(invocation)
        if where is not None:
            require_fuse()
            refuse_own_files(invocation.paths, where)
        process.set_up_server_logging()
        with reserve(options) as reserved:
            hidden = None if where is None else nonempty_warning(where)
            for line in (*notices(invocation.config), exposure_warning(options), hidden):
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
    """Open, serve until ``stop`` is set, and close in reverse order, so that everything acknowledged is on disk.

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
        running = ProcessInfo(platform.clock, mounts)
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
        closing.callback(volume.disconnect_soon)
        closing.callback(_unmount, mounts)  # a mount reads from the store until its last user has gone
        running.address = url_of(options, port)
        invocation.output.result({"listening": running.address}, [f"listening on {running.address}"])
        freeze_objects()
        notify(invocation.environment, "READY=1", f"STATUS=listening at port {port}")
        await_signal(stop)
        notify(invocation.environment, "STOPPING=1")


def _unmount(mounts: MountHost) -> None:
    mounts.finish(lambda line: click.echo(f"tgdav: {line}", err=True))


def _listen(web: WebServer, options: WebOptions) -> int:
    try:
        return web.start()
    except OSError as error:
        raise bind_error(options, error) from error


def _require_vault_or_place(invocation: Invocation) -> None:
    """Raise UsageError if there is no vault, and none is created because the configuration names a store."""
    config = invocation.config
    if not vault_exists(invocation.paths.state) and (
        config.backend() != "directory" or config.storage.directory.path is not None
    ):
        raise no_vault(invocation)


def _secret_for_serving(invocation: Invocation) -> Passphrase:
    """Return the secret of the vault, which is created first if there is none."""
    return passphrase(invocation) if vault_exists(invocation.paths.state) else _first_run(invocation)


def _first_run(invocation: Invocation) -> Passphrase:
    given = find_passphrase(invocation)
    key_file = invocation.initial_paths.key_file
    secret = warned_if_weak(invocation, given) if given else make_key_file(invocation)
    config = select_namespace(invocation.config, invocation.namespace)
    create_vault(invocation.paths, config, secret.text, platform=invocation.platform)
    notice = invocation.output.notice
    notice(f"created a new vault in {invocation.paths.store}")
    if given is None:
        notice(f"the key file {key_file} opens it: keep a copy, or set a passphrase with 'tgdav passwd'")
    lost = "the key file is lost" if given is None else "the passphrase is forgotten"
    notice(f"'tgdav recovery-key' prints a recovery key, in case {lost}")
    return secret


def _credentials(invocation: Invocation, volume: Volume, options: WebOptions) -> Credentials:
    users = webdav_users(invocation, lambda: _own_password(invocation, volume))
    if line := short_password_warning(users, options):
        invocation.output.warn(line)
    return Credentials(users, invocation.platform.entropy, webdav_hashes(invocation))


def _own_password(invocation: Invocation, volume: Volume) -> str:
    password, made = volume.webdav_password()
    if made:
        invocation.output.notice(f"WebDAV asks for user tgdav and password {password}")
        invocation.output.notice("'tgdav config show --secrets' shows it again; TGDAV_WEBDAV_PASSWORD overrides it")
    return password
