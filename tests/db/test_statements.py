import pytest
from sqlalchemy import bindparam, insert, select, update

from tgdav.db import Database
from tgdav.db.schema import settings
from tgdav.db.statements import compiled, numbered

_c = settings.c


def test_parameters_have_names_and_an_order() -> None:
    put = compiled(insert(settings))
    assert put == 'INSERT INTO settings ("key", value) VALUES (?1, ?2)'
    assert put.in_order({"value": b"v", "key": "k"}) == ("k", b"v")
    changed = compiled(update(settings).where(_c.key == bindparam("name")), ["value"])
    assert changed == 'UPDATE settings SET value=?1 WHERE settings."key" = ?2'


def test_a_name_given_twice_is_one_parameter() -> None:
    text = numbered("SELECT :b, :a, :b")
    assert (text, text.in_order({"a": 1, "b": 2})) == ("SELECT ?1, ?2, ?1", (2, 1))
    assert numbered("SELECT :only").in_order({"only": 3}) == (3,)
    assert numbered("SELECT 1").in_order({}) == ()


def test_a_name_that_is_not_given_is_refused(database: Database) -> None:
    look_up = compiled(select(_c.value).where(_c.key == bindparam("name")))
    with database.reading() as connection, pytest.raises(KeyError):
        connection.one(look_up, {"other": "x"})


def test_integers_become_literals_and_other_constants_are_refused() -> None:
    assert compiled(select(_c.value).limit(1)).endswith("LIMIT 1 OFFSET 0")
    with pytest.raises(ValueError, match="not an integer"):
        compiled(select(_c.value).where(_c.key == "a"))
