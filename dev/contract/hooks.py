"""What Schemathesis must not send, or must send differently."""

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
    """The coverage phase generates only headers of letters and digits: if none of these is valid, it adds an invalid
    one to cases that it expects to succeed. This removes it from them."""
    if case.meta.generation.mode == GenerationMode.POSITIVE:
        header = case.meta.components.get(ParameterLocation.HEADER)
        tags = [case.headers.get(name, "*") for name in ("If-Match", "If-None-Match")]
        if header and header.mode != GenerationMode.POSITIVE or any('"' not in tag != "*" for tag in tags):
            case.headers.clear()
    return case


def refused_by_watch(case) -> bool:
    """`cargo lambda watch` itself returns 500 for anything that is not UTF-8, before a function sees it."""
    sent = [value.encode("latin-1") for value in case.headers.values()]
    if isinstance(case.body, bytes):
        sent.append(case.body)
    try:
        b"\n".join(sent).decode()
    except UnicodeDecodeError:
        return True
    return False


def beyond_patterns(case) -> bool:
    """Patterns that mean the same in every language are weaker than the rules that they represent."""
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
    """JSON Schema considers 30.0 an integer; this API deliberately doesn't."""
    age = body.get("age") if isinstance(body, dict) else None
    return isinstance(age, float) and age.is_integer()
