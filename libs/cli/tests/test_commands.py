"""The commands as a shell sees them: help, exit codes, and failures told without a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import jwt
import pytest
import typer
from typer.testing import CliRunner, Result

from penguin_cli import contract, surroundings
from penguin_cli.app import MODULES, build
from penguin_cli.failures import described, exit_code, first_of
from penguin_cli.logfiles import Followed, last_lines
from penguin_cli.surroundings import CommandError, nearest_root
from penguin_devstack.issuer import Issuer
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError, Refusal, SendError

TENANT = str(uuid4())


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(
        build(), ["--root", str(root), *words], env={"PENGUIN_TOKEN_URL": "", "PENGUIN_TENANT": ""}
    )


@pytest.mark.parametrize(
    "words",
    [
        [], ["up"], ["status"], ["logs"], ["down"], ["env"], ["token"], ["demo"], ["drill"], ["send"], ["import-mail"], ["trace"],
        ["why"], ["tenant", "create"], ["tenant", "list"], ["mailbox", "create"], ["leads", "import"],
        ["leads", "import-report"],
        ["template", "create"], ["campaign", "create"], ["campaign", "launch"], ["campaign", "report"], ["etl", "run"],
        *(["queue", name] for name in ("list", "put", "move", "pause", "resume", "pauses", "weight", "weights", "top")),
        ["queue", "stats"], ["queue", "jobs"], ["queue", "job"], ["queue", "cancel"], ["queue", "redrive"],
        ["queue", "purge"], ["queue", "priority"], ["queue", "enqueue"],
        *(["schedule", name] for name in ("list", "get", "put", "delete", "run", "pause", "resume", "next")),
        ["reconcile"], ["reconcile", "list"], ["reconcile", "show"],
        ["tenant", "close"], *(["campaign", name] for name in ("pause", "resume", "cancel")),
        *(["saga", name] for name in ("list", "show", "retry", "skip")),
        *(["subject", name] for name in ("erase", "export", "exports", "hold", "holds", "release")),
        *(["erasure", name] for name in ("list", "show", "verify", "replay", "recover", "key")),
        ["restore", "mark"], ["restore", "status"],
    ],
)  # fmt: skip
def test_every_command_explains_itself(tmp_path: Path, words: list[str]) -> None:
    result = run(tmp_path, *words, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status"], 3, "penguin up"),
        (["down"], 0, "nothing was running"),
        (["logs"], 1, "no logs"),
        (["env"], 3, "never been up"),
        (["env", "--workload", "nobody"], 2, "no workload"),
        (["token", "oltp", "-t", TENANT], 3, "never been up"),
        (["tenant", "create", "x"], 3, "penguin up"),
        (["send", "-t", TENANT, "--from", "a@a.example", "--to", "b@b.example", "--subject", "s"], 1, "--text"),
        (["send", "-t", TENANT], 2, "Missing option"),
        (["campaign", "report", "x", "-t", TENANT], 3, "penguin up"),
        (["leads", "import", "-t", TENANT], 2, "--resume"),
        (["leads", "import", "x.csv", "--resume", TENANT, "-t", TENANT], 2, "--resume"),
        (["leads", "import", "x.csv", "-t", TENANT], 2, "--list"),
        (["leads", "import", "x.csv", "--list", "l", "--map", "email", "-t", TENANT], 2, "COLUMN=FIELD"),
        (["leads", "import", "there-is-none.csv", "--list", "l", "-t", TENANT], 2, "no such file"),
        (["leads", "import", "--resume", "x", "-t", TENANT], 2, "no saga's id"),
        (["leads", "import-report", "x", "-t", TENANT], 2, "no saga's id"),
        (["leads", "import-report", TENANT, "-t", TENANT], 3, "penguin up"),
        (["why", "x", "-t", TENANT], 3, "penguin up"),
        (["queue", "stats", "-t", TENANT], 3, "penguin up"),
        (["queue", "redrive", "-t", TENANT], 2, "name dead letters"),
        (["queue", "redrive", "7", "--all", "-t", TENANT], 2, "name dead letters"),
        (["queue", "purge", "leased", "-t", TENANT], 2, "leased"),
        (["queue", "priority", "urgent", "7", "-t", TENANT], 2, "urgent"),
        (["queue", "cancel", "0", "-t", TENANT], 2, "greater than"),
        (["queue", "cancel", str(2**63), "-t", TENANT], 2, "less than"),
        (["queue", "cancel", "-t", TENANT], 2, "Missing argument"),
        (["trace", "nonsense"], 2, "no email's id"),
        (["queue", "pause"], 2, "name a queue"),
        (["queue", "pause", "-q", "x", "-k", "y"], 2, "name a queue"),
        (["queue", "put", "x", "--priority", "urgent"], 2, "urgent"),
        (["queue", "put", "x", "--rate", "ten"], 2, "ten is no rate"),
        (["queue", "weight", TENANT, "10001"], 2, "10000"),
        (["queue", "top"], 3, "penguin up"),
        (["drill", "--rows", "nothing"], 2, "no row is called nothing"),
        (["schedule", "list", "-t", TENANT], 3, "penguin up"),
        (["schedule", "put", "x", "* * * * *", "-t", TENANT], 2, "--kind"),
        (["schedule", "put", "x", "* * * * *", "-k", "k", "--missed", "never", "-t", TENANT], 2, "never"),
        (["schedule", "next", "x", "-n", "21", "-t", TENANT], 2, "--count"),
        (["trace", str(uuid4()), "--wait", "0"], 1, "no trace of email"),
        (["demo", "--emails", "0"], 2, "emails"),
        (["subject", "erase", "a@b.example", "--yes", "-t", TENANT], 3, "penguin up"),
        (["subject", "hold", "--reason", "r", "-t", TENANT], 2, "--address"),
        (["subject", "export", "-o", "-", "-t", TENANT], 2, "--resume"),
        (["subject", "export", "a@b.example", "--resume", TENANT, "-o", "-", "-t", TENANT], 2, "--resume"),
        (["subject", "export", "--now", "--resume", TENANT, "-o", "-", "-t", TENANT], 2, "--resume"),
        (["erasure", "list"], 3, "penguin up"),
        (["restore", "mark", "redis"], 2, "redis"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    result = run(tmp_path / "never-up", *words)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


def test_every_whole_number_has_an_upper_bound() -> None:
    """A larger one than its field of the message holds would end in a traceback."""

    def leaves(command: Any) -> Iterator[Any]:
        if not hasattr(command, "list_commands"):
            yield command
            return
        for name in command.list_commands(None):
            yield from leaves(command.get_command(None, name))

    numbers = {
        f"{leaf.name} {param.name}": param.max
        for leaf in leaves(typer.main.get_command(build()))
        for param in leaf.params
        if re.search(r"\bint\b", str(param.type_descriptor.annotation))
    }
    assert len(numbers) > 20
    assert [where for where, most in numbers.items() if most is None] == []


def test_tokens_are_what_their_words_say(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "issuer")

    def claims(*words: str) -> dict[str, object]:
        result = run(tmp_path, "token", *words)
        assert result.exit_code == 0, result.output
        keys = jwt.PyJWKSet.from_json(issuer.jwks_path.read_text())
        token = result.stdout.strip()
        key = keys[jwt.get_unverified_header(token)["kid"]].key
        decoded: dict[str, object] = jwt.decode(token, key, algorithms=["EdDSA"], audience=words[0])
        return decoded

    whole = claims("content", "-t", TENANT)
    assert (whole["tenant"], whole["platform"]) == (TENANT, False)
    assert str(whole["scope"]).split() == [
        "contents.read", "contents.write", "holds.manage", "holds.read", "subjects.erase", "subjects.read", "tier.read",
    ]  # fmt: skip
    assert claims("content", "-t", TENANT, "--scope", "contents.read")["scope"] == "contents.read"
    platform = claims("oltp", "--platform", "--method", "penguin.oltp.v1.TenantService/ListTenants")
    assert (platform["methods"], platform["scope"]) == (["/penguin.oltp.v1.TenantService/ListTenants"], "tenants.read")
    for wrong in (
        ["oltp"], ["web", "-t", TENANT], ["oltp", "--platform"], ["oltp", "-t", "x"],
        ["oltp", "-t", TENANT, "--method", "a/b"], ["oltp", "--platform", "--method", "a/b"],
    ):  # fmt: skip
        assert run(tmp_path, "token", *wrong).exit_code == 2


def test_logs_of_one_and_of_all(tmp_path: Path) -> None:
    for name in ("oltp", "queue"):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / f"{name}.log").write_text("".join(f"{name} {n}\n" for n in range(50)))
    assert run(tmp_path, "logs", "oltp", "-n", "2").output.splitlines() == ["oltp 48", "oltp 49"]
    both = run(tmp_path, "logs", "-n", "1").output.splitlines()
    assert [line.split() for line in both] == [["oltp", "oltp", "49"], ["queue", "queue", "49"]]
    assert "there are oltp, queue" in run(tmp_path, "logs", "nobody").output


def test_a_followed_log_gives_whole_lines_once_and_survives_being_emptied(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert last_lines(log, 5) == []
    log.write_text("one\ntwo\n")
    followed = Followed(log, 1)
    assert followed.new_lines() == ["two"]
    with log.open("a") as file:
        file.write("three\nfo")
        file.flush()
        assert followed.new_lines() == ["three"]
        file.write("ur\n")
    assert followed.new_lines() == ["four"]
    log.write_text("new\n")
    assert followed.new_lines() == ["new"]
    log.write_text("x" * 200_000 + "\nlast\n")
    assert [len(line) for line in last_lines(log, 2)] == [200_000, 4]


def test_a_refusal_is_told_with_tier_status_reason_and_field() -> None:
    error = TierError(
        "oltp", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "Must be [an] address.", field="email",
        metadata={"resource": "lead"}, retry_after_s=2,
    )  # fmt: skip
    text = described(error)
    for words in ("oltp refused", "INVALID_ARGUMENT", "INVALID_FIELD", "email", "lead", "2 s", "\\[an]"):
        assert words in text
    assert exit_code(error) == 1
    assert exit_code(TierError("oltp", grpc.StatusCode.UNAVAILABLE, "UNREACHABLE", "")) == 3
    assert "RECIPIENT_SUPPRESSED" in described(SendError(Refusal(9, "RECIPIENT_SUPPRESSED", "It is suppressed.")))


def test_an_unknown_outcome_says_how_to_ask_again() -> None:
    ids = tuple(uuid4() for _ in range(5))
    text = described(OutcomeUnknownError(ids, TierError("oltp", grpc.StatusCode.UNAVAILABLE, "UNREACHABLE", "")))
    assert f"--request-id {ids[0]}" in text
    assert "and 2 more" in text


def test_the_first_of_several_failures_is_told_and_a_defect_is_not_hidden() -> None:
    error = CommandError("no")
    assert first_of(ExceptionGroup("tasks", [ExceptionGroup("more", [error])])) is error

    async def defect() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        surroundings.act(defect())


def test_the_nearest_root_is_that_of_the_repository(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    assert nearest_root(deep) == tmp_path / ".local"
    (tmp_path / "a" / ".local").mkdir()
    assert nearest_root(deep) == tmp_path / "a" / ".local"


def test_every_module_of_the_registry_adds_its_commands() -> None:
    group = typer.main.get_group(build())
    context = typer.Context(group)
    assert [name for name in MODULES if group.get_command(context, name) is None] == []


def test_contracts_know_their_methods() -> None:
    assert all(method.scope for tier in contract.TIERS for method in contract.methods(tier))
    assert contract.find("queue", "penguin.queue.v1.QueueService/LeaseJobs") is not None
    assert contract.find("queue", "penguin.queue.v1.QueueService/Nothing") is None
    assert contract.tenant_scopes("olap") == [
        "facts.read", "facts.write", "holds.manage", "holds.read", "reports.read", "subjects.erase", "subjects.read",
        "tier.read",
    ]  # fmt: skip
