"""The demo and the commands around it, as a shell runs them, on one whole local stack."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penguin_cli import session
from penguin_cli.app import build
from penguin_devstack import orphans
from penguin_devstack.guardian import guarded_directory
from penguin_devstack.spool import read_messages

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

LIMIT_S = 240
EMAILS = 50


class Shell:
    """`penguin` in a folder of its own: as a process, or, where that makes no difference, within this one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def process(self, *words: str, code: int = 0) -> str:
        """Run a command; its standard output. Fails unless it ends with `code`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENGUIN_")}
        done = subprocess.run(
            [sys.executable, "-m", "penguin_cli", "--root", str(self.root), *words],
            env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command here; its standard output, and where it should fail also what it says."""
        with pytest.MonkeyPatch.context() as patch:
            # A process has one tracer provider, and this one is pytest's.
            patch.setattr(session, "telemetry", lambda settings: contextlib.nullcontext())
            done = CliRunner().invoke(
                build(), ["--root", str(self.root), *words], env={"PENGUIN_TOKEN_URL": "", "PENGUIN_TENANT": ""}
            )
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done.stdout if code == 0 else done.output

    def summary(self) -> Any:
        """What the last demo wrote."""
        return json.loads((self.root / "demo" / "summary.json").read_text())


@pytest.fixture(scope="module")
def penguin() -> Iterator[Shell]:
    """A stack that a first demo has brought up and kept."""
    with guarded_directory("penguin-demo-") as folder:
        shell = Shell(folder / "local")
        try:
            shell.process("demo", "--emails", str(EMAILS), "--keep")
            yield shell
        finally:
            shell.process("down")
            assert orphans.marked(shell.root) == []


def test_the_demo_holds_all_its_checks_and_says_what_it_measured(penguin: Shell) -> None:
    summary = penguin.summary()
    assert summary["ok"], summary["problems"]
    assert len(summary["checks"]) >= 16
    assert set(summary["checks"].values()) == {True}
    figures = summary["figures"]
    assert (figures["delivered"], figures["recipients"], figures["created"]) == (EMAILS, EMAILS, EMAILS)
    assert figures["repeated_events"] > 0
    for name in ("stack_up_s", "launch_s", "delivered_s", "total_s", "emails_per_s"):
        assert figures[name] > 0, name


def test_a_second_demo_works_on_the_running_stack_and_leaves_it_up(penguin: Shell) -> None:
    first = penguin.summary()["ids"]
    printed = penguin.process("demo", "--emails", "5", "--seed", "2")
    second = penguin.summary()
    assert second["ok"]
    assert second["ids"]["tenant_a"] != first["tenant_a"]
    assert "the stack was up" in printed
    status = penguin("status")
    assert status.startswith("ready")
    assert status.count(" up ") >= 5


def test_one_email_from_sending_to_its_trace(penguin: Shell) -> None:
    tenant = penguin("tenant", "create", "Ann & Co").strip()
    assert "Ann & Co" in penguin("tenant", "list")
    named = ("-t", "Ann & Co")
    words = ("--from", "ann@ann.example", "--to", "bo@bo.example", "--subject", "Hej", "--html", "<p>hej</p>")
    email = penguin.process("send", *named, *words, "--attach", __file__, "--wait", "30").strip()
    why = penguin("why", email, *named)
    for said in ("sent at", "claimed", "completed", "received once"):
        assert said in why
    trace = penguin("trace", email, "--wait", "10")
    for process in ("cli send_emails", "content", "oltp", "relay", "queue", "worker"):
        assert process in trace
    # The same request is the same email.
    again = (*words, "--request-id", "0195d7f0-0000-4000-8000-000000000001")
    assert penguin("send", *named, *again) == penguin("send", *named, *again)
    received = [m for m in read_messages(penguin.root / "smtp") if m.sender == "ann@ann.example"]
    assert len(received) <= 2
    unknown = penguin("why", "0195d7f0-0000-7000-8000-000000000009", "-t", tenant, code=1)
    assert "never accepted" in unknown
    refused = penguin("send", *named, *words[:2], "--to", "nobody", *words[4:], code=1)
    assert "INVALID_FIELD" in refused


def test_a_campaign_by_hand(penguin: Shell, tmp_path: Path) -> None:
    tenant = penguin("tenant", "create", "By hand").strip()
    leads = tmp_path / "leads.csv"
    leads.write_text("email,first_name,colour\nann@c.example,Ann,red\nno address,Bo,blue\ncy@c.example,Cy,\n")
    text = tmp_path / "body.txt"
    text.write_text("Hello {{ first_name }}, {{ colour|default('grey', true) }} suits you.")
    refused = penguin("leads", "import", str(leads), "-t", tenant, "--list", "few", code=1)
    assert "2 created" in refused
    assert "line 3" in refused
    assert "0 created, 2 existed" in penguin("leads", "import", str(leads), "-t", tenant, "--list", "few", code=1)
    penguin("mailbox", "create", "me@hand.example", "-t", tenant, "--name", "Me")
    penguin("template", "create", "short", "-t", tenant, "--subject", "For {{ first_name }}", "--text", str(text))
    penguin("template", "create", "bad", "-t", tenant, "--subject", "{% for x in y %}", "--text", str(text), code=1)
    create = ("campaign", "create", "Hand", "-t", tenant, "--list", "few", "--mailbox", "me@hand.example")
    assert "there is no template 'long'" in penguin(*create, "--template", "long", code=1)
    campaign = penguin(*create, "--template", "short").strip()
    assert "2 emails created" in penguin("campaign", "launch", campaign, "-t", tenant)
    penguin("etl", "run", "-t", tenant)
    report = penguin("campaign", "report", campaign, "-t", tenant)
    assert "Hand" in report
    assert "data through" in report
    sagas = penguin("saga", "list", "-t", tenant)
    for kind in ("tenant.onboard/1", "campaign.launch/1"):
        assert kind in sagas
    launch = next(line.split()[0] for line in sagas.splitlines() if "campaign.launch/1" in line)
    shown = penguin("saga", "show", launch, "-t", tenant)
    for step in ("plan", "start", "send", "seal"):
        assert step in shown
    assert "STATE_CONFLICT" in penguin("saga", "retry", launch, "-t", tenant, "--reason", "why not", code=1)
    penguin("tenant", "close", tenant)
    words = ("--from", "me@hand.example", "--to", "dy@c.example", "--subject", "s", "--text", "t")
    assert "TENANT_CLOSED" in penguin("send", "-t", tenant, *words, code=1)
    assert "Hand" in penguin("campaign", "report", campaign, "-t", tenant)


def test_mail_is_imported_once_and_malformed_mail_is_listed(penguin: Shell, tmp_path: Path) -> None:
    tenant = penguin("tenant", "create", "Inbox").strip()
    for number in range(3):
        message = EmailMessage()
        message["From"], message["Subject"], message["Message-ID"] = (
            "a@a.example",
            f"n {number}",
            f"<{number}@a.example>",
        )
        message.set_content("text")
        (tmp_path / f"{number}.eml").write_bytes(message.as_bytes())
    (tmp_path / "odd.eml").write_bytes(b"Subject: odd\r\nDate: never\r\nnot a header\r\n\r\nbody")
    (tmp_path / "empty.eml").write_bytes(b"")
    command = ("import-mail", str(tmp_path), "-t", tenant, "--mailbox", "me@inbox.example")
    first = penguin(*command)
    assert "4  imported" in first
    assert "malformed odd.eml" in first.replace(f"{tmp_path}/", "")
    assert "left out" in first
    assert "empty" in first
    assert "4  were there already" in penguin(*command)


def test_environment_and_tokens_work_outside_the_stack(penguin: Shell) -> None:
    exported = penguin("env")
    assert "export OLTP_ADDR=127.0.0.1:" in exported
    token = penguin("token", "oltp", "--platform", "--method", "penguin.oltp.v1.TenantService/ListTenants").strip()
    assert token.count(".") == 2
    assert penguin("logs", "oltp", "-n", "3")
