"""Renders templates for leads. Templates are tenants' own text: merge fields, a few filters and `if`, and nothing that
computes: no loops, calls, arithmetic or attribute access, so that no template can cost more than its own length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, Template, TemplateError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

# With how many arguments at most.
_FILTERS = {"default": 2, "upper": 0, "lower": 0, "title": 0, "capitalize": 0, "trim": 1}
_TESTS = frozenset({"defined", "undefined"})
# Fields are texts: they are the same or not, and have no order.
_COMPARISONS = frozenset({"eq", "ne"})
NUMBER_BITS = 64
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
    """A template compiled once: subject and text as they are, HTML with merge fields escaped.

    A field that is unknown, or empty, is nothing: `default` stands in for it. Raises TemplateInvalidError for whatever could not
    be filled in, in any branch: by the time it is, a campaign runs, and nobody is there to mend it.
    """

    def __init__(self, subject: str, text: str, html: str) -> None:
        plain, escaped = _environment(escape=False), _environment(escape=True)
        self._subject = _compile(plain, subject, "subject")
        self._text = _compile(plain, text, "text")
        self._html = _compile(escaped, html, "html")

    def render(self, fields: Mapping[str, str]) -> Rendered:
        """Fill in one lead's fields; line breaks never reach the subject. Raises TemplateInvalidError."""
        known = {name: value for name, value in fields.items() if value}
        subject = " ".join(_filled(self._subject, known, "subject").split())
        return Rendered(subject, _filled(self._text, known, "text"), _filled(self._html, known, "html"))


def _filled(template: Template, fields: Mapping[str, str], part: str) -> str:
    try:
        return template.render(fields)
    except (TemplateError, TypeError, ValueError) as error:
        raise TemplateInvalidError(f"{part}: it cannot be filled in ({type(error).__name__}).") from None


def _compile(environment: Environment, source: str, part: str) -> Template:
    try:
        tree = environment.parse(source)
        for node in tree.find_all(nodes.Node):
            if (refusal := _refusal(node)) is not None:
                raise TemplateInvalidError(f"{part}, line {node.lineno}: {refusal}")
        return environment.from_string(source)
    except TemplateError as error:
        raise TemplateInvalidError(f"{part}, line {getattr(error, 'lineno', 1)}: {error.message}") from None
    except (RecursionError, SyntaxError, MemoryError, ValueError):
        raise TemplateInvalidError(f"{part}: it is nested too deeply, or cannot be read.") from None


def _refusal(node: nodes.Node) -> str | None:
    """Why this part of a template is not allowed."""
    if not isinstance(node, _ALLOWED):
        return f"{type(node).__name__} is not allowed."
    if isinstance(node, nodes.Filter):
        return _refused_filter(node)
    if isinstance(node, nodes.Test):
        return _refused_test(node)
    if isinstance(node, nodes.Const) and isinstance(node.value, int) and node.value.bit_length() > NUMBER_BITS:
        return "a number is too long."
    if isinstance(node, nodes.Operand) and node.op not in _COMPARISONS:
        return "fields can be compared with == and != only."
    return None


def _refused_filter(node: nodes.Filter) -> str | None:
    if node.name not in _FILTERS:
        return f"there is no filter {node.name!r}."
    if len(node.args) > _FILTERS[node.name] or node.dyn_args is not None or node.dyn_kwargs is not None:
        return f"the filter {node.name!r} takes fewer arguments."
    if node.name == "trim" and not all(
        isinstance(arg, nodes.Const) and isinstance(arg.value, str) for arg in node.args
    ):
        return "the filter 'trim' takes a text in quotes."
    return None


def _refused_test(node: nodes.Test) -> str | None:
    if node.name not in _TESTS:
        return f"there is no test {node.name!r}."
    if node.args or node.dyn_args is not None or node.dyn_kwargs is not None:
        return f"the test {node.name!r} takes no arguments."
    return None
