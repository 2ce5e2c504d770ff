"""What somebody sees who calls the tiers by hand: `buf curl` with reflection against real servers, and the README's examples
as they are printed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf import json_format, message_factory
from google.rpc import error_details_pb2
from services.oltp.tests.rows import new_lead
from services.queue.tests.rows import enqueue_request, new_job
from tests.contract import (
    test_content_content_service,
    test_notifications_notification_service,
    test_olap_report_service,
    test_oltp_lead_service,
    test_queue_queue_service,
)
from tests.contract.cases import Case
from tests.contract.harness import ServiceContract
from tests.contract.test_completeness import SERVICES
from tests.contract.test_tier_key_service import SERVICE as KEY_SERVICE
from tests.contract.test_tier_key_service import SOURCES
from tests.contract.tiers import TIERS, Tiers
from tests.contract.wire import World, method_at, right_token

from penguin.oltp.v1 import lead_service_pb2

ROOT = Path(__file__).parents[2]
BUF = str(ROOT / ".venv" / "bin" / "buf")
FLAGS = ("--protocol", "grpc", "--http2-prior-knowledge")
DEADLINE_S = 30.0
# buf's exit code is the gRPC status, shifted.
UNAUTHENTICATED = 16 << 3
PERMISSION_DENIED = 7 << 3
# One read of each tier, by its contract's case.
READS: dict[str, tuple[type[ServiceContract], str]] = {
    "oltp": (test_oltp_lead_service.TestLeadService, "ListLeads"),
    "content": (test_content_content_service.TestContentService, "GetContent"),
    "olap": (test_olap_report_service.TestReportService, "GetBillingReport"),
    "queue": (test_queue_queue_service.TestQueueService, "GetQueueStats"),
    "notifications": (test_notifications_notification_service.TestNotificationService, "ListNotifications"),
}
MARK = "<!-- examples: run by tests/contract/test_buf_curl.py as printed -->"
TOKEN = re.compile(r'^ *-H "authorization: .*\\\n', re.MULTILINE)
OWN_ID = r"\"$PENGUIN_TENANT\""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """The refusal's one reason, from its ErrorInfo."""
        infos = [d["value"] for d in json.loads(self.err)["details"] if d["type"] == "google.rpc.ErrorInfo"]
        assert len(infos) == 1, self.err
        return str(error_details_pb2.ErrorInfo.FromString(base64.b64decode(infos[0] + "==")).reason)


async def run(*command: str, **environment: str) -> Ended:
    """Run a command to its end; the servers are in this process, which must not wait for it."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def curl(address: str, path: str, request: Any, token: str | None) -> Ended:
    """Call a method as a person would, with JSON."""
    bearer = () if token is None else ("-H", f"authorization: Bearer {token}")
    data = json_format.MessageToJson(request, indent=None)
    return await run(BUF, "curl", *FLAGS, *bearer, "-d", data, f"http://{address}/{path}")


def refused(ended: Ended, code: int, reason: str) -> None:
    """The call was refused so, and told nothing."""
    assert (ended.code, ended.reason, ended.out) == (code, reason, "")


@pytest.mark.parametrize("tier", TIERS, scope="session")
async def test_reflection_lists_every_service_of_a_tier(tier: str, tiers: Tiers) -> None:
    await tiers.client(tier)
    listed = await run(BUF, "curl", *FLAGS, "--list-services", f"http://{tiers.addresses[tier]}")
    assert (listed.code, listed.err) == (0, "")
    own = {s.full_name for s in SERVICES if s.full_name.split(".")[1] in {tier, "tier"}}
    if tier not in SOURCES:
        own.remove(KEY_SERVICE)  # it holds no keys
    assert {name for name in listed.out.split() if name.startswith("penguin.")} == own
    assert "grpc.health.v1.Health" in listed.out


@pytest.mark.parametrize("tier", TIERS, scope="session")
async def test_a_tier_answers_its_tenant_and_nobody_else(tier: str, tiers: Tiers, world: World) -> None:
    contract, method = READS[tier]
    case: Case = next(case for case in contract.cases if case.method == method)
    request, path = await case.build(world), f"{contract.service}/{method}"
    address, token = tiers.addresses[tier], right_token(world, method_at(path), request)

    answered = await curl(address, path, request, token)
    assert (answered.code, answered.err) == (0, "")
    reply = message_factory.GetMessageClass(method_at(path).output_type)()
    case.check(request, json_format.Parse(answered.out, reply))

    refused(await curl(address, path, request, None), UNAUTHENTICATED, "TOKEN_MISSING")
    request.tenant_id = str(world.stranger)
    refused(await curl(address, path, request, token), PERMISSION_DENIED, "TENANT_MISMATCH")


def examples() -> list[str]:
    """The README's examples: the `sh` blocks below the mark, up to the next heading."""
    _, marked, below = (ROOT / "README.md").read_text().partition(MARK)
    assert marked, "the README's examples are not marked"
    return re.findall(r"^```sh\n(.*?)^```$", below.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


@pytest.fixture
async def surroundings(tiers: Tiers, issuer_root: Path, new_tenant: Callable[[str], Awaitable[UUID]]) -> dict[str, str]:
    """What `penguin env` would tell, and a tenant with something to see."""
    tenant = await new_tenant("oltp")
    worlds = {tier: World(await tiers.client(tier), tenant, tenant, lambda: tiers.database("oltp")) for tier in TIERS}
    leads = [new_lead() for _ in range(3)]
    request = lead_service_pb2.BatchCreateLeadsRequest(tenant_id=str(tenant), leads=leads)
    await worlds["oltp"].call("penguin.oltp.v1.LeadService/BatchCreateLeads", request)
    await worlds["queue"].call("penguin.queue.v1.QueueService/EnqueueJobs", enqueue_request(tenant, new_job()))
    addresses = {f"{tier.upper()}_ADDR": tiers.addresses[tier] for tier in TIERS}
    return {"PENGUIN_TENANT": str(tenant), "PENGUIN_ROOT": str(issuer_root), **addresses}


@pytest.mark.parametrize("example", examples(), ids=lambda text: text.splitlines()[0].lstrip("# "))
async def test_the_readmes_examples_do_what_they_say(example: str, surroundings: dict[str, str]) -> None:
    def play(text: str) -> Awaitable[Ended]:
        return run("bash", "-euo", "pipefail", "-c", text, **surroundings)

    answered = await play(example)
    assert (answered.code, answered.err) == (0, "")
    assert answered.out.strip() not in {"", "{}"}
    if "authorization" not in example:
        return
    assert isinstance(json.loads(answered.out), dict)
    nobody, n = TOKEN.subn("", example)
    assert n == 1
    refused(await play(nobody), UNAUTHENTICATED, "TOKEN_MISSING")
    assert OWN_ID in example
    anothers = example.replace(OWN_ID, rf"\"{uuid4()}\"")
    refused(await play(anothers), PERMISSION_DENIED, "TENANT_MISMATCH")


def test_the_readme_has_examples_of_both_kinds() -> None:
    assert len(examples()) >= 3
    assert any("--list-services" in example for example in examples())
    assert sum("authorization" in example for example in examples()) >= 2
