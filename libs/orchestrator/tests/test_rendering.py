"""Templates are other people's text: they fill in fields, and do nothing else."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguin_orchestrator.rendering import Rendered, Renderer, TemplateInvalidError


def render(source: str, **fields: str) -> Rendered:
    return Renderer(source, source, source).render(fields)


def test_fields_are_filled_in_and_escaped_where_it_is_html() -> None:
    rendered = render("Dear {{ name }}", name='<b>Ada</b> & "Co"')
    assert rendered.subject == rendered.text == 'Dear <b>Ada</b> & "Co"'
    assert rendered.html == "Dear &lt;b&gt;Ada&lt;/b&gt; &amp; &#34;Co&#34;"


def test_a_field_is_never_a_template_itself() -> None:
    assert render("{{ name }}", name="{{ 7 * 7 }}{% for x in y %}").text == "{{ 7 * 7 }}{% for x in y %}"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("[{{ unknown }}]", "[]"),
        ("[{{ empty }}]", "[]"),
        ("{{ unknown|default('there') }}", "there"),
        # A lead whose first name was left empty has none.
        ("{{ empty|default('there') }}", "there"),
        ("{{ empty|default('there', true) }}", "there"),
        ("{{ name|upper|trim }}", "ADA"),
        ("{{ name|trim('A') }}", "da"),
        ("{% if empty %}a{% else %}b{% endif %}", "b"),
        ("{% if empty is defined %}a{% else %}b{% endif %}", "b"),
        ("{% if name == 'Ada' and not unknown %}yes{% elif name != 'x' %}no{% endif %}", "yes"),
        ("{# a comment #}{{ 'constant' }}", "constant"),
        ("line\n", "line\n"),
    ],
)
def test_what_templates_may_do(source: str, text: str) -> None:
    assert render(source, name="Ada", empty="").text == text


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in y %}{% endfor %}",
        "{% set x = 1 %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% raw %}{{ x }}{% endraw %}{{ x() }}",
        "{{ range(10) }}",
        "{{ name.upper() }}",
        "{{ name.__class__ }}",
        "{{ name['__class__'] }}",
        "{{ name[0:3] }}",
        "{{ 'a' * 100000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 1 + 1 }}",
        "{{ -name }}",
        "{{ 'a' ~ 'b' }}",
        "{{ [1, 2] }}",
        "{{ {'a': 1} }}",
        "{{ (1, 2) }}",
        "{{ name|center(100000000) }}",
        "{{ name|safe }}",
        "{{ name|e }}",
        "{{ name|format }}",
        "{{ name|no_such_filter }}",
        "{{ name is divisibleby(0) }}",
        "{{ name is string }}",
        "{{ name is no_such_test }}",
        "{% if name > 5 %}{% endif %}",
        "{% if 'a' in name %}{% endif %}",
        "{{ name if name }}",
        "{% filter upper %}x{% endfilter %}",
        "{% autoescape false %}{{ name }}{% endautoescape %}",
        "{% with x = 1 %}{% endwith %}",
        "{% call x() %}{% endcall %}",
        "{{ name",
        "{% if name %}",
        "{{ }}",
        "{% no_such_tag %}",
        "{{ " + "(" * 3000 + "name" + ")" * 3000 + " }}",
        "{% if name %}" * 120 + "x" + "{% endif %}" * 120,
    ],
)
def test_what_templates_may_not_do(source: str) -> None:
    for parts in ((source, "", ""), ("", source, ""), ("", "", source)):
        with pytest.raises(TemplateInvalidError) as caught:
            Renderer(*parts)
        assert len(str(caught.value)) < 300


def test_the_error_says_where() -> None:
    with pytest.raises(TemplateInvalidError, match="html, line 3: For is not allowed"):
        Renderer("", "", "one\ntwo\n{% for x in y %}{% endfor %}")


@pytest.mark.parametrize(
    "filled_in",
    [
        "name|upper(1)", "name|trim(5)", "name|trim(name)", "name|trim('a', 'b')", "name|default('a', true, 1)",
        "name|trim(*name)", "name|trim(**name)", "name is defined(1)", "0x" + "f" * 5000,
    ],
)  # fmt: skip
def test_what_cannot_be_filled_in_is_refused_before_anybody_tries(filled_in: str) -> None:
    with pytest.raises(TemplateInvalidError, match=r"^text, line 1: [^\n]*\.$"):
        Renderer("", f"{{% if unknown %}}{{{{ {filled_in} }}}}{{% endif %}}", "")


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_line_break_reaches_a_subject(break_: str) -> None:
    rendered = Renderer("Hello {{ name }}", "", "").render({"name": f"Ada{break_}Bcc: all@example.com"})
    assert rendered.subject == "Hello Ada Bcc: all@example.com"
    assert Renderer(f"a{break_}b", "", "").render({}).subject == "a b"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_whatever_is_written_is_rendered_or_refused(source: str, fields: dict[str, str]) -> None:
    try:
        renderer = Renderer(source, source, source)
    except TemplateInvalidError:
        return
    rendered = renderer.render(fields)
    assert len(rendered.subject.splitlines()) <= 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["{{", "}}", "{%", "%}", "if", "else", "endif", "name", "|", "default", "'x'", "==", "is", "defined", "not",
             "(", ")", "1", ",", " ", "and", "upper", "~", "*", "."]
        ),
        max_size=14,
    )
)  # fmt: skip
def test_whatever_is_put_together_is_rendered_or_refused(parts: list[str]) -> None:
    try:
        renderer = Renderer(" ".join(parts), "", "")
    except TemplateInvalidError:
        return
    renderer.render({"name": "Ada"})


VALUES = st.sampled_from(["name", "unknown", "'x'", "1", "1.5", "true", "none"])
FILTERED = st.builds(
    lambda value, filters: "|".join([value, *filters]),
    VALUES,
    st.lists(
        st.builds(
            lambda name, given: f"{name}({', '.join(given)})",
            st.sampled_from(["default", "upper", "lower", "title", "capitalize", "trim"]),
            st.lists(VALUES, max_size=3),
        ),
        max_size=3,
    ),
)


@settings(max_examples=200, deadline=None)
@given(FILTERED)
def test_whatever_a_filter_is_given_is_filled_in_or_refused(filtered: str) -> None:
    source = f"{{{{ {filtered} }}}}"
    try:
        renderer = Renderer(source, source, source)
    except TemplateInvalidError:
        return
    for fields in ({"name": "Ada"}, {}):
        renderer.render(fields)


def test_a_template_costs_no_more_than_its_length() -> None:
    source = "{{ name|upper|lower|title|trim }}" * 500
    renderer = Renderer("s", source, source)
    started = time.perf_counter()
    renderer.render({"name": "x" * 1000})
    assert time.perf_counter() - started < 2
