"""Judges what a vault shows by the model; each assertion names the promise that is broken."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from tests.history.model import Deleted, Model, Node, Path
from tests.history.showing import Observed, Shown, Tree, Version
from tgdav.metadata.types import Kind


def judge(model: Model, seen: Observed, *, unchanged: bool, joined: bool = False) -> None:
    """Assert that a vault shows what the model says, and let the model know what the rules leave open.

    ``unchanged``: nothing was done since the last time but what changes nothing that is shown. ``joined``: by another machine.
    """
    if joined:
        _adopt_times(model, seen)
    _judge_live(model, seen.live, unchanged=unchanged)
    _judge_inodes(model, seen.inodes)
    _judge_snapshots(model, seen)
    _judge_versions(model, seen)
    _judge_trash(model, seen)
    model.live = seen.live


def _adopt_times(model: Model, seen: Observed) -> None:
    """Let directories have other times: what was made and deleted before it was sent moved them on the first machine alone."""
    for path, node in model.walk():
        if node.is_directory and path in seen.live:
            node.mtime = seen.live[path].mtime
    if model.live is not None:
        model.live = _with_times_of(model.live, seen.live)
    for pin in model.pins:
        if pin.tree is not None and pin.name in seen.snapshots:
            pin.tree = _with_times_of(pin.tree, seen.snapshots[pin.name])


def _with_times_of(tree: Tree, other: Tree) -> Tree:
    adopted = dict(tree)
    for path, shown in tree.items():
        there = other.get(path)
        if there is not None and shown.kind == there.kind == Kind.DIRECTORY:
            *others, _, btime = shown.rest
            adopted[path] = shown._replace(mtime=there.mtime, rest=(*others, there.rest[-2], btime))
    return adopted


def _judge_live(model: Model, live: Tree, *, unchanged: bool) -> None:
    expected = model.tree()
    known = {path: shown._replace(rest=()) for path, shown in live.items()}
    assert known == expected, f"live tree: {difference(known, expected)}"
    if unchanged and model.live is not None:
        assert live == model.live, f"live tree: attributes changed by themselves: {difference(live, model.live)}"


def _judge_inodes(model: Model, inodes: dict[Path, int]) -> None:
    for path, node in model.walk():
        known = model.inodes.setdefault(inodes[path], node)
        assert known is node, f"inodes: number {inodes[path]} names {path} now, and named another node before"


def _judge_snapshots(model: Model, seen: Observed) -> None:
    names = {pin.name for pin in model.pins}
    assert set(seen.snapshots) == names, f"snapshots: there are {sorted(seen.snapshots)}, not {sorted(names)}"
    for pin in model.pins:
        found = seen.snapshots[pin.name]
        if pin.tree is None:
            pin.tree = seen.live
        assert found == pin.tree, f"snapshots: {pin.name} reads otherwise: {difference(found, pin.tree)}"


# ---- versions --------------------------------------------------------------------------------------------------------


def _judge_versions(model: Model, seen: Observed) -> None:
    files = {path: node for path, node in model.walk() if node.is_file}
    touched: set[bytes] = set()
    pruned: set[bytes] = set()
    lost: dict[Path, set[bytes]] = {}
    for path, node in files.items():
        if node.must or node.may or node.is_written or node.is_too_long:
            touched.update(node.history())
        if node.must or node.may or node.is_too_long:
            lost[path] = _judge_touched(model, path, node, seen.versions[path])
            # What is pruned goes from the lists of all files that share it.
            if len(seen.versions[path]) >= model.max_versions:
                pruned |= {*node.must, *node.may, *lost[path]} - {each.content for each in seen.versions[path]}
    for path, gone in lost.items():
        assert gone <= pruned, f"versions: {path} has lost {_lengths(gone)}, with {len(seen.versions[path])}"
    for path, node in files.items():
        if not node.must and not node.may and not node.is_too_long:
            _judge_untouched(path, node, seen.versions[path], touched, pruned)
    for path, node in files.items():
        node.versions, node.must, node.may = seen.versions[path], [], []
        node.is_written = node.is_too_long = False


def _judge_touched(model: Model, path: Path, node: Node, found: list[Version]) -> set[bytes]:
    """Judge a file whose content was replaced; return the contents that are gone."""
    contents = {each.content for each in found}
    due = {*(each.content for each in node.versions), *node.must}
    more, lost = contents - due - {*node.may}, due - contents - {node.content}
    assert not more, f"versions: {path} has more than it had: {_lengths(more)}"
    assert len(found) <= max(model.max_versions, len(node.versions)), f"versions: {path} has {len(found)}, too many"
    if node.must:
        last = node.must[-1]
        assert last in contents, f"versions: the newest earlier content of {path} is gone: {_lengths([last])}"
    return lost


def _judge_untouched(path: Path, node: Node, found: list[Version], touched: set[bytes], pruned: set[bytes]) -> None:
    """Judge a file whose content is as it was. It may share earlier contents with a file that has changed."""
    before = [each for each in node.versions if each.content not in pruned]
    if touched.isdisjoint(each.content for each in node.versions):
        assert found == before, f"versions: those of {path} changed: {_brief(found)}, not {_brief(node.versions)}"
    else:
        what, expected = ({each.content for each in some} for some in (found, before))
        assert what >= expected, f"versions: those of {path} are fewer: {_brief(found)}, not {_brief(node.versions)}"


def _brief(found: list[Version]) -> list[tuple[int, bytes, int, bytes]]:
    return [(each.number, each.time, len(each.content), each.content[:4]) for each in found]


def _lengths(contents: Iterable[bytes]) -> list[tuple[int, bytes]]:
    return [(len(content), content[:4]) for content in contents]


# ---- trash -----------------------------------------------------------------------------------------------------------


def _judge_trash(model: Model, seen: Observed) -> None:
    _settle_open(model, seen)
    expected = [_listed(model, each) for each in reversed(model.trash)]
    found = [tuple(each) for each in seen.trash]
    assert found == expected, f"trash: it lists {found}, not {expected}"
    trees = [(_day(each.time), _plain(model.tree(each.node))) for each in model.trash]
    shown = [(day, _plain(tree)) for day, tree in seen.trees]
    for each in shown:
        assert each in trees, f"trash: {each[0]!r} shows what was not deleted: {each[1]}"
        trees.remove(each)
    assert not trees, f"trash: it does not show {trees}"


def _listed(model: Model, deleted: Deleted) -> tuple[bytes, bytes, int, int]:
    above, missing, name = model.target(deleted)
    nodes = {id(node): len(node.content) for _, node in model.walk(deleted.node) if node.is_file}
    path = (*above, *(each for each, _ in missing), name)
    return _text(model.former(deleted)), _text(path), deleted.time, sum(nodes.values())


def _settle_open(model: Model, seen: Observed) -> None:
    """Forget entries of which the rules leave open whether they are there, and which are not."""
    listed = Counter((each.former, each.deleted) for each in seen.trash)
    # Of several with one name and time, those that must be there are.
    for each in sorted(model.trash, key=lambda each: (each.is_open, -each.time)):
        key = _text(model.former(each)), each.time
        if listed[key]:
            listed[key] -= 1
        elif each.is_open:
            model.trash.remove(each)
        each.is_open = False


def _text(path: Path) -> bytes:
    return b"/" + b"/".join(path)


def _day(time: int) -> bytes:
    return datetime.fromtimestamp(time // 1_000_000_000, UTC).date().isoformat().encode()


def _plain(tree: Tree) -> Tree:
    """A tree without the numbers of links, as names outside the trash count, too, and without the times of directories."""
    return {
        path: shown._replace(links=0, rest=(), twin=(), mtime=0 if shown.kind == Kind.DIRECTORY else shown.mtime)
        for path, shown in tree.items()
    }


# ---- saying what differs ---------------------------------------------------------------------------------------------


def difference(found: Tree, expected: Tree) -> str:
    """The first few differences of two trees, in words."""
    parts = []
    for path in sorted({*found, *expected}):
        one, two = found.get(path), expected.get(path)
        if one is None or two is None:
            parts.append(f"{_text(path)!r} is {'missing' if one is None else 'there'}")
        elif one != two:
            names = [name for name in Shown._fields if getattr(one, name) != getattr(two, name)]
            values = [(name, _short(getattr(one, name)), _short(getattr(two, name))) for name in names]
            parts.append(f"{_text(path)!r} differs in {values}")
    return "; ".join(parts[:4])


def _short(value: object) -> object:
    return (len(value), value[:8]) if isinstance(value, bytes) else value
