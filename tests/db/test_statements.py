import pytest
from sqlalchemy import bindparam, insert, select, update

from tgdav.db.schema import settings
from tgdav.db.statements import compiled

_c = settings.c


def test_parameters_keep_their_names() -> None:
    assert compiled(insert(settings)) == 'INSERT INTO settings ("key", value) VALUES (:key, :value)'
    text = compiled(update(settings).where(_c.key == bindparam("name")), ["value"])
    assert text == 'UPDATE settings SET value=:value WHERE settings."key" = :name'


def test_integers_become_literals_and_other_constants_are_refused() -> None:
    assert compiled(select(_c.value).limit(1)).endswith("LIMIT 1 OFFSET 0")
    with pytest.raises(ValueError, match="no integer"):
        compiled(select(_c.value).where(_c.key == "a"))
