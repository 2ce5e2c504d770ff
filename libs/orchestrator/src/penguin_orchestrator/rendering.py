"""Renders templates for leads. Templates are tenants' own text: merge fields, a few filters and `if`, and nothing that
computes: no loops, calls, arithmetic or attribute access, so that no template can cost more than its own length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, Template, TemplateError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FILTERS = frozenset({"default", "upper", "lower", "title", "capitalize", "trim"})
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Filter, nodes.If, nodes.Not,
    nodes.And, nodes.Or, nodes.Test, nodes.Compare, nodes.Operand,
)  # fmt: skip


class TemplateInvalidError(Exception):
    """The template cannot be used; the text says where and why, in words for its author."""


@dataclass(frozen=True)
class Rendered:
    """One lead's subject and body."""

    subject: str
    text: str
    html: str


def _environment(*, escape: bool) -> Environment:
    return ImmutableSandboxedEnvironment(autoescape=escape, undefined=Undefined, keep_trailing_newline=True)


class Renderer:
    """A template compiled once: subject and text as they are, HTML with merge fields escaped. Unknown fields are empty."""

    def __init__(self, subject: str, text: str, html: str) -> None:
        plain, escaped = _environment(escape=False), _environment(escape=True)
        self._subject = _compile(plain, subject, "subject")
        self._text = _compile(plain, text, "text")
        self._html = _compile(escaped, html, "html")

    def render(self, fields: Mapping[str, str]) -> Rendered:
        """Fill in one lead's fields; line breaks never reach the subject."""
        subject = " ".join(self._subject.render(fields).split())
        return Rendered(subject, self._text.render(fields), self._html.render(fields))


def _compile(environment: Environment, source: str, part: str) -> Template:
    try:
        tree = environment.parse(source)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, _ALLOWED):
                raise TemplateInvalidError(f"{part}, line {node.lineno}: {type(node).__name__} is not allowed.")
            if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
                raise TemplateInvalidError(f"{part}, line {node.lineno}: there is no filter {node.name!r}.")
        return environment.from_string(source)
    except TemplateError as error:
        raise TemplateInvalidError(f"{part}, line {getattr(error, 'lineno', 1)}: {error.message}") from None
