import json

import pytest

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        ("cache: {max_sze_gb: 1}", "cache.max_sze_gb", "a known key: did you mean 'max_size_gb'?"),
        ("cahce: {}", "cahce", "a known key: did you mean 'cache'?"),
        ("storage: {backend: s3}", "storage.backend", "one of directory, telegram"),
        ("telegram: {max_concurrent_uploads: 0}", "telegram.max_concurrent_uploads", "a whole number from 1 to 64"),
        ("telegram: {max_concurrent_uploads: 2.5}", "telegram.max_concurrent_uploads", "a whole number from 1 to 64"),
        ("telegram: {max_concurrent_uploads: true}", "telegram.max_concurrent_uploads", "a whole number from 1 to 64"),
        ("telegram: {max_concurrent_uploads: '3'}", "telegram.max_concurrent_uploads", "a whole number from 1 to 64"),
        ("telegram: {peer: you}", "telegram.peer", "-100"),
        ("telegram: {peer: 12}", "telegram.peer", "-100"),
        ("telegram: {proxy: 'socks5://nohost'}", "telegram.proxy", "URL"),
        ("telegram: {proxy: 'http://[::1'}", "telegram.proxy", "URL"),
        ("telegram: {test_server: {port: 1}}", "telegram.test_server.address", "text"),
        ("encryption: {argon2_memory_kib: 999}", "encryption.argon2_memory_kib", "from 1024 to 1048576"),
        ("encryption: {argon2_memory_kib: 2000000}", "encryption.argon2_memory_kib", "from 1024 to 1048576"),
        ("chunk: {chunk_size: 1048576, average_size: 2097152}", "chunk.average_size", "at most chunk.chunk_size"),
        ("chunk: {compression_enabled: yes}", "chunk.compression_enabled", "true or false"),
        ("cache: {max_size_gb: -1}", "cache.max_size_gb", "above 0"),
        ("cache: {max_size_gb: 1e999}", "cache.max_size_gb", "above 0"),
        ("cache: {max_size_gb: .nan}", "cache.max_size_gb", "above 0"),
        ("cache: 10", "cache", "a mapping with the keys enabled"),
        ("cache: {path: ~/x}", "cache.path", "HOME is not set"),
        ("machine: {id: 12345678-1234-1234-1234-12345678901z}", "machine.id", "a UUID"),
        ("machine: {name: ''}", "machine.name", "1 to 128 characters"),
        ("trash: {retention_days: -1}", "trash.retention_days", "from 0"),
        ("snapshots: {schedule: sometimes}", "snapshots.schedule", "daily"),
        ("webdav: {tls: {certificate: a}}", "webdav.tls.key", "a path"),
        ("webdav: {trusted_proxies: [10.0.0.1/8]}", "webdav.trusted_proxies[0]", "addresses or networks"),
        ("webdav: {trusted_proxies: proxy}", "webdav.trusted_proxies", "addresses or networks"),
        ("webdav: {users: [{name: 'a:b', password: x}]}", "webdav.users[0].name", "without :"),
        ("webdav: {users: [{name: a, password: x}, {name: a, password: y}]}", "webdav.users[1].name", "once"),
        ("webdav: {users: [{name: a, password: $argon2id$bad}]}", "webdav.users[0].password", "$argon2id$"),
        *(
            (f"webdav: {{public_url: '{bad}'}}", "webdav.public_url", "an http or https URL")
            for bad in (
                "drive.example",
                "ftp://drive.example/",
                "https:///x",
                "https://me:secret@drive.example/",
                "https://drive.example/?q",
                "https://drive.example/#f",
                "https://drive.example:x/",
                "https://[::1/",
                "https://drive.example/a/../b",
                "https://drive.example/%2E%2E/b",
                "https://drive.example/a%2Fb",
                "https://drive.example/%zz",
                "https://drive.example/%ff",
                "https://drive.example/a b",
                "https://dr\u00efve.example/",
            )
        ),
        *(
            (f"webdav: {{users: [{{name: a, password: '{bad}'}}]}}", "webdav.users[0].password", "m at most 1048576")
            for bad in (
                "$argon2id$v=19$m=1048577,t=3,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=65536,t=17,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=65536,t=3,p=17$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=31,t=3,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=65536,t=0,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=16$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2i$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=65536,t=3,p=4$c29t$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHR$c29tZWhhc2hzb21laGFzaA",
                "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZQ",
                "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA,x",
            )
        ),
        ("distribution: {mode: alone}", "distribution.mode", "one of standalone, master-replica, distributed"),
        ("namespaces: {name: a}", "namespaces", "a list"),
        ("namespaces: [{name: a}, {name: a}]", "namespaces[1].name", "each name once"),
        ("namespaces: [{name: a, mount_point: /m}, {name: b, mount_point: /m}]", "namespaces[1].mount_point", "once"),
        ("namespaces: [{name: a/b}]", "namespaces[0].name", "without /"),
        ("namespaces: [{name: a, access: [{machine: m, permissions: [read, exec]}]}]",
         "namespaces[0].access[0].permissions[1]", "one of read, write, delete, admin"),
        ("namespaces: [{name: a, access: [{machine: m}]}]", "namespaces[0].access[0].permissions", "one of read"),
        ("version: 3", "version", "2, or 1"),
        ("version: true", "version", "2, or 1"),
        ("- 1", "(top level)", "sections"),
        ("cache:\n  path: a\n  path: b", "cache.path", "each key once"),
        ('{"cache": {"max_size": 1, "max_size": 2}}', "cache.max_size", "each key once"),
        ('{"cache": {"max_size": 0}}', "cache.max_size", "from 1"),
        ('{"cache": {"max_size_gb": 1}}', "cache.max_size_gb", "did you mean 'max_size'?"),
        ("a: {b\nc: d", "line 2, column 2", "YAML"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "one document"),
        ("a: !!python/object/apply:os.system ['true']", "line 1, column 4", "no tags"),
        ("? [a]\n: b", "line 1, column 3", "strings as keys"),
        ("a: &a [*a]", "line 1, column 8", "anchor"),
        ("a: \x01", "character 3", "printable"),
        ('a: "\\0"', "a", "without NUL"),
        ('{"a": "\\ud800"}', "a", "without NUL"),
        ("machine: {name: '${NOWHERE}'}", "machine.name", "${NAME}"),
        ("machine: {name: '${'}", "machine.name", "$${"),
        ("machine: {name: '${A-B}'}", "machine.name", "$${"),
    ],
)  # fmt: skip
def test_refused_with_its_key_and_what_is_allowed(problems, text, key, allowed):
    found = problems(text)
    assert key in found
    assert allowed in found[key][1]


def test_all_problems_are_reported_together(problems):
    found = problems("cache: {prefetch_count: many}\nfoo: 1\nmachine: {name: '${NOWHERE}'}\ntrash: 5")
    assert found.keys() == {"cache.prefetch_count", "foo", "machine.name", "trash"}
    assert found["cache.prefetch_count"][0] == "'many'"
    assert found["machine.name"][0] == "'${NOWHERE}'"


def test_an_environment_value_is_never_shown_nor_searched_again(problems, read):
    assert SECRET not in str(problems("telegram: {peer: '${P}'}", {"P": SECRET}))
    assert read("machine: {name: '${A}'}", {"A": "${B}"}).config.machine.name == "${B}"
    assert "machine.name" in problems("machine: {name: '${A}'}", {"A": "a\udc80"})
    assert "telegram.api_id" in problems("telegram: {api_id: '${A}'}", {"A": ""})


@pytest.mark.parametrize(
    "text",
    [
        "telegram: {api_hash: [@]}",
        "telegram: {api_hash: '@ with spaces'}",
        "telegram: {api_hash: '@${NOWHERE}'}",
        "telegram: '@'",
        "telegram: {proxy: 'gopher://me:@@host:1'}",
        "telegram: {proxy: {type: http, password: ['@']}}",
        "webdav: {users: {tgdav: '@'}}",
        "webdav: {users: ['tgdav:@']}",
        "webdav: {users: [{name: a, password: '$argon2@'}]}",
        "webdav: {users: [{name: a, password: *@}]}",
        "webdav: {users: [{name: a, password: !@ x}]}",
        "webdav: {users: [{name: a, password: !@!y x}]}",
        "webdav: {password: '@'}",
        "webdav:\n  users:\n    - name: a\n      password: '@",
        "webdav: {users: [{name: a, password: @ : : }}",
        '{"telegram": {"api_hash": "@\n"}}',
    ],
)
def test_a_secret_is_never_shown(problems, text):
    assert SECRET not in str(problems(text.replace("@", SECRET)))


def test_an_api_hash_given_as_api_id_is_not_shown(problems):
    swapped = "0123456789abcdef0123456789abcdef"
    assert swapped not in str(problems(f"telegram: {{api_id: {swapped}x, api_hash: 5}}").get("telegram.api_hash"))
    assert swapped not in str(problems(f"telegram: {{api_id: '{swapped}'}}"))


MIB = ("(file)", "more than 1 MiB")
DEEP = ("(file)", "more than 24 levels")
MANY = ("(file)", "more than 10000 values")
DIGITS = ("(file)", "a number with thousands of digits")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"\xff\xfe", ("byte 0", "a byte that is not UTF-8"), id="not-utf8"),
        pytest.param(b"[" * 100_000, DEEP, id="deep-yaml"),
        pytest.param(b'{"a":' * 100_000, DEEP, id="deep-json"),
        pytest.param(b"- " * 5000, DEEP, id="deep-block"),
        pytest.param(b"a: b\n" * 300_000, MIB, id="large"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", DIGITS, id="digits-json"),
        pytest.param(b"a: " + b"1" * 5000, ("a", "the key 'a'"), id="digits"),
        pytest.param(json.dumps({"namespaces": [{"name": str(n)} for n in range(20_000)]}).encode(), MANY, id="many"),
        pytest.param(
            b"a: &a [1,1,1,1,1,1,1,1,1]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(ord("b"), ord("k"))
            ),
            MANY,
            id="bomb",
        ),
        pytest.param(b"a: &a [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\nb: [[[[[[[[[[*a]]]]]]]]]]", DEEP, id="deep-alias"),
    ],
)
def test_a_hostile_file_is_refused_for_what_is_wrong_with_it(problems, data, problem):
    assert problem in {key: found for key, (found, _) in problems(data).items()}.items()
