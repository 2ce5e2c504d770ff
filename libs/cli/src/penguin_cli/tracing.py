"""`trace`: one email's whole way across the tiers, from the local span store. Spans of other emails that went in the same
batches are left out. The store is a window for debugging: an old trace may be gone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape
from rich.tree import Tree

from penguin_cli.lookups import id_of
from penguin_cli.surroundings import CommandError, root_of, screen, told
from penguin_devstack.spans import StoredSpan, find_traces, spans_of_trace, traces_linking_to
from penguin_devstack.stack import LocalStack

EMAIL_ID = "penguin.email_id"
_TRACES = 50
# So many calls of one kind below one span are shown each; of more, the first.
_ALIKE = 3
# How long a trace is waited for (seconds).
SETTLE_S = 3.0
# Exporters send twice a second: what followed its newest span at once has been stored after so long (seconds).
_QUIET_S = 1.5
_STYLES = {
    "penguin-oltp": "cyan", "penguin-content": "magenta", "penguin-queue": "yellow", "penguin-notifications": "blue",
    "penguin-olap": "green", "penguin-relay": "bright_black", "penguin-worker": "bright_green",
}  # fmt: skip


@dataclass
class Node:
    """A span with what happened below it. `linked` says that another trace was entered through a link."""

    span: StoredSpan
    linked: bool = False
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterable[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="What became of it")(trace)


def trace(
    context: typer.Context,
    email: Annotated[str, typer.Argument(help="The email's id.")],
    wait: Annotated[
        float, typer.Option(min=0, max=60, help="Wait at most so many seconds until it is whole.")
    ] = SETTLE_S,
) -> None:
    """Show one email's whole way across the tiers as a tree, with offsets and durations.

    Read from the local stack's own spans, whoever's the email is: they hold ids and times, no addresses and no bodies.
    """
    with told():
        show(LocalStack(root_of(context)).otlp_store, id_of(email, "email"), wait)


def show(store: Path, email_id: UUID, wait_s: float) -> None:
    """Print the tree. Raises CommandError where nothing is known of the email."""
    roots = settled(store, email_id, wait_s)
    if not roots:
        raise CommandError(
            f"no trace of email {email_id} is stored; only the newest are kept, and only what ran while the stack was up"
        )
    screen().print(drawn(email_id, roots))


def settled(store: Path, email_id: UUID, wait_s: float) -> list[Node]:
    """As way_of(), once nothing has been added for a moment; as it stands after `wait_s` seconds at the latest."""
    ends = time.monotonic() + wait_s
    while True:
        roots = way_of(store, email_id)
        newest = max((node.span.end_ns for root in roots for node in root.walk()), default=None)
        quiet = newest is not None and time.time_ns() - newest > _QUIET_S * 1e9
        if quiet or time.monotonic() >= ends:
            return roots
        time.sleep(0.1)


def way_of(store: Path, email_id: UUID) -> list[Node]:
    """The email's spans as trees, earliest first. Of traces that others began (a relay's or worker's turn for many), only
    the part that concerns it is joined on, below what that part links to."""
    found = {
        trace_id: spans_of_trace(store, trace_id) for trace_id in find_traces(store, EMAIL_ID, str(email_id), _TRACES)
    }
    own = {trace_id for trace_id, spans in found.items() if _is_own(spans, str(email_id))} or set(found)
    for trace_id in own:
        for linking in traces_linking_to(store, trace_id, _TRACES):
            if linking not in found:
                found[linking] = spans_of_trace(store, linking)
    spans: dict[str, StoredSpan] = {}
    for trace_id, all_of_it in found.items():
        part = all_of_it if trace_id in own else _joined_part(all_of_it, own, str(email_id))
        spans |= {span.span_id: span for span in part}
    return assemble(list(spans.values()), own, str(email_id))


def _is_own(spans: Sequence[StoredSpan], email_id: str) -> bool:
    """Whether a trace is the email's own: it began with it, or did something for it alone."""
    return any(
        named == [email_id] or (span.parent_span_id is None and email_id in named)
        for span in spans
        if (named := emails_of(span))
    )


def _joined_part(spans: Sequence[StoredSpan], own: set[str], email_id: str) -> list[StoredSpan]:
    """Of another's trace, the spans that name the email or (naming none) link to its own, and what is below them."""
    wanted = {
        span.span_id
        for span in spans
        if email_id in (named := emails_of(span)) or (not named and any(link.trace_id in own for link in span.links))
    }
    grew = True
    while grew:
        below = {span.span_id for span in spans if span.parent_span_id in wanted}
        grew = not below <= wanted
        wanted |= below
    return [span for span in spans if span.span_id in wanted]


def assemble(spans: Sequence[StoredSpan], own: set[str], email_id: str) -> list[Node]:
    """Trees of the spans that concern the email: a subtree that names other emails only is left out."""
    known = {span.span_id for span in spans}
    below: dict[str | None, list[StoredSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_ns):
        below[_parent(span, known, own)].append(span)

    def nodes(parent: str | None) -> list[Node]:
        return [
            Node(span, span.trace_id not in own and span.parent_span_id not in known, nodes(span.span_id))
            for span in below.get(parent, ())
            if concerns(span, email_id)
        ]

    return nodes(None)


def _parent(span: StoredSpan, known: set[str], own: set[str]) -> str | None:
    if span.parent_span_id in known:
        return span.parent_span_id
    return next((link.span_id for link in span.links if link.trace_id in own and link.span_id in known), None)


def concerns(span: StoredSpan, email_id: str) -> bool:
    """Whether a span is of this email, or of no email in particular."""
    named = emails_of(span)
    return not named or email_id in named


def emails_of(span: StoredSpan) -> list[str]:
    """The emails that a span names."""
    named: Any = span.attributes.get(EMAIL_ID, [])
    return [str(each) for each in named] if isinstance(named, list) else [str(named)]


def drawn(email_id: UUID, roots: Sequence[Node]) -> Tree:
    """The trees with offsets from the first span's start, and durations."""
    every = [node for root in roots for node in root.walk()]
    begun = min(node.span.start_ns for node in every)
    ended = max(node.span.end_ns for node in every)
    services = len({node.span.service for node in every})
    tree = Tree(
        f"[bold]email {email_id}[/]: {len(every)} spans of {services} processes within {_ms(ended - begun)}",
        guide_style="dim",
    )
    for root in roots:
        _grow(tree, root, begun)
    return tree


def _grow(tree: Tree, node: Node, begun: int) -> None:
    branch = tree.add(_line(node, begun))
    alike: dict[tuple[str, str, str], list[Node]] = defaultdict(list)
    for child in node.children:
        alike[child.span.service, child.span.name, child.span.kind].append(child)
    shown = {id(child) for group in alike.values() for child in group[: len(group) if len(group) <= _ALIKE else 1]}
    for child in node.children:
        if id(child) in shown:
            _grow(branch, child, begun)
            _rest(branch, alike[child.span.service, child.span.name, child.span.kind])


def _rest(branch: Tree, group: list[Node]) -> None:
    """A batch acknowledges many times: one line for the calls like the one shown."""
    if len(group) > _ALIKE:
        together = sum(node.span.end_ns - node.span.start_ns for node in group[1:])
        branch.add(f"[dim]… {len(group) - 1} more of these, {_ms(together)} together[/]")


def _line(node: Node, begun: int) -> str:
    span = node.span
    service = span.service.removeprefix("penguin-")
    style = _STYLES.get(span.service, "white")
    words = f"[{style}]{escape(service)}[/] {escape(_name(span.name))}"
    times = f"[dim]+{_ms(span.start_ns - begun)}[/] [bold]{_ms(span.end_ns - span.start_ns)}[/]"
    failure = f" [bold red]{escape(span.status_message or 'error')}[/]" if span.status == "error" else ""
    joined = " [dim](in a trace of its own, for many)[/]" if node.linked else ""
    kind = f" [dim]{span.kind}[/]" if span.kind in ("client", "server") else ""
    return f"{words}{kind}  {times}{joined}{failure}"


def _name(name: str) -> str:
    """`penguin.oltp.v1.EmailService/GetEmail` is long: its last part says it."""
    stripped = name.lstrip("/")
    return stripped.rpartition(".")[2] if stripped.startswith("penguin.") and "/" in stripped else stripped


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f} ms" if nanoseconds < 10**10 else f"{nanoseconds / 1e9:.1f} s"
