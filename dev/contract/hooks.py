"""What Schemathesis does not send, or not so."""

import re
import unicodedata

import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation


@schemathesis.hook
def filter_case(context, case) -> bool:
    return not (refused_by_watch(case) or beyond_patterns(case) or whole_float(case.body))


@schemathesis.hook
def map_case(context, case):
    """The coverage phase knows only headers of letters and digits: where none is valid, it takes an invalid one along
    in cases that it expects to succeed. They do without."""
    if case.meta.generation.mode == GenerationMode.POSITIVE:
        header = case.meta.components.get(ParameterLocation.HEADER)
        tags = [case.headers.get(name, "*") for name in ("If-Match", "If-None-Match")]
        if header and header.mode != GenerationMode.POSITIVE or any('"' not in tag != "*" for tag in tags):
            case.headers.clear()
    return case


def refused_by_watch(case) -> bool:
    """`cargo lambda watch` itself answers 500 to what is not UTF-8, before any function sees it."""
    sent = [value.encode("latin-1") for value in case.headers.values()]
    if isinstance(case.body, bytes):
        sent.append(case.body)
    try:
        b"\n".join(sent).decode()
    except UnicodeDecodeError:
        return True
    return False


def beyond_patterns(case) -> bool:
    """A pattern that means the same in every language is weaker than the rule that it stands for."""
    name = case.body.get("name") if isinstance(case.body, dict) else None
    if isinstance(name, str) and name:
        control = any(unicodedata.category(character) == "Cc" for character in name)
        if control or not name.strip():
            return True
    key = case.headers.get("Idempotency-Key", "")
    quoted = re.fullmatch(r'"((?:[ !#-\[\]-~]|\\["\\])+)"', key)
    content = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else key
    return len(content) > 255 or (key.startswith('"') and not quoted)


def whole_float(body) -> bool:
    """JSON Schema takes 30.0 for an integer; this API, on purpose, doesn't."""
    age = body.get("age") if isinstance(body, dict) else None
    return isinstance(age, float) and age.is_integer()
