"""Keys: shown once, kept as hashes, revoked, and compared so that nothing can be learnt from the time it takes."""

import hashlib
import hmac
import re
import time
from pathlib import Path

import pytest

from anyecg_ray import keys
from anyecg_ray.cli import main
from anyecg_ray.config import InputError
from anyecg_ray.http_problems import Problem
from anyecg_ray.keys import Gate, from_text


def line(secret: str, name: str = "a", revoked: bool = False) -> str:
    return f"{name}:sha256:{hashlib.sha256(secret.encode()).hexdigest()}" + (":revoked" if revoked else "")


def refused(gate: Gate, secret: str | None) -> tuple[int, str]:
    with pytest.raises(Problem) as raised:
        gate.admit(secret)
    return raised.value.status, raised.value.code


def test_a_key_that_was_made_opens_and_its_file_does_not_hold_it(tmp_path, capsys):
    file = tmp_path / "keys"
    assert main(["keys", "add", "--name", "clinic", "--file", str(file)]) == 0
    (secret,) = re.findall(r"anyecg_\S+", capsys.readouterr().out)
    assert len(secret) > 45
    assert secret not in file.read_text()
    assert file.read_text() == line(secret, "clinic") + "\n"
    assert Gate(str(file)).admit(secret) == "clinic"


def test_two_keys_are_never_the_same():
    assert len({keys.made("a")[0] for _ in range(100)}) == 100


def test_revoking_keeps_the_others(tmp_path, capsys):
    file = str(tmp_path / "keys")
    secrets = []
    for name in ("one", "two"):
        main(["keys", "add", "--name", name, "--file", file])
        secrets += re.findall(r"anyecg_\S+", capsys.readouterr().out)
    assert main(["keys", "revoke", "--name", "one", "--file", file]) == 0
    gate = Gate(file)
    assert refused(gate, secrets[0]) == (403, "revoked_key")
    assert gate.admit(secrets[1]) == "two"
    capsys.readouterr()
    assert main(["keys", "list", "--file", file]) == 0
    assert [row.split() for row in capsys.readouterr().out.splitlines()] == [["one", "revoked"], ["two", "active"]]
    assert main(["keys", "revoke", "--name", "one", "--file", file]) == 2


@pytest.mark.parametrize("name", ["", "a b", "Jane:Doe", "x" * 65, "a\nb", "é"])
def test_a_name_that_would_spoil_the_file_is_refused(tmp_path, name):
    assert main(["keys", "add", "--name", name, "--file", str(tmp_path / "keys")]) == 2
    assert not (tmp_path / "keys").exists()


def test_without_a_file_the_line_for_the_environment_is_printed(capsys, monkeypatch):
    assert main(["keys", "add", "--name", "clinic"]) == 0
    out = capsys.readouterr().out
    (secret,) = re.findall(r"anyecg_\S+", out)
    (given,) = re.findall(r"ANYECG_API_KEYS=(\S+)", out)
    monkeypatch.setenv("ANYECG_API_KEYS", given)
    assert Gate(None, keys.from_environment()).admit(secret) == "clinic"


def test_the_environment_and_the_file_both_count(tmp_path):
    file = tmp_path / "keys"
    file.write_text(line("f", "file") + "  # whose it is\n\n")
    gate = Gate(str(file), f"{line('e', 'one')}, {line('g', 'two')}\n")
    assert [gate.admit(s) for s in ("e", "f", "g")] == ["one", "file", "two"]


@pytest.mark.parametrize("text", ["secret", "a:sha256:12", "a:md5:" + "0" * 64, "a:sha256:" + "0" * 64 + ":gone"])
def test_a_line_that_is_none_is_told_without_showing_it(text):
    with pytest.raises(InputError, match="key 1 is not NAME:sha256:HEX") as raised:
        from_text(text, "file")
    assert text not in str(raised.value)


@pytest.mark.parametrize("text", ["", line("a", revoked=True), "# nothing\n"])
def test_a_server_without_an_active_key_does_not_start(tmp_path, text):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InputError, match="holds no active key"):
        Gate(str(file))
    with pytest.raises(InputError, match="holds no active key"):
        Gate(None, text)


@pytest.mark.parametrize(
    ("secret", "expected"),
    [(None, (401, "no_key")), ("", (401, "wrong_key")), ("b", (401, "wrong_key")), ("a ", (401, "wrong_key")),
     ("A", (401, "wrong_key")), ("\udcff", (401, "wrong_key")), ("x" * 100_000, (401, "wrong_key"))],
)  # fmt: skip
def test_a_wrong_key_is_refused(secret, expected):
    assert refused(Gate(None, line("a")), secret) == expected


def test_every_key_is_compared_in_constant_time_whichever_is_right(monkeypatch):
    """What an attacker could measure is the number of comparisons, and how far each goes."""
    compared = []

    def compare(a, b):
        compared.append((a, b))
        return hmac_compare(a, b)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    gate = Gate(None, " ".join(line(s, s) for s in "abcde"))
    counts = []
    for secret in ("a", "e", "wrong"):
        compared.clear()
        try:
            gate.admit(secret)
        except Problem:
            pass
        counts.append(len(compared))
        assert all(len(a) == len(b) == 32 for a, b in compared)
    assert counts == [5, 5, 5]


def test_a_file_is_read_again_and_a_spoilt_one_lets_nobody_in(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(line("a"))
    gate = Gate(str(file), line("always", "env"))
    assert not gate.stale()
    monkeypatch.setattr(keys, "FRESH_S", 0.0)
    time.sleep(0.001)
    assert gate.stale()
    for text, expected in ((line("b"), (401, "wrong_key")), ("spoilt", (401, "wrong_key"))):
        file.write_text(text)
        gate.refresh()
        assert refused(gate, "a") == expected
        assert gate.admit("always") == "env"
    Path(file).unlink()
    gate.refresh()
    assert refused(gate, "b") == (401, "wrong_key")


def test_a_storage_that_fails_for_a_moment_changes_nothing(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(line("a"))
    gate = Gate(str(file))

    def fails(uri):
        raise keys.storage.TransientError(f"{uri}: 503")

    monkeypatch.setattr(keys.storage, "read_bytes", fails)
    gate.refresh()
    assert gate.admit("a") == "a"
