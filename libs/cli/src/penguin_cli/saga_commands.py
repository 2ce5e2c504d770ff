"""`saga`: acts that cross tiers, where each stands, and a hand for those that are stuck. Each command is one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin_chassis.wire import number, word
from penguin_cli.charts import ids
from penguin_cli.lookups import DEADLINE_S, PAGE, TenantName, each, id_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import act, root_of, screen
from penguin_orchestrator import keys

_STYLE = {
    "stuck": "bold red",
    "compensating": "yellow",
    "compensated": "yellow",
    "abandoned": "yellow",
    "running": "cyan",
}


class State(StrEnum):
    """Where a saga can stand."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    SUCCEEDED = "succeeded"
    COMPENSATED = "compensated"
    STUCK = "stuck"
    ABANDONED = "abandoned"


SagaId = Annotated[str, typer.Argument(help="The saga's id.", metavar="ID")]
Reason = Annotated[str, typer.Option(help="Why; kept with the saga, along with who.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Sagas: acts that cross tiers, and those that are stuck.", no_args_is_help=True)
    for name, command in (("list", list_), ("show", show), ("retry", retry), ("skip", skip)):
        group.command(name)(command)
    app.add_typer(group, name="saga", rich_help_panel="Operations")


def list_(
    context: typer.Context,
    tenant: Annotated[
        str, typer.Option("--tenant", "-t", help="Only this tenant's, by id or name.", metavar="TENANT")
    ] = "",
    state: Annotated[State | None, typer.Option(help="Only this state.", show_default="all")] = None,
    kind: Annotated[str, typer.Option(help="Only this kind, for example tenant.onboard.")] = "",
) -> None:
    """List sagas, the oldest first."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            request = pb.ListSagasRequest(page_size=PAGE, kind=kind, state=number(pb.SagaState, state))
            if tenant:
                request.tenant_id = str(await tenant_of(penguin, tenant))
            oltp = penguin.tiers["oltp"]
            found = [saga async for saga in each(oltp, oltp.stub(SagaServiceStub).ListSagas, request, "sagas")]
        screen().print(table(found))

    act(work())


def _ask(context: typer.Context, tenant: str, saga: str, method: str, draw: Callable[[Any], RenderableType],
         **fields: Any) -> None:  # fmt: skip
    """Call one of the service's methods for the saga, and show what is drawn of its answer."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            request = getattr(pb, f"{method}Request")(
                tenant_id=str(await tenant_of(penguin, tenant)), saga_id=str(id_of(saga, "saga")), **fields
            )
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = str(keys.new_id())
            oltp = penguin.tiers["oltp"]
            answer = await oltp.insist(getattr(oltp.stub(SagaServiceStub), method), request, deadline_s=DEADLINE_S)
        screen().print(draw(answer.saga))

    act(work())


def show(context: typer.Context, saga: SagaId, tenant: TenantName) -> None:
    """Show a saga with its steps: what each was asked, how often, and what came of it."""
    _ask(context, tenant, saga, "GetSaga", facts)


def retry(context: typer.Context, saga: SagaId, tenant: TenantName, reason: Reason) -> None:
    """Let a stuck saga go on where it stood; the relay's process takes it up within seconds."""
    _ask(context, tenant, saga, "RetrySaga", _said, reason=reason)


def skip(
    context: typer.Context,
    saga: SagaId,
    step: Annotated[str, typer.Argument(help="The step that was seen to by hand.", metavar="STEP")],
    tenant: TenantName,
    reason: Reason,
    compensation: Annotated[bool, typer.Option("--compensation", help="Its undoing, rather than its action.")] = False,
) -> None:
    """Take a step of a stuck saga for done, and let the saga go on."""
    operation = number(pb.SagaOperation, "compensation" if compensation else "action")
    _ask(context, tenant, saga, "SkipSagaStep", _said, step=step, operation=operation, reason=reason)


def table(rows: Sequence[pb.Saga]) -> RenderableType:
    """One line a saga."""
    if not rows:
        return Text("no sagas", style="dim")
    lines = Table(ids("id"), "kind", "state", ids("tenant"), "begun", "rounds", "last error", box=None, header_style="dim",
                  pad_edge=False)  # fmt: skip
    for row in rows:
        lines.add_row(
            row.id, f"{escape(row.kind)}/{row.version}", _state(row), row.tenant_id, _at(row.created_at),
            str(row.attempts or ""), escape(row.last_error),
        )  # fmt: skip
    return lines


def facts(row: pb.Saga) -> RenderableType:
    """All that is known of one saga."""
    lines = Table("", "", box=None, show_header=False, pad_edge=False)
    lines.columns[0].style = "dim"
    owner = f"{escape(row.owner)} until {_at(row.owned_until)}" if row.HasField("owned_until") else "nobody"
    known = {
        "saga": f"{row.id}, {escape(row.kind)} version {row.version}",
        "tenant": row.tenant_id,
        "subject": escape(row.subject),
        "state": _state(row),
        "input": escape(_json(row.input)),
        "owner": f"{owner}, the {row.owner_epoch}. in turn",
        "due": _at(row.due_at) if row.HasField("due_at") else "",
        "rounds": str(row.attempts or ""),
        "left without a word": f"{row.takeovers} times" if row.takeovers else "",
        "last error": escape(row.last_error),
        "begun": _at(row.created_at),
        "finished": _at(row.finished_at) if row.HasField("finished_at") else "",
        "by hand": escape(f"{row.actor}: {row.reason}") if row.reason else "",
    }
    for name, value in known.items():
        if value:
            lines.add_row(name, value)
    steps = Table("step", "", "state", "tries", "begun", "last word", "last error", box=None, header_style="dim",
                  pad_edge=False)  # fmt: skip
    for step in row.steps:
        steps.add_row(
            escape(step.step), "undo" if step.operation == pb.SAGA_OPERATION_COMPENSATION else "",
            word(pb.SagaStepState, step.state), str(step.attempts), _at(step.begun_at), _at(step.updated_at),
            escape(f"{step.actor}: {step.reason}" if step.reason else step.last_error),
        )  # fmt: skip
    return Group(lines, Text(), steps)


def _said(row: pb.Saga) -> Text:
    return Text.from_markup(f"{row.id}: {_state(row)}")


def _state(row: pb.Saga) -> str:
    state = word(pb.SagaState, row.state)
    return f"[{_STYLE[state]}]{state}[/]" if state in _STYLE else state


def _json(text: bytes) -> str:
    return orjson.dumps(orjson.loads(text or b"{}")).decode()


def _at(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
