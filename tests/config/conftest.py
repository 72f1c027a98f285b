from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tgdav.config import LoadedConfig, load
from tgdav.errors import ConfigError

Read = Callable[..., LoadedConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes a configuration file and loads it."""

    def _read(text: str | bytes, environment: Mapping[str, str] | None = None) -> LoadedConfig:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, environment or {})

    return _read


@pytest.fixture
def problems(read: Read) -> Callable[..., dict[str, tuple[str, str]]]:
    """Loads what must be refused; returns key -> (found, allowed)."""

    def _problems(text: str | bytes, environment: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
        with pytest.raises(ConfigError) as caught:
            read(text, environment)
        assert all(problem.keys() == {"file", "key", "found", "allowed"} for problem in caught.value.problems)
        assert all(problem["file"].endswith("config.yaml") for problem in caught.value.problems)
        assert len(str(caught.value).splitlines()) == len(caught.value.problems)
        return {problem["key"]: (problem["found"], problem["allowed"]) for problem in caught.value.problems}

    return _problems
